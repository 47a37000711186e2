"""A transformer and the projections over it: tokenised texts in, one unit vector for each kept token out.

Where the model also makes one vector of a whole text, that comes first: the very embedding that
sentence-transformers gives.

float32 on a CPU, where results are compared with the peers' to 1e-4. bfloat16 on a GPU: its error lies between
those of 8 and of 4 bits a dimension (docs/decisions/0006). Projection and norm are float32 on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from encoding.batches import is_out_of_memory
from encoding.cpu_linear import use_packed_linears
from encoding.device_pooling import pool_rows
from encoding.inputs import TokenizedText
from encoding.layouts.files import (
    CONFIG,
    RUN_MODEL_CODE,
    first_line,
    model_code,
    read_json,
    tensor,
    weight_files,
)
from encoding.layouts.layout import Layout, Projection
from encoding.transfers import StartedVectors, to_device
from index_format.errors import InputError

_UNUSED = ("pooler.", "cls.", "lm_head.")  # parts of a transformer that no token vector depends on


class TokenModel:
    """One loaded model on one device. Safe to use from several threads."""

    def __init__(self, layout: Layout, device: torch.device) -> None:
        self.device = device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._whole = layout.whole
        self._markers = int(layout.keep_markers)  # vectors of tokens, in front, that are never pooled
        transformer: Any = _load_transformer(layout, dtype)  # a model of transformers, whose stubs are not followed
        self._transformer: torch.nn.Module = transformer.to(device)
        self._projections = torch.nn.Sequential(*map(_load_projection, layout.projections)).eval().to(device)
        if device.type == "cpu":
            use_packed_linears(self._transformer)
        self._folder = layout.backbone
        self._vocabulary = int(transformer.get_input_embeddings().weight.shape[0])
        self._try()

    def _try(self) -> None:
        """One token through all of it: better here than after an hour. Raises InputError where the parts do not fit."""
        try:
            self.vectors([TokenizedText(np.zeros(1, np.int64), 1, np.ones(1, bool))])
        except InputError:
            raise
        except Exception as error:  # whatever the code of some hundred architectures raises
            if is_out_of_memory(error):
                raise
            raise InputError(
                f"encoder: the parts of {self._folder} do not fit together ({first_line(error)}). "
                "Use the files as the model's package saved them, of an encoder that reads tokens alone."
            ) from error

    def vectors(self, texts: Sequence[TokenizedText]) -> list[NDArray[np.float32]]:
        """The vectors of each text, float32 [vectors, D], from one pass: the whole text's first, if there is one."""
        return self.start(texts).vectors()

    @torch.inference_mode()
    def start(self, texts: Sequence[TokenizedText], pool_factor: int = 1) -> StartedVectors:
        """Give a pass to the device, and do not wait for what `vectors` says.

        Above a `pool_factor` of 1 the tokens' vectors are pooled, on the device.
        """
        ids, attended, kept = _padded(texts)
        if int(ids.max()) >= self._vocabulary:  # on a GPU it would be the end of the process
            raise InputError(
                f"encoder: the tokenizer in {self._folder} has the token {int(ids.max())}, and the weights know "
                f"{self._vocabulary} tokens. Use the tokenizer that was saved with the model."
            )
        # Without a mask attention takes its quickest road, and texts of one length need none.
        mask = None if attended.all() else self._sent(attended.astype(np.int64))
        states = self._transformer(input_ids=self._sent(ids), attention_mask=mask).last_hidden_state
        rows = self._unit(states.flatten(0, 1)[self._sent(np.flatnonzero(kept))])
        counts = kept.sum(axis=1).tolist()
        wholes = None if self._whole is None else self._unit(self._wholes(states, attended))
        if pool_factor > 1:
            pooled, left = pool_rows(rows, counts, pool_factor, protected=self._markers)
            if wholes is not None:
                pooled = torch.cat([wholes[:, None], pooled], dim=1)
                left = torch.cat([torch.ones_like(left[:, :1]), left], dim=1)
            return StartedVectors(pooled.flatten(0, 1), left, self._folder)
        if wholes is not None:
            rows = torch.cat([wholes, rows])[self._sent(_wholes_first(counts))]
            counts = [count + 1 for count in counts]
        return StartedVectors(rows, counts, self._folder)

    def _wholes(self, states: torch.Tensor, attended: NDArray[np.bool_]) -> torch.Tensor:
        """A state of each whole text, float32 [texts, hidden]."""
        if self._whole == "cls":
            return states[:, 0].float()
        weights = self._sent(attended.astype(np.float32))[:, :, None]
        return (states.float() * weights).sum(1) / weights.sum(1)

    def _sent(self, array: NDArray[np.generic]) -> torch.Tensor:
        return to_device(array, self.device)

    def _unit(self, states: torch.Tensor) -> torch.Tensor:
        """States [n, hidden] projected and made unit vectors, float32 [n, D]."""
        return torch.nn.functional.normalize(self._projections(states.float()), dim=-1)


