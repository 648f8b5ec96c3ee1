"""SPHERE: suppress the part of an update along the weight's principal hyperspherical directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from sphere.postprocess.base import PostContext, PostProcess, register

if TYPE_CHECKING:
    from torch import Tensor


@register
class Sphere(PostProcess):
    """SPHERE (arXiv 2510.01172, section 4): dW' = dW - alpha (dW U) U^T.

    The defaults are the paper's for MEMIT and its kin; on AlphaEdit it uses alpha = 0.5 and scope ``layer``
    (the rows ``sphere`` and ``alphaedit+sphere`` of methods.yaml).
    """

    name: ClassVar[str] = "sphere"
    needs_directions: ClassVar[bool] = True
    phase: ClassVar[str] = "projection"

    eta: float = Field(default=0.5, ge=0, le=1)
    """Share of the neurons' energy that U carries; 0 switches the projection off."""
    alpha: float = Field(default=0.8, ge=0, le=1)
    """How much of the update along U is taken away; 0 switches the projection off."""
    directions: Literal["pretrained", "current"] = "pretrained"
    """U from the weight before any edit (the paper; cached), or from the weight as it stands at each batch."""

    def apply(self, update: Tensor, context: PostContext) -> Tensor:
        from sphere.directions import principal_directions, sparse_projection
        from sphere.linalg import require_finite

        if self.alpha == 0 or self.eta == 0:
            require_finite(update, "update")
            return update.clone()
        if self.directions == "current":
            directions = principal_directions(context.weight, eta=self.eta)
        elif context.directions is not None:
            directions = context.directions
        else:
            directions = principal_directions(context.pretrained, eta=self.eta)
        return sparse_projection(update, directions, alpha=self.alpha)
