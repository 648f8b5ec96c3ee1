"""rotate, a control: an editor whose hyperspherical energy cannot move."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import PositiveFloat, PositiveInt

from sphere.editing.component import Layer, Need, Search
from sphere.editing.solvers.base import ClosedFormSolver, LayerProblem, Solution, register
from sphere.editing.solvers.past import PAST, accumulated
from sphere.errors import NumericalError

if TYPE_CHECKING:
    from torch import Tensor

    from sphere.editing.solvers.base import Memory

RANK = 1e-8
"""Relative size below which a direction adds nothing to the plane that is rotated."""


@register
class Rotate(ClosedFormSolver):
    """MEMIT-seq's objective among the rotations of the keys' space: W + dW = W Q^T, Q orthogonal (a control, ours).

    W Q^T has the rows' lengths and angles of W, whatever Q: its energy is the pretrained weight's, batch after batch.
    Q = exp(A), A skew, minimises

        ||W Q^T K - (W K + R)||^2 + tr((W Q^T - W) (lambda C + M) (W Q^T - W)^T).

    A turns the plane that is spanned by the keys, by (lambda C + M + K K^T)^-1 K, from where MEMIT-seq reads, and by
    the cheapest keys that W turns into the residuals, X with W X = R and tr(X^T (lambda C + M) X) smallest: 3 n
    directions B at most, so everything is found in p x p matrices, W Q^T = W + W B (exp(S)^T - I) B^T with S (p, p)
    skew, by L-BFGS from S = 0. Linear algebra on keys, residuals and C alone: no model is in the loop.
    """

    name: ClassVar[str] = "rotate"
    search: ClassVar[Search] = {"second_moment_weight": (20.0, 200.0, 2000.0, 15_000.0)}
    needs_keys_after: ClassVar[bool] = True

    second_moment_weight: PositiveFloat = 15_000.0
    """lambda: how many keys' worth the text's second moment weighs."""
    steps: PositiveInt = 200
    """Iterations of L-BFGS at most."""

    @property
    def needs(self) -> tuple[Need, ...]:
        return ("second_moment",)

    def prepare(self, layer: Layer) -> Tensor:
        return layer.second_moment

    def remembers(self, d_out: int, d_in: int, edits: int) -> dict[str, int]:
        return {PAST: d_in**2}

    def solve(self, problem: LayerProblem) -> Solution:
        import torch

        kept = self.second_moment_weight * problem.prepared  # (d_in, d_in)
        if PAST in problem.memory:
            kept = kept + problem.memory[PAST]
        plane = self._plane(problem, kept)  # (d_in, p)
        seen = problem.weight @ plane  # (d_out, p)
        keys = plane.T @ problem.keys  # (p, n)
        metric, wanted = seen.T @ seen, seen.T @ problem.residuals @ keys.T  # (p, p)
        cost = plane.T @ kept @ plane + keys @ keys.T  # (p, p)
        turned = self._turned(metric, wanted, cost)
        return Solution(seen @ (turned.T - torch.eye(len(turned), dtype=turned.dtype, device=turned.device)) @ plane.T)

    def settle(self, problem: LayerProblem, solution: Solution, applied: Tensor, keys: Tensor | None) -> Memory:
        return accumulated(problem.memory, keys)

    def _plane(self, problem: LayerProblem, kept: Tensor) -> Tensor:
        """B (d_in, p), orthonormal columns: what is rotated."""
        import torch

        from sphere.geometry.linalg import solve_positive_definite

        n = problem.keys.shape[1]
        remedy = "take the key statistics from more text (more tokens than d_in)"
        reads = torch.cat([problem.keys, problem.weight.T], dim=1)  # (d_in, n + d_out)
        cheap = solve_positive_definite(kept, reads, name="rotate's system", remedy=remedy)
        image = problem.weight @ cheap[:, n:]  # (d_out, d_out), W (lambda C + M)^-1 W^T
        remedy = "rows of the weight depend on each other, edit another layer"
        needed = solve_positive_definite(image, problem.residuals, name="rotate's image", remedy=remedy)
        inner = torch.eye(n, dtype=kept.dtype, device=kept.device) + problem.keys.T @ cheap[:, :n]
        parts = [problem.keys, torch.linalg.solve(inner, cheap[:, :n], left=False), cheap[:, n:] @ needed]
        spans = torch.cat([part / part.norm(dim=0).clamp_min(1e-300) for part in parts], dim=1)
        left, values, _ = torch.linalg.svd(spans, full_matrices=False)
        return left[:, values > RANK * values[0]]

    def _turned(self, metric: Tensor, wanted: Tensor, cost: Tensor) -> Tensor:
        """exp(S) (p, p) of the skew S that minimises tr(F cost F^T metric) - 2 tr(F^T wanted), F = exp(S)^T - I."""
        import torch

        size = len(metric)
        scale = (metric.diagonal().mean() * cost.diagonal().mean()).clamp_min(1e-300)
        identity = torch.eye(size, dtype=metric.dtype, device=metric.device)
        with torch.enable_grad():
            free = torch.zeros(size, size, dtype=metric.dtype, device=metric.device, requires_grad=True)
            exact: dict[str, Any] = {"tolerance_grad": 1e-10, "tolerance_change": 1e-14}
            found = torch.optim.LBFGS(
                [free], max_iter=self.steps, history_size=20, line_search_fn="strong_wolfe", **exact
            )

            def loss() -> Tensor:
                found.zero_grad()
                change = torch.linalg.matrix_exp(free - free.T).T - identity
                value = ((change @ cost) * (metric @ change) - 2 * change * wanted).sum() / scale
                value.backward()
                return value

            found.step(loss)
        turned = torch.linalg.matrix_exp((free - free.T).detach())
        if not torch.isfinite(turned).all():
            raise NumericalError("rotate found no rotation: raise second_moment_weight")
        return turned
