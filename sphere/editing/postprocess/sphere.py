"""SPHERE: suppress the part of an update along the weight's principal hyperspherical directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from sphere.editing.component import Layer, Need, Search
from sphere.editing.postprocess.base import PostContext, PostProcess, register

if TYPE_CHECKING:
    from torch import Tensor


@register
class Sphere(PostProcess):
    """SPHERE (arXiv 2510.01172, section 4): dW' = dW - alpha (dW U) U^T.

    The defaults are the paper's for MEMIT and its kin; on AlphaEdit it uses alpha = 0.5 and scope ``layer``
    (the rows ``sphere`` and ``alphaedit+sphere`` of methods.yaml).
    """

    name: ClassVar[str] = "sphere"
    search: ClassVar[Search] = {"eta": (0.3, 0.5, 0.7), "alpha": (0.3, 0.5, 0.8)}
    phase: ClassVar[str] = "projection"

    eta: float = Field(default=0.5, ge=0, le=1)
    """Share of the neurons' energy that U carries; 0 switches the projection off."""
    alpha: float = Field(default=0.8, ge=0, le=1)
    """How much of the update along U is taken away; 0 switches the projection off."""
    directions: Literal["pretrained", "current"] = "pretrained"
    """U from the weight before any edit (the paper; cached), or from the weight as it stands at each batch."""

    @property
    def off(self) -> bool:
        """Whether it leaves every update as it is."""
        return self.alpha == 0 or self.eta == 0

    @property
    def needs(self) -> tuple[Need, ...]:
        return ("principal_spectrum",) if self.directions == "pretrained" else ()

    def prepare(self, layer: Layer) -> Tensor | None:
        """U (d_in, r) of the pretrained weight, if that is what the projection is from."""
        if self.off or self.directions == "current":
            return None
        return layer.principal_spectrum.up_to(self.eta).to(layer.pretrained.device)

    def apply(self, update: Tensor, context: PostContext) -> Tensor:
        from sphere.geometry.directions import principal_directions, sparse_projection
        from sphere.geometry.linalg import require_finite

        if self.off:
            require_finite(update, "update")
            return update.clone()
        if self.directions == "current":
            directions = principal_directions(context.weight, eta=self.eta)
        else:
            directions = self.prepared(context)
        return sparse_projection(update, directions, alpha=self.alpha)
