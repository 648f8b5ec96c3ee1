"""Batched target values with replayed tails against one request at a time through the whole model."""

from __future__ import annotations

import pytest
import torch
from conftest import FAMILIES, ModelMaker, TokenizerMaker
from plain import target_value
from pydantic import ValidationError

from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing.contexts import Contexts
from sphere.editing.values import target_values
from sphere.errors import InputError
from sphere.models.adapters import Adapter
from sphere.models.tokens import encode

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
        # some compute parts in float32
        torch.testing.assert_close(got.values[:, column], expected, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_clamp_and_decay_can_be_relative_to_the_mlp_s_output(
    family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """ROME's: the same optimisation, measured by the norm of what is added to."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model(family, len(tokenizer)).double()
    given = {"lr": 0.5, "steps": 12, "clamp_norm_factor": 0.5, "weight_decay": 2.0, "stop_loss": 5.0}
    settings = ValueSettings(**given, relative_to="mlp")
    got = target_values(Adapter(model), tokenizer, REQUESTS, CONTEXTS, layer=1, settings=settings)
    hidden = settings.model_copy(update={"relative_to": "hidden"})
    other = target_values(Adapter(model), tokenizer, REQUESTS, CONTEXTS, layer=1, settings=hidden)
    for column, request in enumerate(REQUESTS):
        expected = target_value(Adapter(model), tokenizer, request, CONTEXTS, layer=1, settings=settings)
        torch.testing.assert_close(got.values[:, column], expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(other.values, got.values, rtol=1e-3, atol=1e-3)


def test_n_evaluations_of_the_loss_are_n_less_one_updates(
    tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer)).double()
    evaluations: list[int] = []
    handle = model.lm_head.register_forward_hook(lambda *_: evaluations.append(1))
    free = {"stop_loss": 0, "kl_factor": 0, "weight_decay": 0, "clamp_norm_factor": 1e6}
    got = target_values(
        Adapter(model), tokenizer, REQUESTS[:1], Contexts(), layer=1, settings=ValueSettings(lr=1e-3, steps=5, **free)
    )
    handle.remove()
    assert got.steps.tolist() == [4]
    assert len(evaluations) == 5, "one a step: the targets, and the prompt of the KL divergence with them"
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        ValueSettings(steps=1)


def test_the_divergence_is_of_the_edited_from_the_unedited(
    tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """ROME's equation 4: with next to no other term, the loss after the first update is KL(after || before)."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer)).double()
    parts, request = Adapter(model), REQUESTS[0]
    base = {"lr": 3.0, "clamp_norm_factor": 1e6, "weight_decay": 0, "stop_loss": 0}
    one, weighed = (
        target_values(
            parts, tokenizer, [request], Contexts(), layer=1, settings=ValueSettings(steps=2, kl_factor=factor, **base)
        )
        for factor in (0, 1.0)
    )
    torch.testing.assert_close(one.values, weighed.values)  # KL has no gradient where nothing has moved
    still = ValueSettings(steps=2, kl_factor=0, **base | {"lr": 1e-300})
    clean = target_values(parts, tokenizer, [request], Contexts(), layer=1, settings=still)
    move = (one.values - clean.values)[:, 0]
    text = encode(tokenizer, "Ada Lovelace is a", subject_end=12)

    def log_p() -> torch.Tensor:
        return model(torch.tensor([text.ids])).logits[0, text.subject_last].log_softmax(-1)

    before = log_p()

    def shift(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        moved = output.clone()
        moved[0, text.subject_last] += move
        return moved

    handle = parts.layer(1).register_forward_hook(shift)
    after = log_p()
    handle.remove()
    forward, backward = (after.exp() * (after - before)).sum(), (before.exp() * (before - after)).sum()
    assert abs(float(forward - backward)) > 0.01 * float(forward), "the test needs the two to differ"
    assert float(weighed.losses[0] - one.losses[0]) == pytest.approx(float(forward), rel=1e-4)


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
