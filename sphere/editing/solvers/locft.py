"""LocFT-BF: one weight fine-tuned jointly on all edits so far, breadth first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import NonNegativeFloat, PositiveInt

from sphere.editing.solvers.base import register
from sphere.editing.solvers.ft import FineTuning

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from sphere.editing.solvers.base import Memory
    from sphere.models.tokens import Encoded

IDS, STARTS = "ids", "starts"
"""In its memory: the tokens of every edit (k, T), -1 behind the last of each, and where its target begins (k,)."""
LONGEST = 32
"""Tokens of an edit that the plan counts with."""


@register
class LocalFineTuning(FineTuning):
    """LocFT-BF (ICLR 2026, arXiv 2509.22072): ``epochs`` passes over all edits so far, from the pretrained weight.

    Every batch is trained together with all the earlier ones, so the weight after k edits is that of one training on
    all k. The end-of-text token is learned behind each target. A stream takes time with the square of its length.
    """

    name: ClassVar[str] = "locft"
    joint: ClassVar[bool] = True
    ends_targets: ClassVar[bool] = True

    minibatch: PositiveInt = 100
    """Requests a step."""
    stop_loss: NonNegativeFloat = 0.0
    """Stop after an epoch whose mean loss is below this; 0 never stops early."""

    def remembers(self, d_out: int, d_in: int, edits: int) -> dict[str, int]:
        return {IDS: edits * LONGEST, STARTS: edits}

    def fit(
        self,
        model: nn.Module,
        parameter: nn.Parameter,
        batch: Sequence[Encoded],
        *,
        prepared: Any = None,
        memory: Memory | None = None,
        pad_id: int,
        device: torch.device | str,
        generator: torch.Generator,
    ) -> Memory:
        every = [*_unpacked(memory or {}), *batch]
        super().fit(model, parameter, every, pad_id=pad_id, device=device, generator=generator)
        return _packed(every)


def _packed(batch: Sequence[Encoded]) -> dict[str, Tensor]:
    import torch

    ids = torch.full((len(batch), max(len(item.ids) for item in batch)), -1)
    for row, item in zip(ids, batch, strict=True):
        row[: len(item.ids)] = torch.tensor(item.ids)
    return {IDS: ids, STARTS: torch.tensor([item.target_start for item in batch])}


def _unpacked(memory: Memory) -> list[Encoded]:
    from sphere.models.tokens import Encoded

    if IDS not in memory:
        return []
    rows, starts = memory[IDS].tolist(), memory[STARTS].tolist()
    return [Encoded(tuple(t for t in row if t >= 0), None, start) for row, start in zip(rows, starts, strict=True)]
