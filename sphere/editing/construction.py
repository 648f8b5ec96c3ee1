"""Target construction: what each edited layer is to put out at a subject (``values.residual``, ``values.anchor``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing.contexts import Contexts
from sphere.editing.replay import Row, record
from sphere.editing.values import target_values
from sphere.models.adapters import Adapter
from sphere.models.batching import DEFAULT_TOKEN_BUDGET, run_in_batches
from sphere.models.tokens import encode_many

TRIMMED = 0.1
"""Share of the longest target values that the anchor's mean leaves out (ours)."""
TOO_LONG = 2.0
"""Times the anchor: a request whose value is longer is skipped (NAS, arXiv 2602.02543)."""


def target_layers(layers: Sequence[int], settings: ValueSettings) -> tuple[int, ...]:
    """Those of the edited ``layers`` that have target values of their own: MEMIT's is the last one's, for all."""
    return tuple(layers) if settings.residual != "spread" else (layers[-1],)


@torch.no_grad()
def targets_by_layer(
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    *,
    layers: Sequence[int],
    settings: ValueSettings,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
) -> dict[int, Tensor]:
    """Layer -> z (d, n) float64, for each of the ``target_layers`` of the edited ``layers``, on the model as it stands.

    ``ends`` optimises a value at each of them (BLUE, arXiv 2502.03748); ``replay`` at the first alone, and the later
    ones' are what they put out in one pass with it (FE, arXiv 2605.00358).
    """

    def optimised(layer: int) -> Tensor:
        return target_values(
            adapter, tokenizer, requests, contexts, layer=layer, settings=settings, token_budget=token_budget
        ).values

    own = target_layers(layers, settings)
    if settings.residual != "replay":
        return {layer: optimised(layer) for layer in own}
    first = optimised(own[0])
    found = {own[0]: first, **{layer: torch.empty_like(first) for layer in own[1:]}}
    encoded = encode_many(tokenizer, [(r.prompt, None, r.subject_end) for r in requests])
    rows = [Row(item.ids[: (item.subject_last or 0) + 1], item.subject_last or 0) for item in encoded]

    def replayed(batch: list[int]) -> None:
        recorded = record(adapter, [rows[i] for i in batch], layer=own[0])
        states = recorded.walk(first[:, batch].T.to(recorded.tail.dtype))
        for layer, state in zip(range(own[0], own[-1] + 1), states, strict=False):
            if layer in own[1:]:
                found[layer][:, batch] = state[recorded.pivots].T.double()

    if len(own) > 1:
        run_in_batches([len(row.ids) for row in rows], replayed, token_budget=token_budget)
    return found


def wanted_targets(
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    *,
    layers: Sequence[int],
    settings: ValueSettings,
    pretrained: Mapping[int, Tensor],
    known: Mapping[int, Tensor],
    token_budget: int = DEFAULT_TOKEN_BUDGET,
) -> dict[int, Tensor]:
    """``targets_by_layer`` of the model as it stands, or, under ``weights: pretrained``, of the unedited one.

    ``pretrained`` are the edited layers' weights before any edit, and ``known`` the target values (layers, d) of the
    cases that the unedited model's have been found for.
    """
    given: dict[str, Any] = {"layers": layers, "settings": settings, "token_budget": token_budget}
    if settings.weights == "current":
        return targets_by_layer(adapter, tokenizer, requests, contexts, **given)
    found = dict(known)
    if missing := [request for request in requests if request.case_id not in known]:
        shown = {i: adapter.weight(i).clone() for i in layers}
        try:
            for i in layers:
                adapter.set_weight(i, pretrained[i])
            new = torch.stack(list(targets_by_layer(adapter, tokenizer, missing, contexts, **given).values()))
        finally:
            for i, weight in shown.items():
                adapter.set_weight(i, weight)
        found |= {request.case_id: new[:, :, n] for n, request in enumerate(missing)}
    every = torch.stack([found[request.case_id].to(adapter.device) for request in requests], dim=2)  # (layers, d, n)
    return dict(zip(target_layers(layers, settings), every, strict=True))


def anchors_of(targets: Mapping[int, Tensor]) -> dict[int, float]:
    """Layer -> the mean length of its target values (d, n), the longest tenth left out."""
    found = {}
    for layer, values in targets.items():
        lengths = values.norm(dim=0).sort().values
        found[layer] = float(lengths[: max(1, round((1 - TRIMMED) * len(lengths)))].mean())
    return found


def anchored(
    requests: Sequence[EditRequest], targets: Mapping[int, Tensor], anchors: Mapping[int, float]
) -> tuple[list[EditRequest], dict[int, Tensor]]:
    """Target values scaled to the anchor's length, without the requests, and theirs, whose values are too long."""
    lengths = {i: values.norm(dim=0) for i, values in targets.items()}
    kept = torch.stack([length <= TOO_LONG * anchors[i] for i, length in lengths.items()]).all(0)  # (n,)
    chosen = [request for request, keep in zip(requests, kept.tolist(), strict=True) if keep]
    return chosen, {i: (values * (anchors[i] / lengths[i]))[:, kept] for i, values in targets.items()}
