"""Packed linear layers multiply as torch's do."""

from __future__ import annotations

import pytest
import torch

from encoding.cpu_linear import PackedLinear, use_packed_linears


@pytest.mark.parametrize("rows", [1, 7, 2048])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_gives_the_same_product(rows: int, bias: bool) -> None:
    """For any number of rows, with more dimensions than two, to float32 rounding."""
    torch.manual_seed(20)
    linear = torch.nn.Linear(48, 40, bias=bias)
    states = torch.randn(2, rows, 48)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(states), linear(states), atol=1e-5, rtol=1e-5)


def test_every_linear_layer_of_a_model_is_replaced() -> None:
    """Nested ones too; other layers stay. Were torch to lose the operator, this would say so."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Sequential(torch.nn.GELU(), torch.nn.Linear(8, 8)))
    use_packed_linears(model)
    assert [type(one).__name__ for one in model.modules()] == [
        "Sequential", "PackedLinear", "Sequential", "GELU", "PackedLinear",
    ]  # fmt: skip
