"""ROME: one request at a time, the smallest rank-one update that gives the key its value exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeInt

from sphere.editing.component import Layer, Need
from sphere.editing.solvers.base import ClosedFormSolver, LayerProblem, Solution, register
from sphere.errors import InputError, NumericalError

if TYPE_CHECKING:
    from torch import Tensor


TINY = 1e-9
"""Cosine of two keys below which they are at right angles."""


@register
class Rome(ClosedFormSolver):
    """ROME (Meng et al., NeurIPS 2022, arXiv 2202.05262, eq. 2): dW = (v - W k0) (C^-1 k)^T / ((C^-1 k)^T k0).

    k is the key's mean over contexts, k0 the bare prompt's, and the problem's residual v - W k0 (d_out, 1): the bare
    prompt gets v exactly, (W + dW) k0 = v. Where k0 = k it minimises tr(dW C dW^T) among the dW that do.
    """

    name: ClassVar[str] = "rome"
    one_at_a_time: ClassVar[bool] = True
    single_layer: ClassVar[bool] = True

    second_moment: Literal["identity", "data"] = "identity"
    """C: the identity (the setting of the SPHERE paper) or the text's key second moment."""
    layer: NonNegativeInt | None = None
    """The layer to edit; None leaves it to the model's configuration."""

    @property
    def needs(self) -> tuple[Need, ...]:
        return ("second_moment",) if self.second_moment == "data" else ()

    def prepare(self, layer: Layer) -> Tensor | None:
        return layer.covered_moment if self.needs else None

    def solve(self, problem: LayerProblem) -> Solution:
        from sphere.geometry.linalg import solve_positive_definite

        key, bare = problem.keys, problem.keys if problem.bare_keys is None else problem.bare_keys  # (d_in, 1)
        if key.shape[1] != 1:
            raise InputError(f"rome takes one request at a time, not {key.shape[1]}: give one key")
        direction = key
        if self.second_moment == "data":
            direction = solve_positive_definite(
                problem.prepared,
                key,
                name="rome's second moment",
                remedy="take it from more text (more tokens than d_in), or set second_moment: identity",
            )
        overlap = float(direction.T @ bare)
        if not abs(overlap) > TINY * float(direction.norm() * bare.norm()):
            raise NumericalError("rome's key is zero, or at right angles to the bare prompt's: edit another layer")
        return Solution(problem.residuals @ direction.T / overlap)
