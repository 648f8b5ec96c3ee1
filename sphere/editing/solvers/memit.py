"""MEMIT, its sequential form and ENCORE: regularised least squares, one Cholesky solve a layer.

All three minimise, over dW (d_out, d_in),

    ||dW K - R||^2 + lambda tr(dW C dW^T) + tr(dW M dW^T) + mu ||dW||^2

so dW = R K^T (lambda C + M + mu I + K K^T)^-1; MEMIT drops the third and fourth term, MEMIT-seq the fourth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat

from sphere.editing.component import Layer, Need, Search
from sphere.editing.solvers.base import ClosedFormSolver, LayerProblem, Solution, register
from sphere.editing.solvers.past import LEFT, PAST, accumulated, left_behind

if TYPE_CHECKING:
    from torch import Tensor

    from sphere.editing.solvers.base import Memory


@register
class Memit(ClosedFormSolver):
    """MEMIT (Meng et al., ICLR 2023, arXiv 2210.07229, eq. 14): dW = R K^T (lambda C + K K^T)^-1."""

    name: ClassVar[str] = "memit"
    search: ClassVar[Search] = {"second_moment_weight": (20.0, 200.0, 2000.0, 15_000.0)}

    second_moment_weight: PositiveFloat = 15_000.0
    """lambda: how many keys' worth the text's second moment weighs against the batch."""

    @property
    def needs(self) -> tuple[Need, ...]:
        return ("second_moment",)

    def prepare(self, layer: Layer) -> Tensor:
        return layer.covered_moment

    def solve(self, problem: LayerProblem) -> Solution:
        from sphere.geometry.linalg import solve_positive_definite

        left = problem.memory.get(LEFT)  # (d_out, d_in)
        right = problem.keys if left is None else problem.keys @ problem.residuals.T - left.T
        solved = solve_positive_definite(  # (d_in, n): fewer right-hand sides than K R^T has
            self.system(problem),
            right,
            name=f"{self.name}'s system",
            remedy="take the key statistics from more text (more tokens than d_in), or use encore (a ridge)",
        )
        return Solution(problem.residuals @ solved.T if left is None else solved.T, problem.memory)

    def system(self, problem: LayerProblem) -> Tensor:
        """What the update is solved with, (d_in, d_in)."""
        system: Tensor = self.second_moment_weight * problem.prepared + problem.keys @ problem.keys.T
        self.add_penalties(system, problem)
        return system

    def add_penalties(self, system: Tensor, problem: LayerProblem) -> None:
        """Add the method's further penalties to the (d_in, d_in) system in place; MEMIT has none."""


@register
class MemitSequential(Memit):
    """MEMIT that also keeps what earlier batches wrote: dW = R K^T (lambda C + M + K K^T)^-1.

    It is RLSEdit (arXiv 2601.15686) with its lambda at 0 and w as the weight of C: that recursion computes the same
    inverse by Woodbury's formula, batch after batch. ``Encore`` is RLSEdit with lambda^2 = ``ridge``.
    """

    name: ClassVar[str] = "memit-seq"
    needs_keys_after: ClassVar[bool] = True

    compensate: bool = False
    """Hand back to the next update what post-processes cut away of this one (arXiv 2605.26670)."""

    def remembers(self, d_out: int, d_in: int, edits: int) -> dict[str, int]:
        return {PAST: d_in**2, **({LEFT: d_out * d_in} if self.compensate else {})}

    def add_penalties(self, system: Tensor, problem: LayerProblem) -> None:
        if PAST in problem.memory:
            system += problem.memory[PAST]

    def settle(self, problem: LayerProblem, solution: Solution, applied: Tensor, keys: Tensor | None) -> Memory:
        memory = accumulated(problem.memory, keys)
        if not self.compensate:
            return memory
        return {**memory, **left_behind(solution.update, applied, self.system(problem))}


@register
class Encore(MemitSequential):
    """ENCORE (Gupta et al., arXiv 2502.01636): MEMIT-seq with the update's norm penalised, + mu I in the
    system."""

    name: ClassVar[str] = "encore"
    search: ClassVar[Search] = {**Memit.search, "ridge": (1.0, 20.0)}

    ridge: NonNegativeFloat = 20.0
    """mu: weight of ||dW||^2."""

    def prepare(self, layer: Layer) -> Tensor:
        return layer.second_moment if self.ridge else layer.covered_moment

    def add_penalties(self, system: Tensor, problem: LayerProblem) -> None:
        super().add_penalties(system, problem)
        system.diagonal().add_(self.ridge)
