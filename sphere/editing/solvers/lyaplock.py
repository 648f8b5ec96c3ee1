"""LyapLock: least squares whose pull back to the pretrained weight grows while text is hurt more than allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat

from sphere.editing.component import Layer, Need, Search
from sphere.editing.solvers.base import ClosedFormSolver, LayerProblem, Solution, register
from sphere.editing.solvers.past import PAST, accumulated
from sphere.errors import NumericalError

if TYPE_CHECKING:
    from torch import Tensor

    from sphere.editing.solvers.base import Memory

QUEUE, ALLOWED = "queue", "allowed"
"""Z and D in its memory: scalars, float64."""
RUNAWAY = 1e6
"""Times its least value at which a queue is said to have run away: nothing is edited any more."""


@register
class LyapLock(ClosedFormSolver):
    """LyapLock (EMNLP 2025, arXiv 2505.15702): a constraint on the mean preservation loss, held by a virtual queue.

        dW = [V R K^T + a Z w (W0 - W) C] [V (K K^T + M) + a Z w C]^-1

    minimises V (||dW K - R||^2 + tr(dW M dW^T)) + a Z w tr((W + dW - W0) C (W + dW - W0)^T). After the batch the queue
    of the layer becomes Z <- max(Z + a (PL - D) + b, Z_max), PL = tr((W - W0) C (W - W0)^T) of the new weight, in
    units of D: ``allowance`` times the PL of the first batch.
    """

    name: ClassVar[str] = "lyaplock"
    search: ClassVar[Search] = {"second_moment_weight": (200.0, 1000.0, 5000.0)}
    needs_keys_after: ClassVar[bool] = True

    second_moment_weight: PositiveFloat = 1000.0
    """w: how many keys' worth the text's second moment weighs, at a = Z = V = 1."""
    editing_weight: PositiveFloat = 1.0
    """V: weight of the edits, this batch's and the earlier ones (ours)."""
    queue_gain: PositiveFloat = 1.0
    """a: how much of the loss above what is allowed the queue takes up (ours)."""
    queue_drift: NonNegativeFloat = 0.0
    """b: what the queue grows by in every batch (ours)."""
    queue_least: PositiveFloat = 1.0
    """Z_max: the value that the queue begins with and never falls below (ours)."""
    allowance: PositiveFloat = 1.0
    """D, as a multiple of the preservation loss after the first batch (ours)."""

    @property
    def needs(self) -> tuple[Need, ...]:
        return ("second_moment",)

    def prepare(self, layer: Layer) -> Tensor:
        return layer.second_moment

    def remembers(self, d_out: int, d_in: int, edits: int) -> dict[str, int]:
        return {PAST: d_in**2, QUEUE: 1, ALLOWED: 1}

    def solve(self, problem: LayerProblem) -> Solution:
        from sphere.geometry.linalg import solve_positive_definite

        queue = float(problem.memory[QUEUE]) if QUEUE in problem.memory else self.queue_least
        pull = self.queue_gain * queue * self.second_moment_weight * problem.prepared  # (d_in, d_in)
        spread = problem.keys @ problem.keys.T
        if PAST in problem.memory:
            spread += problem.memory[PAST]
        away = problem.weight - problem.pretrained.double()
        solved = solve_positive_definite(
            self.editing_weight * spread + pull,
            self.editing_weight * problem.keys @ problem.residuals.T - pull @ away.T,  # (d_in, d_out)
            name="lyaplock's system",
            remedy="take the key statistics from more text (more tokens than d_in)",
        )
        return Solution(solved.T, problem.memory)

    def settle(self, problem: LayerProblem, solution: Solution, applied: Tensor, keys: Tensor | None) -> Memory:
        past = accumulated(problem.memory, keys)[PAST]
        away = problem.weight + applied - problem.pretrained.double()
        loss = float(((away @ problem.prepared) * away).sum())
        allowed = float(problem.memory[ALLOWED]) if ALLOWED in problem.memory else self.allowance * loss
        if not allowed > 0:
            raise NumericalError("lyaplock's first batch changed nothing that text sees: edit something first")
        queue = float(problem.memory[QUEUE]) if QUEUE in problem.memory else self.queue_least
        queue = max(queue + self.queue_gain * (loss / allowed - 1) + self.queue_drift, self.queue_least)
        if not queue <= RUNAWAY * self.queue_least:
            raise NumericalError(
                f"lyaplock's queue ran away ({queue:.3g}): raise allowance (now {self.allowance:g}), or lower "
                f"queue_gain (now {self.queue_gain:g}) or queue_drift (now {self.queue_drift:g})"
            )
        return {PAST: past, QUEUE: past.new_tensor(queue), ALLOWED: past.new_tensor(allowed)}