def _wholes_first(counts: Sequence[int]) -> NDArray[np.int64]:
    """Where each text's vectors are, the whole text's first, if those of all whole texts precede those of tokens."""
    texts = len(counts)
    starts = np.cumsum([0, *counts[:-1]])
    return np.insert(np.arange(texts, texts + sum(counts)), starts, np.arange(texts))


def _padded(texts: Sequence[TokenizedText]) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Token ids int64, and which of them are attended to and kept, bool: all [texts, longest]."""
    lengths = np.array([len(one.ids) for one in texts])
    place = np.arange(lengths.max())
    there = place < lengths[:, None]
    ids, kept = np.zeros(there.shape, np.int64), np.zeros(there.shape, bool)
    ids[there] = np.concatenate([one.ids for one in texts])
    kept[there] = np.concatenate([one.kept for one in texts])
    return ids, place < np.array([one.attended for one in texts])[:, None], kept


def _load_transformer(layout: Layout, dtype: torch.dtype) -> torch.nn.Module:
    folder = layout.backbone
    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # what of the files was not used is no news: heads, mostly
    try:
        try:
            model, loaded = _from_files(folder, dtype, "sdpa")
        except ValueError:  # an architecture without it; what is wrong otherwise is wrong again
            model, loaded = _from_files(folder, dtype, "eager")
    except Exception as error:  # whatever the code of some hundred architectures raises
        raise InputError(
            f"encoder: {folder} cannot be loaded ({first_line(error)}). The architecture must be one that "
            f"transformers has: code that comes with a model runs only where {RUN_MODEL_CODE}=1 is set, "
            "which trusts its authors with this machine."
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    missing = sorted(name for name in loaded["missing_keys"] if not name.startswith(_UNUSED))
    if missing:
        raise InputError(f"encoder: the weights in {folder} lack {', '.join(missing[:3])} ({len(missing)} in all).")
    if getattr(model, "pooler", None) is not None:
        model.pooler = _NoPooler()  # its one vector for each text would be computed for nothing
    return model.eval()


def _from_files(folder: Path, dtype: torch.dtype, attention: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The transformer, and what of its weights was not there or not used. attention: whatever the files ask for."""
    own_code = bool(model_code(folder, read_json(folder / CONFIG)))
    return AutoModel.from_pretrained(  # type: ignore[no-any-return]
        folder,
        config=AutoConfig.from_pretrained(folder, trust_remote_code=own_code),  # else what it asks for comes first
        dtype=dtype,
        attn_implementation=attention,
        use_safetensors=weight_files(folder)[0].suffix == ".safetensors",
        trust_remote_code=own_code,
        output_loading_info=True,
    )


class _NoPooler(torch.nn.Module):
    """In place of a pooler, which some architectures call without asking whether they have one."""

    def forward(self, *_: object, **_more: object) -> None:
        """Nothing."""


class _Projection(torch.nn.Module):
    """activation(linear(x)), and x itself added, projected or not, where the checkpoint has it so."""

    def __init__(self, linear: torch.nn.Module, activation: torch.nn.Module, residual: torch.nn.Module | None) -> None:
        super().__init__()
        self.linear, self.activation, self.residual = linear, activation, residual

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        projected: torch.Tensor = self.activation(self.linear(states))
        return projected if self.residual is None else projected + self.residual(states)


def _load_projection(projection: Projection) -> torch.nn.Module:
    folder = projection.folder
    weight, bias = (tensor(folder, name) for name in (projection.tensor, "linear.bias"))
    activation = getattr(torch.nn, projection.activation, None)
    if weight is None or not (isinstance(activation, type) and issubclass(activation, torch.nn.Module)):
        raise InputError(f"encoder: {folder} lacks {projection.tensor}, or torch.nn lacks {projection.activation!r}.")
    try:
        activate = activation()
    except TypeError as error:
        raise InputError(f"encoder: {folder} has the activation {projection.activation!r}, which is none.") from error
    residual: torch.nn.Module | None = None
    if projection.residual:
        across = tensor(folder, "residual.weight")
        residual = torch.nn.Identity() if across is None else _linear(across, None)
    return _Projection(_linear(weight, bias), activate, residual)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.nn.Linear:
    rows, columns = weight.shape
    made = torch.nn.Linear(columns, rows, bias=bias is not None, dtype=torch.float32)
    made.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
    if bias is not None:
        made.bias = torch.nn.Parameter(bias.float(), requires_grad=False)
    return made
