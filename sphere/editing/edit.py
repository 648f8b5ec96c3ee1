"""The one call: edit a model in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing.batches import batches_of
from sphere.editing.contexts import Contexts, sample_contexts
from sphere.editing.loop import Editor
from sphere.editing.measurement import Record
from sphere.editing.methods import resolve
from sphere.editing.state import EditState
from sphere.editing.stats import Statistics, collect_statistics
from sphere.errors import InputError
from sphere.models.adapters import Adapter, adapter
from sphere.models.checks import check_arrival
from sphere.models.loading import default_layers


@contextmanager
def _as_usual() -> Iterator[None]:
    """float32 as torch's default, and gradients possible, whatever the caller has set."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False):
            yield
    finally:
        torch.set_default_dtype(usual)


@_as_usual()
def edit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    *,
    method: str = "sphere",
    layers: Sequence[int] | None = None,
    values: ValueSettings | None = None,
    contexts: Contexts | None = None,
    corpus: Sequence[str] | None = None,
    statistics: Statistics | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    state: EditState | None = None,
    batch_size: int = 100,
    seed: int = 0,
    on_batch: Callable[[Record], None] | None = None,
) -> EditState:
    """Edit ``model`` in place and return the state, which a later call can continue.

    ``statistics`` are the key second moments, or ``corpus`` the documents to take them from (of the unedited model).
    ``layers`` defaults to MEMIT's choice scaled to the model's depth (``default_layers``), ``contexts`` to the state's,
    or to five prefixes sampled from the unedited model with ``seed``. A state is continued on the model it was returned
    with, or, read from a file, on the unedited one. Raises InputError on bad input, before anything is computed, and
    NumericalError if an edited weight is beyond what the model's dtype holds.
    """
    own = {**(hyperparameters or {})}
    if values is not None:  # what the caller says goes over what a row says
        own["values"] = values.model_dump(exclude_unset=True) | dict(own.get("values", {}))
    chosen = resolve(method, hyperparameters=own)
    if not requests:
        raise InputError("there is nothing to edit: give at least one request")
    for remark in chosen.remarks:
        logging.getLogger(__name__).warning(remark)
    parts = adapter(model)
    where = tuple(layers) if layers is not None else default_layers(parts.n_layers)
    edited = chosen.edited_layers(where, values or ValueSettings())
    for i in edited:
        parts.layer(i)
    list(batches_of(requests, batch_size, parts, tokenizer, contexts or Contexts()))
    needs = chosen.needs_statistics
    if needs and statistics is None and corpus is None:
        raise InputError(f"{method} needs key second moments: give statistics, or a corpus to take them from")
    if state is not None and contexts is None:
        contexts = state.contexts
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise InputError("the model was loaded inside torch.inference_mode(): load it outside, where it can be edited")
    training = model.training
    model.eval()
    try:
        check_arrival(parts, edited[-1])
        if needs and statistics is None:
            with _unedited(parts, state):
                statistics = collect_statistics(
                    parts, tokenizer, corpus or (), edited, gradients=chosen.needs_gradients
                )
        if contexts is None:
            generator = torch.Generator().manual_seed(seed)
            contexts = sample_contexts(parts, tokenizer, count=5, length=10, generator=generator)
        editor = Editor(
            model,
            tokenizer,
            chosen,
            layers=where,
            values=values or ValueSettings(),
            contexts=contexts,
            statistics=statistics,
            seed=seed,
            state=state,
        )
        found = editor.run(requests, batch_size=batch_size, on_batch=on_batch)
        parts.check_narrow(editor.layers)
        return found
    finally:
        parts.narrow(edited)
        model.train(training)


@contextmanager
def _unedited(parts: Adapter, state: EditState | None) -> Iterator[None]:
    """The model without ``state``'s edits, where the state knows the weights from before them."""
    before = state.pretrained if state is not None else {}
    edited = {i: parts.weight(i).clone() for i in before}
    try:
        for i, weight in before.items():
            parts.set_weight(i, weight)
        yield
    finally:
        for i, weight in edited.items():
            parts.set_weight(i, weight)
