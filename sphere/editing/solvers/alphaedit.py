"""AlphaEdit: least squares among the updates that leave the kept-out directions of the key space alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PositiveFloat, model_validator

from sphere.editing.component import Layer, Need, Search
from sphere.editing.solvers.base import ClosedFormSolver, LayerProblem, Solution, register
from sphere.editing.solvers.past import LEFT, PAST, accumulated, left_behind

if TYPE_CHECKING:
    from torch import Tensor

    from sphere.editing.solvers.base import Memory
    from sphere.geometry.null_space import KeySpectrum


class NullSpaceSolver(ClosedFormSolver):
    """A solver that reads only from the directions in which text keys have little energy: P = B B^T."""

    alternatives: ClassVar[tuple[str, ...]] = ("nullspace_threshold", "nullspace_fraction")

    nullspace_threshold: PositiveFloat | None = None
    """If given, directions whose second-moment eigenvalue is below this may be edited: a model's own number."""
    nullspace_fraction: float | None = Field(default=0.7, gt=0, lt=1)
    """The share of directions, weakest first, that may be edited; goes over a threshold where both are given."""

    @model_validator(mode="before")
    @classmethod
    def _one_rule(cls, data: Any) -> Any:
        """A threshold alone leaves the default share out, so that the settings say what is used."""
        if data.get("nullspace_threshold") is None and data.get("nullspace_fraction", 0) is None:
            raise ValueError("give nullspace_threshold or nullspace_fraction")
        if data.get("nullspace_threshold") is not None:
            return {"nullspace_fraction": None, **data}
        return data

    @property
    def remark(self) -> str:
        if "nullspace_fraction" in self.model_fields_set:
            return ""
        share = self.nullspace_fraction
        return f"edits the weakest {share:.0%} of key directions (nullspace_fraction), since nothing says otherwise"

    @property
    def needs(self) -> tuple[Need, ...]:
        return ("key_spectrum",)

    def prepare(self, layer: Layer) -> Any:
        """The null-space basis B (d_in, k), whose columns span what updates may read from."""
        return self.weakest(layer.key_spectrum).to(layer.pretrained.device)

    def weakest(self, spectrum: KeySpectrum) -> Tensor:
        """B of a spectrum; InputError where it would be none or all of the directions."""
        if self.nullspace_fraction is not None:
            return spectrum.weakest(fraction=self.nullspace_fraction)
        return spectrum.weakest(threshold=self.nullspace_threshold)

    def editable_share(self, prepared: Any, memory: Memory) -> float:
        basis = self.basis(prepared, memory)
        return basis.shape[1] / basis.shape[0]

    def basis(self, prepared: Any, memory: Memory) -> Tensor:
        """B as it stands."""
        basis: Tensor = memory.get(BASIS, prepared)
        return basis


BASIS = "basis"
"""B in the memory of a solver that changes it: (d_in, k) float64."""


@register
class AlphaEdit(NullSpaceSolver):
    """AlphaEdit (Fang et al., ICLR 2025, arXiv 2410.02355): dW^T = (P (K K^T + M) + l2 I)^-1 P K R^T.

    P = B B^T projects on the k directions in which text keys have little energy. dW = Y^T B^T minimises

        ||dW K - R||^2 + tr(dW M dW^T) + l2 ||dW||^2    among the dW = dW P,

    so Y = X R^T, where X (k, n) solves the symmetric positive definite (B^T (K K^T + M) B + l2 I) X = B^T K. Without a
    past and with fewer keys than directions the same X comes from the n x n key Gram matrix (Woodbury):
    X = B^T K (K^T B B^T K + l2 I)^-1.
    """

    name: ClassVar[str] = "alphaedit"
    search: ClassVar[Search] = {
        "ridge": (1.0, 10.0, 100.0),
        "nullspace_fraction": (0.6, 0.7, 0.8, 0.9),
    }
    needs_keys_after: ClassVar[bool] = True

    ridge: PositiveFloat = 10.0
    """l2: weight of ||dW||^2."""
    compensate: bool = False
    """Hand back to the next update what post-processes cut away of this one, as far as it lies in P."""

    def remembers(self, d_out: int, d_in: int, edits: int) -> dict[str, int]:
        return {PAST: d_in**2, **({LEFT: d_out * d_in} if self.compensate else {})}

    def solve(self, problem: LayerProblem) -> Solution:
        from sphere.geometry.linalg import solve_positive_definite

        basis = self.basis(problem.prepared, problem.memory)  # (d_in, k)
        past, left = problem.memory.get(PAST), problem.memory.get(LEFT)
        keys = basis.T @ problem.keys  # (k, n)
        size, n = keys.shape
        name, remedy = f"{self.name}'s system", f"raise ridge (now {self.ridge:g})"
        if past is None and n < size:
            gram = keys.T @ keys  # (n, n)
            gram.diagonal().add_(self.ridge)
            solved = solve_positive_definite(gram, keys.T, name=name, remedy=remedy).T  # (k, n)
        else:
            system = keys @ keys.T  # (k, k)
            if past is not None:
                system += basis.T @ (past @ basis)
            system.diagonal().add_(self.ridge)
            right = keys if left is None else keys @ problem.residuals.T - (left @ basis).T
            solved = solve_positive_definite(system, right, name=name, remedy=remedy)  # (k, n), or (k, d_out)
            if left is not None:
                return Solution((basis @ solved).T, problem.memory)
        return Solution(problem.residuals @ (basis @ solved).T, problem.memory)

    def settle(self, problem: LayerProblem, solution: Solution, applied: Tensor, keys: Tensor | None) -> Memory:
        memory = accumulated(problem.memory, keys)
        if not self.compensate:
            return memory
        system = problem.keys @ problem.keys.T  # (d_in, d_in): what of its gradient lies in P is handed back
        if PAST in problem.memory:
            system += problem.memory[PAST]
        system.diagonal().add_(self.ridge)
        return {**memory, **left_behind(solution.update, applied, system)}
