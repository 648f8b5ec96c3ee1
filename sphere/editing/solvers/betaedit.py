"""BetaEdit: AlphaEdit that weighs the text's keys too, and finds its null space anew as edits add up."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import PositiveFloat, PositiveInt

from sphere.editing.component import Layer, Need, Search
from sphere.editing.solvers.alphaedit import BASIS, NullSpaceSolver
from sphere.editing.solvers.base import LayerProblem, Solution, register
from sphere.editing.solvers.past import LEFT, PAST, accumulated, left_behind
from sphere.errors import InputError, NumericalError

if TYPE_CHECKING:
    from torch import Tensor

    from sphere.editing.solvers.base import Memory

EDITS = "edits"
"""t, the edits so far, in its memory: a scalar, float64."""


@register
class BetaEdit(NullSpaceSolver):
    """BetaEdit (IJCAI 2026, arXiv 2605.09285): dW^T = (P (K K^T + M + l1 C) + l2 I)^-1 P K R^T.

    dW minimises ||dW K - R||^2 + tr(dW (M + l1 C) dW^T) + l2 ||dW||^2 among the dW = dW P. Every ``rebuild_every``
    edits P becomes the projector on the weakest eigenvectors of (M / t + l1 C) / (l1 + 1), t the edits so far.
    """

    name: ClassVar[str] = "betaedit"
    search: ClassVar[Search] = {"second_moment_weight": (200.0, 1000.0, 3000.0), "ridge": (1.0, 10.0)}
    needs_keys_after: ClassVar[bool] = True

    second_moment_weight: PositiveFloat = 3000.0
    """l1: how many keys' worth the text's second moment weighs."""
    ridge: PositiveFloat = 10.0
    """l2: weight of ||dW||^2."""
    rebuild_every: PositiveInt = 1000
    """tau: edits after which P is found anew."""
    compensate: bool = False
    """Hand back to the next update what post-processes cut away of this one, as far as it lies in P."""

    @property
    def needs(self) -> tuple[Need, ...]:
        return ("second_moment", "key_spectrum")

    def prepare(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """C and the basis B (d_in, k) of the first P."""
        return layer.second_moment, super().prepare(layer)

    def basis(self, prepared: tuple[Tensor, Tensor], memory: Memory) -> Tensor:
        return super().basis(prepared[1], memory)

    def remembers(self, d_out: int, d_in: int, edits: int) -> dict[str, int]:
        found = {PAST: d_in**2, EDITS: 1}
        if edits >= self.rebuild_every:
            found[BASIS] = d_in**2
        return found | ({LEFT: d_out * d_in} if self.compensate else {})

    def solve(self, problem: LayerProblem) -> Solution:
        from sphere.geometry.linalg import solve_positive_definite

        basis, left = self.basis(problem.prepared, problem.memory), problem.memory.get(LEFT)
        system = basis.T @ (self._system(problem) @ basis)  # (k, k)
        right = basis.T @ problem.keys @ problem.residuals.T  # (k, d_out)
        if left is not None:
            right -= (left @ basis).T
        remedy = f"raise ridge (now {self.ridge:g})"
        solved = solve_positive_definite(system, right, name="betaedit's system", remedy=remedy)
        return Solution((basis @ solved).T, problem.memory)

    def _system(self, problem: LayerProblem) -> Tensor:
        """K K^T + M + l1 C + l2 I (d_in, d_in)."""
        system: Tensor = self.second_moment_weight * problem.prepared[0] + problem.keys @ problem.keys.T
        if PAST in problem.memory:
            system += problem.memory[PAST]
        system.diagonal().add_(self.ridge)
        return system

    def settle(self, problem: LayerProblem, solution: Solution, applied: Tensor, keys: Tensor | None) -> Memory:
        past = accumulated(problem.memory, keys)[PAST]
        before = float(problem.memory[EDITS]) if EDITS in problem.memory else 0.0
        edits = before + problem.keys.shape[1]
        memory = {PAST: past, EDITS: past.new_tensor(edits)}
        if edits // self.rebuild_every > before // self.rebuild_every:
            memory[BASIS] = self._rebuilt(problem.prepared[0], past / edits)
        elif BASIS in problem.memory:
            memory[BASIS] = problem.memory[BASIS]
        if not self.compensate:
            return memory
        return {**memory, **left_behind(solution.update, applied, self._system(problem))}

    def _rebuilt(self, second_moment: Tensor, edited: Tensor) -> Tensor:
        """B of the second moment of text and edited keys together."""
        from sphere.geometry.null_space import key_spectrum

        weight = self.second_moment_weight
        try:
            return self.weakest(key_spectrum((edited + weight * second_moment) / (weight + 1)))
        except InputError as error:
            raise NumericalError(f"betaedit finds no null space of text and edits together: {error}") from None
