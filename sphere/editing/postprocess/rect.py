"""RECT: keep the entries of an update that change the weight most, relative to its size."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from sphere.editing.component import Search
from sphere.editing.postprocess.base import PostContext, PostProcess, pair64, register

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT_FLOOR = 1e-8
"""Added to each weight entry before dividing by it."""


@register
class Rect(PostProcess):
    """RECT (Gu et al., EMNLP 2024, arXiv 2401.04700): zero all but the largest |dW / (W + 1e-8)|.

    Exactly round(keep_fraction x entries) entries are kept; of entries that tie at the cut, those that come
    first in row-major order.
    """

    name: ClassVar[str] = "rect"
    search: ClassVar[Search] = {"keep_fraction": (0.2, 0.4, 0.6)}

    keep_fraction: float = Field(default=0.4, gt=0, le=1)
    """Share of the update's entries that is kept."""

    def apply(self, update: Tensor, context: PostContext) -> Tensor:
        change, weight = pair64(update, context.weight)
        keep = round(self.keep_fraction * change.numel())
        scores = (change / (weight + WEIGHT_FLOOR)).abs().flatten()
        scores = scores.where(change.flatten() != 0, 0.0)  # also for 0 / 0
        if keep == scores.numel():
            return update.clone()
        if keep == 0:
            return update.new_zeros(update.shape)
        cut = scores.kthvalue(scores.numel() - keep + 1).values  # the keep-th largest
        kept = scores > cut
        ties = (scores == cut).nonzero().flatten()
        kept[ties[: keep - int(kept.sum())]] = True
        return update.masked_fill(~kept.view_as(update), 0)
