"""PRUNE: shrink the large singular values of all edits together, so that the weight's condition stays bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from sphere.errors import InputError, NumericalError
from sphere.postprocess.base import PostContext, PostProcess, pair64, register

if TYPE_CHECKING:
    from torch import Tensor


@register
class Prune(PostProcess):
    """PRUNE (Ma et al., ICLR 2025, arXiv 2405.16821), applied to D = W_after - W_pretrained, for evaluation.

    Singular values of D above m, the largest one of the pretrained weight, become log s - log m + m (natural
    logarithm); the others, and all singular vectors, stay. The next batch starts from the unpruned weight.
    """

    name: ClassVar[str] = "prune"
    stage: ClassVar[Literal["update", "evaluated"]] = "evaluated"

    def apply(self, update: Tensor, context: PostContext) -> Tensor:
        import torch

        change, _ = pair64(update, context.pretrained)
        try:
            largest = context.once(self, lambda pretrained: torch.linalg.matrix_norm(pretrained.double(), ord=2))
            left, values, right = torch.linalg.svd(change, full_matrices=False)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # exported, but not to mypy
            raise NumericalError("PRUNE's singular values did not converge: look for huge entries") from error
        if largest == 0:
            raise InputError("the pretrained weight is zero: PRUNE has no singular value to compare with")
        excess = values > largest
        if not excess.any():
            return update.clone()
        shrunk = (values / largest).log() + largest
        loss = (values - shrunk)[excess]  # what each direction gives up: only those directions are touched
        return (change - (left[:, excess] * loss) @ right[excess]).to(update.dtype)
