"""PRUNE: shrink the large singular values of all edits together, so that the weight's condition stays bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from sphere.editing.component import Layer
from sphere.editing.postprocess.base import PostContext, PostProcess, pair64, register
from sphere.errors import InputError, NumericalError

if TYPE_CHECKING:
    from torch import Tensor


UNCONVERGED = "PRUNE's singular values did not converge: look for huge entries"


@register
class Prune(PostProcess):
    """PRUNE (Ma et al., ICLR 2025, arXiv 2405.16821), applied to D = W_after - W_pretrained, for evaluation.

    Singular values of D above m, the largest one of the pretrained weight, become log s - log m + m (natural
    logarithm); the others, and all singular vectors, stay. The next batch starts from the unpruned weight.
    """

    name: ClassVar[str] = "prune"
    stage: ClassVar[Literal["update", "evaluated"]] = "evaluated"

    def prepare(self, layer: Layer) -> Tensor:
        """m, a scalar."""
        import torch

        try:
            largest: Tensor = torch.linalg.matrix_norm(layer.pretrained.double(), ord=2)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # exported, but not to mypy
            raise NumericalError(UNCONVERGED) from error
        if largest == 0:
            raise InputError("the pretrained weight is zero: PRUNE has no singular value to compare with")
        return largest

    def apply(self, update: Tensor, context: PostContext) -> Tensor:
        import torch

        change, _ = pair64(update, context.pretrained)
        largest = self.prepared(context)
        try:
            left, values, right = torch.linalg.svd(change, full_matrices=False)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # exported, but not to mypy
            raise NumericalError(UNCONVERGED) from error
        excess = values > largest
        if not excess.any():
            return update.clone()
        shrunk = (values / largest).log() + largest
        loss = (values - shrunk)[excess]  # what each direction gives up: only those directions are touched
        return (change - (left[:, excess] * loss) @ right[excess]).to(update.dtype)
