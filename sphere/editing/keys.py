"""Keys and outputs of a batch of requests, under a model's weights as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sphere.data.records import EditRequest
from sphere.editing.contexts import Contexts
from sphere.editing.values import encode_in_contexts
from sphere.models.adapters import Adapter
from sphere.models.batching import DEFAULT_TOKEN_BUDGET, run_in_batches
from sphere.models.hooks import capture_inputs, capture_output, forward
from sphere.models.tokens import pad_id, right_pad


@dataclass(frozen=True)
class Seen:
    """What a model shows of n requests, float64."""

    keys: dict[int, Tensor]
    """Layer -> (d_in, n): the key, its mean over context types of the mean over the contexts of a type."""
    bare_keys: dict[int, Tensor]
    """Layer -> (d_in, n): the key at the bare prompt."""
    outputs: Tensor
    """(d, n): the output of the last edited layer at the bare prompt."""


@torch.no_grad()
def keys_and_outputs(
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    *,
    layers: Sequence[int],
    last: int,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
) -> Seen:
    """Keys at ``layers`` and outputs of layer ``last`` at each request's subject's last token.

    Nothing behind that token is run. (MEMIT, Meng et al. 2023, eq. 19.)
    """
    rows: list[tuple[int, ...]] = []
    for request in requests:
        for encoded in encode_in_contexts(tokenizer, request, contexts, target=False):
            assert encoded.subject_last is not None
            rows.append(encoded.ids[: encoded.subject_last + 1])
    place, each = adapter.device, len(contexts.prefixes)
    modules = {i: adapter.projection(i) for i in layers}
    exact: Any = {"dtype": torch.float64, "device": place}
    found = {i: torch.empty(len(rows), adapter.weight(i).shape[1], **exact) for i in layers}
    outputs = torch.empty(len(rows), adapter.model.config.hidden_size, **exact)
    pad = pad_id(tokenizer)

    def run(batch: list[int]) -> None:
        ids, mask = right_pad([rows[i] for i in batch], pad, place)
        with capture_inputs(modules) as inputs, capture_output(adapter.layer(last), stop=True) as states:
            forward(adapter.backbone, input_ids=ids, attention_mask=mask, use_cache=False)
        at = torch.arange(len(batch), device=place), mask.sum(1) - 1
        for i in layers:
            found[i][batch] = inputs[i][at].double()
        outputs[batch] = states[0][at].double()

    run_in_batches([len(row) for row in rows], run, token_budget=token_budget)
    weights = torch.tensor(contexts.weights, dtype=torch.float64, device=place)
    keys = {i: torch.einsum("ncd,c->dn", k.view(len(requests), each, -1), weights) for i, k in found.items()}
    return Seen(keys, {i: k[::each].T for i, k in found.items()}, outputs[::each].T)
