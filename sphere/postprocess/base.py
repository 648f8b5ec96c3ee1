"""What a post-process is given, and what it must offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from sphere.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Found = TypeVar("Found")

POSTPROCESSES: dict[str, type[PostProcess]] = {}
"""Every registered post-process class by name."""


@dataclass(frozen=True)
class PostContext:
    """The weights an update belongs to, all (d_out, d_in) of one layer on the update's device."""

    weight: Tensor
    """As it stands before the update."""
    pretrained: Tensor
    """As it was before any edit."""
    directions: Tensor | None = None
    """(d_in, r) ``principal_directions(pretrained, eta=...)`` if cached; SPHERE computes them otherwise."""
    kept: dict[PostProcess, Any] = field(default_factory=dict, repr=False)
    """What post-processes took from ``pretrained``; the batch loop hands the same dict to a layer's every batch."""

    def once(self, process: PostProcess, find: Callable[[Tensor], Found]) -> Found:
        """``find(pretrained)``, which ``process`` needs for every update: computed once a stream."""
        if process not in self.kept:
            self.kept[process] = find(self.pretrained)
        found: Found = self.kept[process]
        return found


class PostProcess(BaseModel, ABC):
    """The settings of a post-process, and its computation. Fields are its hyperparameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    """What a method row, or the part after a ``+``, calls it."""
    stage: ClassVar[Literal["update", "evaluated"]] = "update"
    """``update``: each update is replaced by the result before it is kept. ``evaluated``: applied to the sum
    of all updates since the pretrained weight, only for evaluation, and so is every post-process behind it; the
    next batch starts from the untouched weight."""
    needs_directions: ClassVar[bool] = False
    """Whether ``PostContext.directions`` is read."""
    phase: ClassVar[str] = "post-process"
    """What its seconds are counted under."""
    scope: Literal["layer", "batch"] = "batch"
    """When an ``update`` stage is applied: ``layer``, right after a layer is solved, so that later layers see
    the result; ``batch``, to every layer's update after the whole batch is solved."""

    @abstractmethod
    def apply(self, update: Tensor, context: PostContext) -> Tensor:
        """The update (d_out, d_in) to use instead, in the given update's dtype and device.

        Raises InputError on shapes that don't fit, NumericalError on NaN or infinity.
        """


def pair64(update: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """An update and a weight, both (d_out, d_in), as float64; InputError unless their shapes agree."""
    from sphere.linalg import matrix64

    if update.shape != weight.shape:
        raise InputError(
            f"update {tuple(update.shape)} and weight {tuple(weight.shape)} differ in shape: give one layer's"
        )
    return matrix64(update, "update"), matrix64(weight, "weight")


def register(postprocess: type[PostProcess]) -> type[PostProcess]:
    """Class decorator: make a post-process known under its name."""
    if postprocess.name in POSTPROCESSES:
        raise InputError(f"two post-processes are called {postprocess.name!r}: rename one")
    POSTPROCESSES[postprocess.name] = postprocess
    return postprocess
