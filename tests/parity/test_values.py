"""Batched target values with replayed tails against one request at a time through the whole model."""

from __future__ import annotations

import pytest
import torch
from conftest import FAMILIES, ModelMaker, TokenizerMaker
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sphere.config import ValueSettings
from sphere.contexts import Contexts
from sphere.data import EditRequest
from sphere.errors import InputError
from sphere.models import Adapter
from sphere.tokens import encode
from sphere.values import KL_PROMPT, target_values

CONTEXTS = Contexts((("",), ("The capital of France is. ", "He is a runner in the. ")))
REQUESTS = (
    EditRequest(1, "Ada Lovelace", "The mother tongue of Ada Lovelace is", 21, "French", "English"),
    EditRequest(2, "Emil Zátopek", "Emil Zátopek lives in the city of", 0, "New York City", "Prague"),
    EditRequest(3, "Paris", "What is the capital? Paris is", 21, "London", "Rome"),
)


def plain_target_value(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    request: EditRequest,
    contexts: Contexts,
    layer: int,
    settings: ValueSettings,
) -> Tensor:
    """z (d,) by the textbook: a hook adds delta, the model runs on one unpadded text at a time, torch's own Adam."""
    parts = Adapter(model)
    delta = torch.zeros(model.config.hidden_size, dtype=parts.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([delta], lr=settings.lr)
    seen: list[Tensor] = []

    def logits(ids: tuple[int, ...], at: int, change: Tensor | None) -> Tensor:
        def hook(_module: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:
            state = output[0] if isinstance(output, tuple) else output
            seen.append(state[0, at].detach())
            if change is None:
                return None
            moved = torch.cat([state[:, :at], (state[:, at] + change)[:, None], state[:, at + 1 :]], dim=1)
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        handle = parts.layer(layer).register_forward_hook(hook)
        try:
            return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
        finally:
            handle.remove()

    kl = encode(tokenizer, KL_PROMPT.replace("{}", request.subject), subject_end=len(request.subject))
    with torch.no_grad():
        before = logits(kl.ids, kl.subject_last, None)[kl.subject_last]
        bare = encode(tokenizer, request.prompt, subject_end=request.subject_end)
        logits(bare.ids, bare.subject_last, None)
        initial = seen[-1]
    for _ in range(settings.steps):
        loss = torch.zeros((), dtype=parts.dtype)
        for prefix in contexts.prefixes:
            end = len(prefix) + request.subject_end
            text = encode(tokenizer, prefix + request.prompt, target=request.target_new, subject_end=end)
            log_p = logits(text.ids, text.subject_last, delta)
            start = text.target_start
            picked = [log_p[t - 1, text.ids[t]] for t in range(start, len(text.ids))]
            loss = loss - torch.stack(picked).mean() / len(contexts.prefixes)
        after = logits(kl.ids, kl.subject_last, delta)[kl.subject_last]
        loss = loss + settings.kl_factor * (before.exp() * (before - after)).sum()
        loss = loss + settings.weight_decay * delta.norm() / initial.norm() ** 2
        if loss < settings.stop_loss:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            limit = settings.clamp_norm_factor * initial.norm()
            if delta.norm() > limit:
                delta.mul_(limit / delta.norm())
    return initial + delta.detach()


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
        expected = plain_target_value(model, tokenizer, request, CONTEXTS, 1, settings)
        torch.testing.assert_close(got.values[:, column], expected.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", [0, 2])
def test_first_and_last_layer_with_layers_above(
    layer: int, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer)).double()
    settings = ValueSettings(lr=0.1, steps=5)
    got = target_values(Adapter(model), tokenizer, REQUESTS, CONTEXTS, layer=layer, settings=settings)
    for column, request in enumerate(REQUESTS):
        expected = plain_target_value(model, tokenizer, request, CONTEXTS, layer, settings)
        torch.testing.assert_close(got.values[:, column], expected.double(), rtol=1e-6, atol=1e-6)


def test_finished_requests_stop_while_others_go_on(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer)).double()
    settings = ValueSettings(lr=0.5, steps=40, clamp_norm_factor=5.0, stop_loss=6.5, weight_decay=0.0, kl_factor=0.0)
    got = target_values(Adapter(model), tokenizer, REQUESTS, CONTEXTS, layer=1, settings=settings)
    assert len(set(got.steps.tolist())) > 1, "the test needs requests that finish at different steps"
    for column, request in enumerate(REQUESTS):
        expected = plain_target_value(model, tokenizer, request, CONTEXTS, 1, settings)
        torch.testing.assert_close(got.values[:, column], expected.double(), rtol=1e-5, atol=1e-5)


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
