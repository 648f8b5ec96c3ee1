"""AlphaEdit: least squares among the updates that leave the kept-out directions of the key space alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveFloat

from sphere.errors import InputError
from sphere.solvers.base import ClosedFormSolver, LayerProblem, register, required
from sphere.solvers.null_space import KeySpectrum

if TYPE_CHECKING:
    from torch import Tensor


@register
class AlphaEdit(ClosedFormSolver):
    """AlphaEdit (Fang et al., ICLR 2025, arXiv 2410.02355): dW^T = (P (K K^T + M) + l2 I)^-1 P K R^T.

    P = B B^T projects on the k directions in which text keys have little energy. dW = Y^T B^T minimises

        ||dW K - R||^2 + tr(dW M dW^T) + l2 ||dW||^2    among the dW = dW P,

    so Y = X R^T, where X (k, n) solves the symmetric positive definite (B^T (K K^T + M) B + l2 I) X = B^T K. Without a
    past and with fewer keys than directions the same X comes from the n x n key Gram matrix (Woodbury):
    X = B^T K (K^T B B^T K + l2 I)^-1.
    """

    name: ClassVar[str] = "alphaedit"
    needs_null_space: ClassVar[bool] = True
    accumulates_keys: ClassVar[bool] = True

    ridge: PositiveFloat = 10.0
    """l2: weight of ||dW||^2."""
    nullspace_threshold: PositiveFloat = 0.02
    """Directions whose second-moment eigenvalue is below this may be edited."""
    nullspace_fraction: float | None = Field(default=None, gt=0, lt=1)
    """If given, used instead of the threshold: the share of directions, weakest first, that may be edited."""

    def editable(self, spectrum: KeySpectrum) -> Tensor:
        """The null-space basis (d_in, k) under this method's settings."""
        if self.nullspace_fraction is not None:
            return spectrum.weakest(fraction=self.nullspace_fraction)
        return spectrum.weakest(threshold=self.nullspace_threshold)

    def solve(self, problem: LayerProblem) -> Tensor:
        from sphere.linalg import solve_positive_definite

        basis = required(problem.basis, "null-space basis", self)  # (d_in, k)
        if basis.shape[1] == 0:
            raise InputError(f"{self.name}'s null-space basis is empty: raise nullspace_threshold")
        keys = basis.T @ problem.keys  # (k, n)
        size, n = keys.shape
        name, remedy = f"{self.name}'s system", f"raise ridge (now {self.ridge:g})"
        if problem.past is None and n < size:
            gram = keys.T @ keys  # (n, n)
            gram.diagonal().add_(self.ridge)
            solved = solve_positive_definite(gram, keys.T, name=name, remedy=remedy).T  # (k, n)
        else:
            system = keys @ keys.T  # (k, k)
            if problem.past is not None:
                system += basis.T @ (problem.past @ basis)
            system.diagonal().add_(self.ridge)
            solved = solve_positive_definite(system, keys, name=name, remedy=remedy)  # (k, n)
        return problem.residuals @ (basis @ solved).T  # (d_out, d_in)
