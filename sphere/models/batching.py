"""Token rows in micro-batches under a budget of padded tokens, which out-of-memory errors halve."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

from sphere.errors import out_of_memory

DEFAULT_TOKEN_BUDGET = 8192
"""Padded tokens in one forward pass."""
KEPT_SHARE = 8
"""A pass that keeps what gradients need takes this part of the tokens of one that does not."""
CHUNK = 512
"""Positions whose logits are there at once, where a text's loss is taken."""


def run_in_batches(
    lengths: Sequence[int],
    run: Callable[[list[int]], None],
    *,
    token_budget: int,
) -> None:
    """Call ``run`` on lists of row indices, longest rows first, so that rows x longest row <= ``token_budget``.

    ``run`` must store its own results, since a batch that runs out of memory is run again in halves. One row is always
    tried, whatever the budget; a single row that does not fit raises the out-of-memory error it met.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget {token_budget} must be at least 1")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        batch, longest = order[start : start + 1], lengths[order[start]]
        for i in order[start + 1 :]:
            if (len(batch) + 1) * max(longest, lengths[i]) > token_budget:
                break
            batch.append(i)
            longest = max(longest, lengths[i])
        try:
            run(batch)
        except RuntimeError as error:
            if len(batch) == 1 or not out_of_memory(error):
                raise
            token_budget = len(batch) * longest // 2
        else:
            start += len(batch)
            continue
        import torch

        gc.collect()  # outside the except block, where the error still holds the failed batch's tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
