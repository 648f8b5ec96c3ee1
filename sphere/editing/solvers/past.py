"""M, the sum of K K^T over the batches so far: what MEMIT-seq, AlphaEdit and ENCORE remember."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from sphere.editing.solvers.base import Memory

PAST = "past"
"""Its name in a solver's memory: (d_in, d_in) float64."""


def accumulated(memory: Memory, keys: Tensor | None) -> Memory:
    """``memory`` with K K^T added to M, K (d_in, n) the keys as they are after the batch.

    Raises NumericalError if the product is not finite.
    """
    from sphere.geometry.linalg import require_finite

    assert keys is not None, "the solver says needs_keys_after"
    product = keys @ keys.T
    require_finite(product, "the key products after the batch")
    return {PAST: memory[PAST] + product if PAST in memory else product}
