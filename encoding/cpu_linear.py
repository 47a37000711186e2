"""Linear layers for a CPU, with their weights laid out once the way oneDNN multiplies them.

torch multiplies float32 matrices with MKL, which does not use all that processors of another maker have; the same
product through oneDNN is quicker there (docs/decisions/0006 has the figures). The operator is torch's own, the one
that its compiler uses; where a build of torch is without it, layers stay as they are.
"""

from __future__ import annotations

import torch

from encoding.memory import bound_plans

_USUAL_ROWS = 2048  # tokens of a batch: a hint for the layout, not a limit


class PackedLinear(torch.nn.Module):
    """The product of a `torch.nn.Linear`, to float32 rounding."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _USUAL_ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, "none", [], "")
        return product


def use_packed_linears(model: torch.nn.Module) -> None:
    """Replace every linear layer of a model on a CPU by its packed form, in place."""
    if not (torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return
    bound_plans()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(parent, name, PackedLinear(child))
