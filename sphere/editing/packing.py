"""Rows of different lengths as one row of their tokens alone: every product is of real tokens, and of all of them.

Layers see (1, N, d). Attention is the one place where tokens meet, and there each row is itself again, padded: an
attention function of our own, put in the place of the one that the model is set to, does it. It knows what that one
cannot: that what stands before the tails never changes, so that nothing of it is copied or differentiated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

PACKED = "sphere-packed"
"""What our attention function is called among the model library's."""


@dataclass(frozen=True)
class Layout:
    """Where the N tokens of B rows stand in a batch padded to T columns."""

    lengths: Tensor
    """(B,) int64 tokens of each row."""
    place: Tensor
    """(N,) token -> its index into the flattened (B x T)."""
    token: Tensor
    """(B, T) -> the token; the first where there is only padding."""

    @classmethod
    def of(cls, lengths: Sequence[int] | Tensor, device: torch.device) -> Layout:
        lengths = torch.as_tensor(lengths, device=device)
        size = int(lengths.max())
        real = torch.arange(size, device=device) < lengths[:, None]  # (B, T)
        token = (real.flatten().cumsum(0) - 1).view_as(real).where(real, 0)
        return cls(lengths, real.flatten().nonzero().squeeze(1), token)

    @property
    def starts(self) -> Tensor:
        """(B,) the first token of each row."""
        return self.token[:, 0]

    def tokens_of(self, rows: Tensor) -> Tensor:
        """The tokens of some rows, row after row."""
        inside = torch.arange(self.token.shape[1], device=rows.device) < self.lengths[rows][:, None]
        return self.token[rows][inside]

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) -> (N, ...)."""
        return padded.flatten(0, 1).index_select(0, self.place)

    def pad(self, packed: Tensor) -> Tensor:
        """(N, ...) -> (B, T, ...); padding repeats the first token."""
        return packed.index_select(0, self.token.flatten()).unflatten(0, self.token.shape)

    def padded_heads(self, states: Tensor, groups: int) -> Tensor:
        """(1, heads, N, head_dim) -> (B, groups, heads / groups x T, head_dim)."""
        padded = self.pad(states[0].transpose(0, 1)).unflatten(2, (groups, -1))  # (B, T, groups, heads / groups, ...)
        return padded.permute(0, 2, 3, 1, 4).flatten(2, 3)

    def packed_heads(self, padded: Tensor, heads: int) -> Tensor:
        """The way back, to (1, N, heads, head_dim)."""
        rows = padded.reshape(len(padded), heads, -1, padded.shape[-1])  # (B, heads, T, head_dim)
        return self.pack(rows.transpose(1, 2))[None]


@dataclass(frozen=True)
class Prefix:
    """Keys and values (B, key heads, P, head_dim) of what stands before the tails in one layer."""

    keys: Tensor
    values: Tensor


_CALL: ContextVar[tuple[Layout, Prefix]] = ContextVar("packed rows, and what stands before them")


@contextmanager
def packed_attention(config: PreTrainedConfig, layout: Layout, prefix: Prefix) -> Iterator[None]:
    """Within the block, a layer of a model with ``config`` takes (1, N, d), and its mask (B, 1, T, P + T).

    Its key-value cache returns what it is asked to store as it is: ``prefix`` is put before it here.
    """
    own = config._attn_implementation
    token = _CALL.set((layout, prefix))
    config._attn_implementation = PACKED
    try:
        yield
    finally:
        config._attn_implementation = own
        _CALL.reset(token)


def can_pack(config: PreTrainedConfig) -> bool:
    """Whether the model's attention is the plain one, behind an interface that lets ours in."""
    return config._attn_implementation in ALL_ATTENTION_FUNCTIONS


def _attend(
    _module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """softmax(q K^T + mask) V, with the query heads of one key head side by side as rows of one product."""
    layout, prefix = _CALL.get()
    heads, groups, length = query.shape[1], key.shape[1], prefix.keys.shape[2]
    query = layout.padded_heads(query * scaling, groups)  # (B, groups, R, head_dim) with R = heads / groups x T
    key, value = layout.padded_heads(key, groups), layout.padded_heads(value, groups)
    scores = torch.cat([query @ prefix.keys.mT, query @ key.mT], dim=-1)  # (B, groups, R, P + T)
    scores = scores.unflatten(2, (-1, mask.shape[2])) + mask.unsqueeze(1)
    weights = scores.softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype).flatten(2, 3)
    found = weights[..., :length] @ prefix.values + weights[..., length:] @ value
    return layout.packed_heads(found, heads), None


AttentionInterface.register(PACKED, _attend)
