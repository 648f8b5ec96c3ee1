"""What a post-process is given, and what it must offer."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sphere.editing.component import Component, Layer
from sphere.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from sphere.editing.solvers.base import Memory

POSTPROCESSES: dict[str, type[PostProcess]] = {}
"""Every registered post-process class by name."""


@dataclass(frozen=True)
class PostContext:
    """The weights an update belongs to, all (d_out, d_in) of one layer on the update's device."""

    weight: Tensor
    """As it stands before the update."""
    pretrained: Tensor
    """As it was before any edit."""
    prepared: Any = None
    """What the post-process's ``prepare`` returned for this layer; None: it prepares itself at each call."""
    keys: Tensor | None = None
    """(d_in, n) float64, the keys the update was solved for; None where there are none (fine-tuning, PRUNE's sum)."""
    memory: Memory = field(default_factory=dict)
    """What the solver remembered of the layer before this batch."""


class PostProcess(Component):
    """A component that turns an update into another."""

    stage: ClassVar[Literal["update", "evaluated"]] = "update"
    """``update``: each update is replaced by the result before it is kept. ``evaluated``: applied to the sum
    of all updates since the pretrained weight, only for evaluation, and so is every post-process behind it; the
    next batch starts from the untouched weight."""
    phase: ClassVar[str] = "post-process"
    """What its seconds are counted under."""
    scope: Literal["layer", "batch"] = "batch"
    """When an ``update`` stage is applied: ``layer``, right after a layer is solved, so that later layers see
    the result; ``batch``, to every layer's update after the whole batch is solved."""

    def prepared(self, context: PostContext) -> Any:
        """The context's own ``prepared``, or, outside a stream, what its pretrained weight gives."""
        return self.prepare(Layer(context.pretrained)) if context.prepared is None else context.prepared

    @abstractmethod
    def apply(self, update: Tensor, context: PostContext) -> Tensor:
        """The update (d_out, d_in) to use instead, in the given update's dtype and device.

        Raises InputError on shapes that don't fit, NumericalError on NaN or infinity.
        """


def pair64(update: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """An update and a weight, both (d_out, d_in), as float64; InputError unless their shapes agree."""
    from sphere.geometry.linalg import matrix64

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
