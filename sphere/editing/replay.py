"""Run the upper layers again on the tail of a batch, with everything below and before it computed once.

Rows are aligned so that the subject's last token is one column: ``[pad, prefix] [subject's last token, rest, pad]``.
A change of the hidden state at that column changes nothing in the columns before it nor in the layers below, so the
prefix's keys and values in the upper layers, the masks and the position embeddings are recorded once and reused.
The recording is of the layers' own calls, so it knows nothing of the architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from sphere.models.adapters import Adapter
from sphere.models.hooks import capture_calls, capture_output, hidden

CACHE_ARGUMENTS = ("past_key_values", "layer_past")
"""What architectures call a layer's key-value cache."""


@dataclass(frozen=True)
class Row:
    """One text and the column at which its hidden state may be changed."""

    ids: tuple[int, ...]
    pivot: int
    """Index of the subject's last token."""


class _Prefix:
    """Stands in for a layer's key-value cache: the recorded prefix, never written to."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values  # (B, heads, P, head_dim)

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)


@dataclass
class Replay:
    """A recorded batch of B rows with a tail of T columns, the first of which is the pivot."""

    tail: Tensor
    """(B, T, d) clean hidden states behind the changed layer."""
    outputs: Tensor
    """(B, d) what its MLP puts out at the pivot."""
    upper: list[nn.Module]
    arguments: list[dict[str, Any]]
    """Keyword arguments of each upper layer's call, cut to the tail."""
    prefixes: list[_Prefix]
    cache_names: list[str]

    def run(self, changed: Tensor) -> Tensor:
        """Hidden states (B, T, d) behind the last layer, with the pivot's state (B, d) replaced by ``changed``."""
        for state in self.walk(changed):  # noqa: B007 (the last is wanted)
            pass
        return state

    def walk(self, changed: Tensor) -> Iterator[Tensor]:
        """The states (B, T, d) behind the changed layer, and then behind each layer above it."""
        state = torch.cat([changed.unsqueeze(1), self.tail[:, 1:]], dim=1)
        yield state
        for layer, arguments, prefix, name in zip(
            self.upper, self.arguments, self.prefixes, self.cache_names, strict=True
        ):
            state = hidden(layer(state, **arguments, **{name: prefix}))
            yield state

    def select(self, rows: Tensor) -> Replay:
        """The same for some of the rows (int64 indices)."""
        size = self.tail.shape[0]

        def chosen(call: dict[str, Any]) -> dict[str, Any]:
            return {name: _per_row(value, size, lambda t: t[rows]) for name, value in call.items()}

        return Replay(
            self.tail[rows],
            self.outputs[rows],
            self.upper,
            [chosen(call) for call in self.arguments],
            [_Prefix(prefix.keys[rows], prefix.values[rows]) for prefix in self.prefixes],
            self.cache_names,
        )


@torch.no_grad()
def record(adapter: Adapter, rows: Sequence[Row], *, layer: int, pad: int) -> Replay:
    """One clean forward pass over ``rows``; what the layers above ``layer`` need of it is kept."""
    width = max(row.pivot for row in rows)
    tail = max(len(row.ids) - row.pivot for row in rows)
    ids = torch.full((len(rows), width + tail), pad, dtype=torch.long)
    real = torch.zeros_like(ids, dtype=torch.bool)
    for i, row in enumerate(rows):
        start = width - row.pivot
        ids[i, start : start + len(row.ids)] = torch.tensor(row.ids)
        real[i, start : start + len(row.ids)] = True
    ids, real = ids.to(adapter.device), real.to(adapter.device)
    positions = (real.cumsum(1) - 1).clamp_min(0)  # (B, S)
    mask = _attention_mask(real, adapter.dtype, window=None)  # (B, 1, S, S)

    upper = list(adapter.layers[layer + 1 :])
    cache = DynamicCache()
    with (
        _windows(adapter, real),
        capture_calls(upper) as calls,
        capture_output(adapter.layer(layer)) as states,
        capture_output(adapter.projection(layer)) as outputs,
    ):
        adapter.backbone(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )

    names = [next(name for name in CACHE_ARGUMENTS if name in call) for call in calls]
    prefixes = []
    for i in range(layer + 1, adapter.n_layers):
        stored: Any = cache.layers[i]
        prefixes.append(_Prefix(stored.keys[:, :, :width].clone(), stored.values[:, :, :width].clone()))
    arguments = [
        {
            name: _cut(name, value, len(rows), width)
            for name, value in call.items()
            if name not in ("hidden_states", cached)
        }
        for call, cached in zip(calls, names, strict=True)
    ]
    return Replay(states[0][:, width:].clone(), outputs[0][:, width].clone(), upper, arguments, prefixes, names)


@contextmanager
def _windows(adapter: Adapter, real: Tensor) -> Iterator[None]:
    """Each layer that sees a window gets its own mask: the model hands a given mask on as it is to all of them."""
    handles = []
    for i, module in enumerate(adapter.layers):
        if (window := adapter.window(i)) is not None and window < real.shape[1]:
            mask = _attention_mask(real, adapter.dtype, window=window)
            handles.append(module.register_forward_pre_hook(_masked_by(mask), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _masked_by(mask: Tensor) -> Any:
    return lambda _module, args, kwargs: (args, kwargs | {"attention_mask": mask})


def _attention_mask(real: Tensor, dtype: torch.dtype, *, window: int | None) -> Tensor:
    """Additive causal mask (B, 1, S, S), of the last ``window`` columns if given (a row's tokens stand side by side).

    A padding column sees itself alone, so that no row of it is empty.
    """
    size = real.shape[1]
    allowed = torch.ones(size, size, dtype=torch.bool, device=real.device).tril() & real.unsqueeze(1)  # (B, S, S)
    if window is not None:
        allowed = allowed & torch.ones_like(allowed).triu(1 - window)
    allowed = allowed | torch.eye(size, dtype=torch.bool, device=real.device)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=real.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min).unsqueeze(1)


def _cut(name: str, value: Any, size: int, width: int) -> Any:
    """A layer argument restricted to the tail's columns."""
    if name == "attention_mask":
        return value[:, :, width:]
    if name == "use_cache":
        return True
    return _per_row(value, size, lambda t: t[:, width:])


def _per_row(value: Any, size: int, take: Any) -> Any:
    """``take`` applied to every tensor with a row per batch row, through tuples; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(_per_row(part, size, take) for part in value)
    if isinstance(value, Tensor) and value.ndim >= 2 and value.shape[0] == size:
        return take(value)
    return value
