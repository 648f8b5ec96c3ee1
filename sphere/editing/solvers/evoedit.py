"""EvoEdit: a null space that every batch takes its own keys out of."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveFloat

from sphere.editing.component import Search
from sphere.editing.solvers.alphaedit import BASIS, NullSpaceSolver
from sphere.editing.solvers.base import LayerProblem, Solution, register
from sphere.errors import NumericalError


@register
class EvoEdit(NullSpaceSolver):
    """EvoEdit (ACL 2026, arXiv 2510.13851): dW = R (K^T P K + l2 I)^-1 K^T P, and then P loses the directions of P K.

    dW minimises ||dW K - R||^2 + l2 ||dW||^2 among the dW = dW P. P <- P - Q Q^T, Q the left singular vectors of P K
    above ``tolerance``: later updates leave these keys' outputs alone. Instead of a sum over the past it remembers the
    basis of what is left of P, and ends when that is nothing.
    """

    name: ClassVar[str] = "evoedit"
    search: ClassVar[Search] = {"ridge": (1.0, 4.0, 10.0), "nullspace_fraction": (0.6, 0.7, 0.8, 0.9)}

    ridge: PositiveFloat = 4.0
    """l2: weight of ||dW||^2."""
    tolerance: float = Field(default=0.01, gt=0, lt=1)
    """Singular vectors of P K below this share of its largest singular value stay in P (ours)."""

    def remembers(self, d_out: int, d_in: int, edits: int) -> dict[str, int]:
        return {BASIS: d_in**2}

    def solve(self, problem: LayerProblem) -> Solution:
        import torch

        from sphere.geometry.linalg import solve_positive_definite

        basis = self.basis(problem.prepared, problem.memory)  # (d_in, k)
        if basis.shape[1] == 0:
            raise NumericalError(
                "evoedit's null space is used up by the edits so far: raise nullspace_threshold or nullspace_fraction, "
                "or tolerance, or edit less"
            )
        keys = basis.T @ problem.keys  # (k, n)
        gram = keys.T @ keys  # (n, n)
        gram.diagonal().add_(self.ridge)
        remedy = f"raise ridge (now {self.ridge:g})"
        solved = solve_positive_definite(gram, keys.T, name="evoedit's system", remedy=remedy)  # (n, k)
        left, values, _ = torch.linalg.svd(keys, full_matrices=True)
        used = int((values > self.tolerance * values[0]).sum())
        return Solution(problem.residuals @ solved @ basis.T, {BASIS: basis @ left[:, used:]})
