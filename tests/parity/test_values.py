"""Batched target values with replayed tails against one request at a time through the whole model."""

from __future__ import annotations

import pytest
import torch
from conftest import FAMILIES, ModelMaker, TokenizerMaker
from plain import target_value

from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing.contexts import Contexts
from sphere.editing.values import target_values
from sphere.errors import InputError
from sphere.models.adapters import Adapter

CONTEXTS = Contexts((("",), ("The capital of France is. ", "He is a runner in the. ")))
REQUESTS = (
    EditRequest(1, "Ada Lovelace", "The mother tongue of Ada Lovelace is", 21, "French", "English"),
    EditRequest(2, "Emil Zátopek", "Emil Zátopek lives in the city of", 0, "New York City", "Prague"),
    EditRequest(3, "Paris", "What is the capital? Paris is", 21, "London", "Rome"),
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("add_bos", [True, False])
def test_batched_values_equal_one_at_a_time(
    family: str, add_bos: bool, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(add_bos)
    model = tiny_model(family, len(tokenizer)).double()
    settings = ValueSettings(lr=0.2, steps=12, clamp_norm_factor=1.5, weight_decay=0.1, kl_factor=0.5, stop_loss=0.5)
    got = target_values(Adapter(model), tokenizer, REQUESTS, CONTEXTS, layer=1, settings=settings)
    for column, request in enumerate(REQUESTS):
        expected = target_value(Adapter(model), tokenizer, request, CONTEXTS, layer=1, settings=settings)
        torch.testing.assert_close(got.values[:, column], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", [0, 2])
def test_first_and_last_layer_with_layers_above(
    layer: int, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer)).double()
    settings = ValueSettings(lr=0.1, steps=5)
    got = target_values(Adapter(model), tokenizer, REQUESTS, CONTEXTS, layer=layer, settings=settings)
    for column, request in enumerate(REQUESTS):
        expected = target_value(Adapter(model), tokenizer, request, CONTEXTS, layer=layer, settings=settings)
        torch.testing.assert_close(got.values[:, column], expected, rtol=1e-6, atol=1e-6)


def test_finished_requests_stop_while_others_go_on(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer)).double()
    settings = ValueSettings(lr=0.5, steps=40, clamp_norm_factor=5.0, stop_loss=6.5, weight_decay=0.0, kl_factor=0.0)
    got = target_values(Adapter(model), tokenizer, REQUESTS, CONTEXTS, layer=1, settings=settings)
    assert len(set(got.steps.tolist())) > 1, "the test needs requests that finish at different steps"
    for column, request in enumerate(REQUESTS):
        expected = target_value(Adapter(model), tokenizer, request, CONTEXTS, layer=1, settings=settings)
        torch.testing.assert_close(got.values[:, column], expected, rtol=1e-5, atol=1e-5)


def test_token_budget_changes_nothing_but_rounding(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(False)
    model = tiny_model("gpt2", len(tokenizer)).double()
    settings = ValueSettings(steps=5)
    one = target_values(Adapter(model), tokenizer, REQUESTS, CONTEXTS, layer=1, settings=settings)
    other = target_values(Adapter(model), tokenizer, REQUESTS, CONTEXTS, layer=1, settings=settings, token_budget=1)
    torch.testing.assert_close(one.values, other.values, rtol=1e-8, atol=1e-8)


def test_last_layer_is_refused(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    with pytest.raises(InputError, match="edit an earlier one"):
        target_values(Adapter(model), tokenizer, REQUESTS, CONTEXTS, layer=3, settings=ValueSettings())
