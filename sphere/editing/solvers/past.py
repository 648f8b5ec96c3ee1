"""What solvers with a past remember: the keys they wrote at, and what a post-process cut away of their updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from sphere.editing.solvers.base import Memory

PAST = "past"
"""M, the sum of K K^T over the batches so far, in a solver's memory: (d_in, d_in) float64."""
LEFT = "left"
"""E, the gradient that post-processes left behind (``left_behind``), in a solver's memory: (d_out, d_in) float64."""


def accumulated(memory: Memory, keys: Tensor | None) -> Memory:
    """``memory`` with K K^T added to M, K (d_in, n) the keys as they are after the batch.

    Raises NumericalError if the product is not finite.
    """
    from sphere.geometry.linalg import require_finite

    assert keys is not None, "the solver says needs_keys_after"
    product = keys @ keys.T
    require_finite(product, "the key products after the batch")
    return {PAST: memory[PAST] + product if PAST in memory else product}


def left_behind(update: Tensor, applied: Tensor, system: Tensor) -> Memory:
    """E = (p(dW) - dW) A under its name; nothing where post-processes left the update as it was.

    A (d_in, d_in) is the system that dW (d_out, d_in) solves, so E is the gradient of its least-squares objective at
    the weights that stand after the post-process p: the next update, solved with R K^T - E for R K^T, is the exact
    Newton step (OTE-SE, "The Labyrinth and the Thread", ICML 2026, arXiv 2605.26670).
    """
    change = applied - update
    return {LEFT: change @ system} if bool(change.any()) else {}
