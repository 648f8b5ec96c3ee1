"""REVIVE: keep updates out of the pretrained weight's dominant singular subspaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from sphere.editing.component import Layer, Search
from sphere.editing.postprocess.base import PostContext, PostProcess, pair64, register
from sphere.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

SHARE_ROUNDING = 1e-12
"""A cumulative share this little below the protected one counts as equal to it: rounding decides nothing."""


@register
class Revive(PostProcess):
    """REVIVE (Zhang et al., ACL 2026, arXiv 2601.11042): dW' = (I - U U^T) dW (I - V V^T).

    U (d_out, r) and V (d_in, r) are the leading singular vectors of the pretrained weight, the fewest whose
    squared singular values make up ``protected_share`` of their sum. So U^T dW' = 0 and dW' V = 0: the
    protected directions are neither read from nor written to.
    """

    name: ClassVar[str] = "revive"
    search: ClassVar[Search] = {"protected_share": (0.3, 0.5, 0.7)}

    protected_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the weight's squared Frobenius norm to protect; 0: none. The rule and 0.5 are this project's choice."""

    def apply(self, update: Tensor, context: PostContext) -> Tensor:
        change, _ = pair64(update, context.pretrained)
        if self.protected_share == 0:
            return update.clone()
        u, v = self.prepared(context)
        change = change - u @ (u.T @ change)
        return (change - (change @ v) @ v.T).to(update.dtype)

    def prepare(self, layer: Layer) -> tuple[Tensor, Tensor] | None:
        """U (d_out, r) and V (d_in, r) of the pretrained weight (d_out, d_in), float64."""
        from sphere.geometry.linalg import across, gram_eigen

        if self.protected_share == 0:
            return None
        weight = layer.pretrained.double()
        values, near = gram_eigen(weight, "the pretrained weight")
        if values.numel() == 0:
            raise InputError("the pretrained weight is zero: REVIVE has no subspace to protect")
        shares = values.cumsum(0) / values.sum()
        near = near[:, : 1 + int((shares < self.protected_share - SHARE_ROUNDING).sum())]
        far = across(weight, near)
        return (near, far) if weight.shape[0] < weight.shape[1] else (far, near)
