"""What sets families apart, against the model's own computation: windows, and what lies behind the MLP's projection."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FAMILIES, WINDOWED, ModelMaker, TokenizerMaker
from test_values import CONTEXTS, REQUESTS

from sphere.config.values import ValueSettings
from sphere.editing.contexts import Contexts
from sphere.editing.edit import edit
from sphere.editing.keys import keys_and_outputs
from sphere.editing.values import target_values
from sphere.errors import InputError
from sphere.models.adapters import FAMILIES as ROWS
from sphere.models.adapters import Adapter
from sphere.models.checks import check_arrival
from sphere.models.tokens import encode

NORMED = [name for name in FAMILIES if ROWS[name].behind]
VALUES = ValueSettings(lr=0.3, steps=8, clamp_norm_factor=1.0, weight_decay=0.01)


def test_the_families_with_a_norm_behind_the_projection_are_among_those_tested() -> None:
    assert NORMED == ["olmo2", "gemma2", "gemma3_text"]


def with_gains(model: torch.nn.Module) -> torch.nn.Module:
    """The norms' weights drawn, for a norm whose gain is one everywhere hides mistakes."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "norm" in name and parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_rome_reaches_its_target_value(family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    """The bare prompt's state behind the edited layer is z, whatever lies between the projection and that state."""
    tokenizer = tiny_tokenizer(True)
    model = with_gains(tiny_model(family, len(tokenizer)).double())
    parts, request = Adapter(model), REQUESTS[:1]
    wanted = target_values(parts, tokenizer, request, CONTEXTS, layer=1, settings=VALUES).values
    before = keys_and_outputs(parts, tokenizer, request, CONTEXTS, layers=[1], last=1).outputs
    own = {"values": VALUES.plain()}
    edit(model, tokenizer, request, method="rome", layers=[1], contexts=CONTEXTS, hyperparameters=own)
    after = keys_and_outputs(parts, tokenizer, request, CONTEXTS, layers=[1], last=1).outputs
    assert float((wanted - before).norm()) > 0.05 * float(before.norm()), "the test needs a step"
    assert float((wanted - after).norm()) < 1e-5 * float((wanted - before).norm())


@pytest.mark.parametrize("family", NORMED)
def test_what_a_norm_lets_through_is_the_nearest_in_direction(
    family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """Against a search by gradient over all outputs of the projection."""
    model = with_gains(tiny_model(family, 64).double())
    parts, generator = Adapter(model), torch.Generator().manual_seed(0)
    output, change = torch.randn(2, 3, 32, generator=generator, dtype=torch.float64)
    norm = parts.layer(1).post_feedforward_layernorm
    sent = parts.sent(1, output, change)
    torch.testing.assert_close((output + sent).norm(dim=1), output.norm(dim=1), rtol=1e-6, atol=0)
    torch.testing.assert_close(parts.reachable(1, output, change), norm(output + sent) - norm(output))
    aim = (norm(output) + change) / parts.arrives(1, torch.full((32,), 1e3, dtype=torch.float64))
    free = torch.zeros_like(output, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=0.05)
    with torch.enable_grad():
        for _ in range(600):
            optimizer.zero_grad()
            (-torch.cosine_similarity(output + free, aim).sum()).backward()
            optimizer.step()
    found = torch.cosine_similarity(norm(output + free.detach()), norm(output + sent))
    torch.testing.assert_close(found, torch.ones_like(found), rtol=1e-4, atol=0)
    exact = parts.reachable(1, output, norm(output + change) - norm(output))  # what can arrive does
    torch.testing.assert_close(exact, norm(output + change) - norm(output), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_family_passes_the_check_at_load(family: str, dtype: torch.dtype, tiny_model: ModelMaker) -> None:
    check_arrival(Adapter(with_gains(tiny_model(family, 64)).to(dtype)), 1)


@pytest.mark.parametrize("family", ["llama", "granite", "olmo2", "gpt2"])
def test_a_model_that_changes_what_its_mlp_puts_out_is_refused(family: str, tiny_model: ModelMaker) -> None:
    model = tiny_model(family, 64)
    Adapter(model).layer(1).mlp.register_forward_hook(lambda _module, _args, output: 0.7 * output.tanh())
    with pytest.raises(InputError, match="layer 1's MLP does not enter the residual stream as its family's row says"):
        check_arrival(Adapter(model), 1)


def test_a_model_that_changes_its_logits_is_refused(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    model, tokenizer = tiny_model("llama", 384), tiny_tokenizer(True)
    model.lm_head.register_forward_hook(lambda _module, _args, output: 2 * output)
    check_arrival(Adapter(model), 1)
    model.register_forward_hook(lambda _module, _args, output: setattr(output, "logits", 2 * output.logits))
    with pytest.raises(InputError, match="its logits are not what norm and head make"):
        edit(model, tokenizer, REQUESTS, method="ft", layers=[1])


SHORT: dict[str, dict[str, Any]] = {
    "qwen2": {"use_sliding_window": True, "max_window_layers": 2},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 2},
    "smollm3": {"use_sliding_window": True, "max_window_layers": 0},
}


@pytest.mark.parametrize("family", WINDOWED)
@pytest.mark.parametrize("window", [2, 5])
def test_target_values_see_what_each_layer_sees(
    window: int, family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    """The loss before any step is the model's own, for windows shorter than the text."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model(family, len(tokenizer), sliding_window=window, **SHORT.get(family, {})).double()
    wide = tiny_model(family, len(tokenizer), sliding_window=100, **SHORT.get(family, {})).double()
    assert any(Adapter(model).window(i) == window for i in range(2, 4)), "the test needs a window above layer 1"
    still = ValueSettings(lr=1e-300, steps=2, kl_factor=0, weight_decay=0, stop_loss=0)
    losses = target_values(Adapter(model), tokenizer, REQUESTS, Contexts(), layer=1, settings=still).losses
    for found, request in zip(losses.tolist(), REQUESTS, strict=True):
        text = encode(tokenizer, request.prompt, target=request.target_new)
        own, other = (
            _loss(each(torch.tensor([text.ids])).logits[0], text.ids, text.target_start or 0) for each in (model, wide)
        )
        assert found == pytest.approx(own, rel=1e-5)
        assert own != pytest.approx(other, rel=1e-4), "the test needs a window that matters"


def _loss(logits: torch.Tensor, ids: tuple[int, ...], start: int) -> float:
    targets = torch.tensor(ids[start:])
    return float(torch.nn.functional.cross_entropy(logits[start - 1 : len(ids) - 1], targets))
