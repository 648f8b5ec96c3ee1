"""Context templates: seeded, of the unedited model, and weighted by type."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, ModelMaker, TokenizerMaker

from sphere.editing.contexts import STARTERS, Contexts, sample_contexts
from sphere.errors import InputError
from sphere.models.adapters import adapter


def sample(model: object, tokenizer: object, seed: int, count: int = 6, length: int = 8) -> Contexts:
    generator = torch.Generator().manual_seed(seed)
    return sample_contexts(adapter(model), tokenizer, count=count, length=length, generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_contexts_follow_from_the_seed_alone(
    family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model(family, len(tokenizer))
    torch.manual_seed(1)
    one = sample(model, tokenizer, 0)
    torch.manual_seed(2)
    assert sample(model, tokenizer, 0) == one
    assert sample(model, tokenizer, 1) != one
    assert one.prefixes[0] == ""
    assert len(one.prefixes) == 7
    for starter, prefix in zip((*STARTERS, STARTERS[0]), one.prefixes[1:], strict=True):
        assert prefix.startswith(starter)
        assert prefix.endswith(". ")
        assert "</s>" not in prefix
        assert "\n" not in prefix


def test_no_sampled_context_leaves_the_bare_prompt(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    tokenizer = tiny_tokenizer(True)
    assert sample(tiny_model("llama", len(tokenizer)), tokenizer, 0, count=0) == Contexts()
    assert Contexts().prefixes == ("",)


def test_weights_are_the_mean_over_types_of_the_mean_within() -> None:
    assert Contexts().weights == (1.0,)
    assert Contexts((("",), ("a", "b", "c", "d"))).weights == pytest.approx((0.5, 0.125, 0.125, 0.125, 0.125))


def test_contexts_survive_a_file(tmp_path: Path) -> None:
    contexts = Contexts((("",), ("Łódź. ", "The 東京. ")))
    (tmp_path / "contexts.json").write_text(contexts.to_json(), encoding="utf-8")
    assert Contexts.read(tmp_path / "contexts.json") == contexts
    (tmp_path / "contexts.json").write_text('[["The. "]]', encoding="utf-8")
    with pytest.raises(InputError, match="the first context type must be the bare prompt"):
        Contexts.read(tmp_path / "contexts.json")
