"""Rows of different lengths as one row of their tokens alone: every product is of real tokens, and of all of them.

Layers see (1, N, d). Attention is the one place where tokens meet, and there each row is itself again, padded: an
attention function of our own, put between the model's layers and the one that the model is set to, does it.
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
        return padded.flatten(0, 1)[self.place]

    def pad(self, packed: Tensor) -> Tensor:
        """(N, ...) -> (B, T, ...); padding repeats the first token."""
        return packed.index_select(0, self.token.flatten()).unflatten(0, self.token.shape)

    def padded_heads(self, states: Tensor) -> Tensor:
        """(1, heads, N, head_dim) -> (B, heads, T, head_dim)."""
        return self.pad(states[0].transpose(0, 1)).transpose(1, 2)


_CALL: ContextVar[tuple[Layout, Any]] = ContextVar("packed rows, and the attention function that the model is set to")


@contextmanager
def packed_attention(config: PreTrainedConfig, layout: Layout) -> Iterator[None]:
    """Within the block, layers of a model with ``config`` take (1, N, d), and their masks (B, 1, T, S).

    Their key-value caches return what they are asked to store padded, as ``Layout.padded_heads`` has it.
    """
    own = config._attn_implementation
    token = _CALL.set((layout, ALL_ATTENTION_FUNCTIONS[own]))
    config._attn_implementation = PACKED
    try:
        yield
    finally:
        config._attn_implementation = own
        _CALL.reset(token)


def can_pack(config: PreTrainedConfig) -> bool:
    """Whether the attention function that the model is set to is one that can be called from here."""
    return config._attn_implementation in ALL_ATTENTION_FUNCTIONS


def _attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **settings: Any) -> tuple[Tensor, None]:
    layout, attend = _CALL.get()
    padded = layout.padded_heads(query)
    found = attend(module, padded, key, value, mask, **settings)[0]  # (B, T, heads, head_dim)
    return layout.pack(found)[None], None


AttentionInterface.register(PACKED, _attend)
