"""CRISP: keep updates out of the directions in which text's loss is curved."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from sphere.editing.component import Layer, Need
from sphere.editing.postprocess.base import PostContext, PostProcess, pair64, register
from sphere.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@register
class Crisp(PostProcess):
    """CrispEdit's projection (Ikram et al., ICML 2026, arXiv 2602.15823), with K-FAC's curvature.

    C = E[k k^T] = V diag(c) V^T of the projection's inputs over text, and S = E[g g^T] = U diag(s) U^T of the gradients
    of the text's loss at its outputs. The coefficients of dW, U^T dW V (d_out, d_in), whose curvature s_i c_j is
    among the largest, the fewest that make up ``gamma`` of the sum of all, are zeroed.
    """

    name: ClassVar[str] = "crisp"

    gamma: float = Field(default=0.9, gt=0, lt=1)
    """Share of the curvature that updates stay out of."""

    @property
    def needs(self) -> tuple[Need, ...]:
        return ("key_spectrum", "output_moment")

    def prepare(self, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
        """U (d_out, d_out), V (d_in, d_in), and which coefficients are kept (d_out, d_in)."""
        import torch

        from sphere.geometry.linalg import symmetric_eigen

        values, outputs = symmetric_eigen(layer.output_moment, "the output moment")
        place, spectrum = layer.pretrained.device, layer.key_spectrum
        if not bool(values[0] > values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps):
            raise InputError(
                f"layer {layer.number}'s output moment S (E[g g^T] of the text's loss) is singular: take the "
                f"statistics from more text (more tokens than d_out, {len(values)})"
            )
        curvature = torch.outer(values, spectrum.values.to(place).clamp_min(0)).flatten()
        ordered, order = curvature.sort(descending=True, stable=True)
        before = ordered.cumsum(0) - ordered  # of those that are larger
        kept = torch.empty_like(curvature, dtype=torch.bool)
        kept[order] = before >= self.gamma * ordered.sum()
        return outputs, spectrum.vectors.to(place), kept.view(len(values), -1)

    def apply(self, update: Tensor, context: PostContext) -> Tensor:
        change, _ = pair64(update, context.pretrained)
        outputs, inputs, kept = self.prepared(context)
        coefficients = (outputs.T @ change @ inputs) * kept
        return (outputs @ coefficients @ inputs.T).to(update.dtype)
