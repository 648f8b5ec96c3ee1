"""What must not matter to an edit: how weights are laid out, how a tokenizer pads, how narrow the model's dtype is."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from conftest import FAMILIES, ModelMaker, TokenizerMaker
from test_sequential import CORPUS, FAST, LAYERS, METHODS, hyperparameters
from test_values import REQUESTS
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sphere.editing.edit import edit
from sphere.editing.state import EditState
from sphere.models import adapters
from sphere.models.adapters import adapter


def run(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> EditState:
    """Edit with statistics and contexts of the model's own."""
    settings = hyperparameters(name)
    return edit(
        model,
        tokenizer,
        REQUESTS,
        method=name,
        layers=LAYERS,
        values=FAST,
        corpus=CORPUS,
        hyperparameters=settings,
        batch_size=2,
    )


@pytest.mark.parametrize("name", ["memit", "sphere", "ft"])
def test_a_plain_layout_is_edited_to_the_same_function_as_a_transposed_one(
    name: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPT-2 and a twin of it whose projections are linear layers."""
    tokenizer = tiny_tokenizer(True)
    transposed = tiny_model("gpt2", len(tokenizer)).double()
    plain = deepcopy(transposed)
    for block in plain.transformer.h:
        stored = block.mlp.c_proj
        block.mlp.c_proj = nn.Linear(*stored.weight.shape, dtype=torch.float64).requires_grad_(False)
        block.mlp.c_proj.weight.copy_(stored.weight.T)
        block.mlp.c_proj.bias.copy_(stored.bias)
    text = torch.tensor([tokenizer("Ada Lovelace lives in the city of")["input_ids"]])
    before = transposed(text).logits
    torch.testing.assert_close(plain(text).logits, before)
    run(name, transposed, tokenizer)
    monkeypatch.setitem(adapters.FAMILIES, "gpt2", replace(adapters.FAMILIES["gpt2"], transposed=False))
    run(name, plain, tokenizer)
    after = transposed(text).logits
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(plain(text).logits, after, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("name", ["sphere", "ft"])
def test_padding_side_and_token_change_nothing(
    name: str, add_bos: bool, family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """From sampled contexts and statistics to the edited weights, to the bit."""
    states = []
    for side, token in (("right", None), ("left", "</s>"), ("left", "[PAD]")):  # the last is beyond the embedding
        tokenizer = tiny_tokenizer(add_bos)
        tokenizer.padding_side = side
        if token:
            tokenizer.add_special_tokens({"pad_token": token})
        states.append(run(name, tiny_model(family, 384), tokenizer))
    for state in states[1:]:
        assert all(torch.equal(states[0].weights[i], state.weights[i]) for i in state.weights)


BFLOAT16 = [(name, "llama") for name in METHODS] + [("sphere", family) for family in FAMILIES if family != "llama"]


@pytest.mark.parametrize(("name", "family"), BFLOAT16)
def test_bfloat16_models_are_edited_and_keep_float32_weights(
    name: str, family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model(family, len(tokenizer)).bfloat16()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = run(name, model, tokenizer)
    after = model.state_dict()
    names = {adapter(model).weight_name(i) for i in state.weights}
    assert {key for key, value in after.items() if not torch.equal(value, before[key])} == names
    assert {value.dtype for value in after.values()} == {value.dtype for value in before.values()}
    for i, weight in state.weights.items():
        assert weight.dtype == torch.float32
        assert torch.isfinite(weight).all()
        assert torch.equal(adapter(model).weight(i), weight.bfloat16())
