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
from sphere.models.hooks import capture_calls, capture_inputs, capture_output, forward, hidden
from sphere.models.tokens import PAD, right_pad


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
    rows = _rows(tokenizer, requests, contexts)
    place = adapter.device
    modules = {i: adapter.projection(i) for i in layers}
    found, outputs = _room(adapter, len(rows), layers)

    def run(batch: list[int]) -> None:
        ids, mask = right_pad([rows[i] for i in batch], PAD, place)
        with capture_inputs(modules) as inputs, capture_output(adapter.layer(last), stop=True) as states:
            forward(adapter.backbone, input_ids=ids, attention_mask=mask, use_cache=False)
        at = torch.arange(len(batch), device=place), mask.sum(1) - 1
        for i in layers:
            found[i][batch] = inputs[i][at].double()
        outputs[batch] = states[0][at].double()

    run_in_batches([len(row) for row in rows], run, token_budget=token_budget)
    return _seen(found, outputs, contexts)


class Ascent:
    """Keys and outputs of one batch of requests, layer after layer, while the layers already seen are edited.

    What lies below an edited layer does not change, so each layer is run again from its own recorded input upwards:
    five layers take one pass from the bottom instead of five.
    """

    def __init__(
        self,
        adapter: Adapter,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[EditRequest],
        contexts: Contexts,
        *,
        last: int,
        token_budget: int = DEFAULT_TOKEN_BUDGET,
    ) -> None:
        self.adapter, self.contexts, self.last, self.token_budget = adapter, contexts, last, token_budget
        self.rows = _rows(tokenizer, requests, contexts)
        self.climbs: list[_Climb] = []

    @torch.no_grad()
    def at(self, layer: int) -> Seen:
        """``keys_and_outputs`` of ``layer`` alone, under the weights as they stand.

        Layers are asked for in ascending order, and weights below the layer asked for last have stayed as they were.
        """
        found, outputs = _room(self.adapter, len(self.rows), [layer])
        if not self.climbs:

            def run(batch: list[int]) -> None:
                texts = [self.rows[i] for i in batch]
                climb, found[layer][batch], outputs[batch] = _Climb.begin(self.adapter, batch, texts, layer, self.last)
                self.climbs.append(climb)

            run_in_batches([len(row) for row in self.rows], run, token_budget=self.token_budget)
        else:
            for climb in self.climbs:
                found[layer][climb.rows], outputs[climb.rows] = climb.go_on(self.adapter, layer, self.last)
        return _seen(found, outputs, self.contexts)


@dataclass
class _Climb:
    """A micro-batch of an ``Ascent``: what goes into the layer that it stands at, and how the layers are called."""

    rows: list[int]
    ends: Tensor
    """(B,) the column of each row's subject's last token."""
    layer: int
    state: Tensor
    """(B, T, d) the input of ``layer``."""
    arguments: dict[int, dict[str, Any]]
    """Layer -> the other arguments of its call."""

    @classmethod
    def begin(
        cls, adapter: Adapter, rows: list[int], texts: Sequence[Sequence[int]], layer: int, last: int
    ) -> tuple[_Climb, Tensor, Tensor]:
        """Run ``texts`` from the bottom to ``last``; also the keys (B, d_in) at ``layer`` and the outputs (B, d)."""
        ids, mask = right_pad(texts, PAD, adapter.device)
        layers = range(layer, last + 1)
        with (
            capture_calls([adapter.layer(i) for i in layers]) as calls,
            capture_inputs({layer: adapter.projection(layer)}) as keys,
            capture_output(adapter.layer(last), stop=True) as outputs,
        ):
            forward(adapter.backbone, input_ids=ids, attention_mask=mask, use_cache=False)
        state, *_ = [call.pop("hidden_states") for call in calls]
        climb = cls(rows, mask.sum(1) - 1, layer, state, dict(zip(layers, calls, strict=True)))
        return climb, climb._end(keys[layer]), climb._end(outputs[0])

    def go_on(self, adapter: Adapter, layer: int, last: int) -> tuple[Tensor, Tensor]:
        """Run from where it stands to ``last``, and stand at ``layer`` then: keys and outputs, as of ``begin``."""
        state = self.state
        with capture_inputs({layer: adapter.projection(layer)}) as keys:
            for i in range(self.layer, last + 1):
                if i == layer:
                    self.state = state
                state = hidden(adapter.layer(i)(state, **self.arguments[i]))
        self.layer = layer
        return self._end(keys[layer]), self._end(state)

    def _end(self, states: Tensor) -> Tensor:
        """Their columns at the rows' ends, float64."""
        return states[torch.arange(len(self.rows), device=states.device), self.ends].double()


def _rows(
    tokenizer: PreTrainedTokenizerBase, requests: Sequence[EditRequest], contexts: Contexts
) -> list[tuple[int, ...]]:
    """Every request behind every prefix, up to its subject's last token."""
    rows = []
    for request in requests:
        for encoded in encode_in_contexts(tokenizer, request, contexts, target=False):
            assert encoded.subject_last is not None
            rows.append(encoded.ids[: encoded.subject_last + 1])
    return rows


def _room(adapter: Adapter, count: int, layers: Sequence[int]) -> tuple[dict[int, Tensor], Tensor]:
    """Empty keys (count, d_in) of each layer, and outputs (count, d)."""
    exact: Any = {"dtype": torch.float64, "device": adapter.device}
    keys = {i: torch.empty(count, adapter.weight(i).shape[1], **exact) for i in layers}
    return keys, torch.empty(count, adapter.model.config.hidden_size, **exact)


def _seen(found: dict[int, Tensor], outputs: Tensor, contexts: Contexts) -> Seen:
    """Each request's means over its contexts, which are consecutive rows, the bare prompt's first."""
    each = len(contexts.prefixes)
    weights = torch.tensor(contexts.weights, dtype=torch.float64, device=outputs.device)
    keys = {i: torch.einsum("ncd,c->dn", k.view(-1, each, k.shape[1]), weights) for i, k in found.items()}
    return Seen(keys, {i: k[::each].T for i, k in found.items()}, outputs[::each].T)
