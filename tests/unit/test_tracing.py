"""Causal tracing against one run at a time, and what is made of it."""

from __future__ import annotations

from contextlib import ExitStack

import pandas as pd
import pytest
import torch
from conftest import ModelMaker, TokenizerMaker

from sphere.data.records import EditRequest
from sphere.editing.tracing import NOISE, Effects, default_window, trace
from sphere.errors import InputError
from sphere.models.adapters import Adapter
from sphere.models.hooks import capture_output
from sphere.study.locate import effect_table, layer_sets, recommendation, up_to_peak

REQUESTS = (
    EditRequest(1, "Ada Lovelace", "The mother tongue of Ada Lovelace is", 21, "French", "English"),
    EditRequest(2, "Emil Zátopek", "Emil Zátopek lives in the city of", 0, "London", "Prague"),
)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("window", [1, 2])
def test_effects_are_those_of_one_run_at_a_time(
    window: int, family: str, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    tokenizer = tiny_tokenizer(True)
    model = tiny_model(family, len(tokenizer)).double()
    parts, embedding = Adapter(model), model.get_input_embeddings()
    given = {"window": window, "draws": 2}
    found = trace(parts, tokenizer, REQUESTS, **given, generator=torch.Generator().manual_seed(0))
    again = trace(parts, tokenizer, REQUESTS, **given, generator=torch.Generator().manual_seed(0), token_budget=1)
    torch.testing.assert_close(found.restored, again.restored)

    encoded = [tokenizer(r.prompt, return_offsets_mapping=True) for r in REQUESTS]
    subjects = [
        [i for i, (a, b) in enumerate(e["offset_mapping"]) if a < r.subject_end and b > max(a, r.subject_start)]
        for e, r in zip(encoded, REQUESTS, strict=True)
    ]
    rows = [embedding(torch.tensor(e["input_ids"])[s]) for e, s in zip(encoded, subjects, strict=True)]
    scale, generator = NOISE * float(torch.cat(rows).float().std()), torch.Generator().manual_seed(0)
    for n, (texts, places) in enumerate(zip(encoded, subjects, strict=True)):
        ids = torch.tensor([texts["input_ids"]])
        with ExitStack() as stack:
            seen = [stack.enter_context(capture_output(parts.projection(i))) for i in range(4)]
            clean = model(ids).logits[0, -1].softmax(-1)
        outputs = [output[0][0, places[-1]] for output in seen]
        answer = int(clean.argmax())
        assert float(found.clean[n]) == pytest.approx(float(clean[answer]))
        noise = scale * torch.randn(2, len(places), 32, generator=generator)
        for centre in (None, *range(4)):
            mean = 0.0
            for draw in noise:
                mean += _run(model, parts, ids, places, draw, outputs, centre, window, answer) / 2
            expected = found.corrupted[n] if centre is None else found.restored[n, centre]
            assert float(expected) == pytest.approx(mean, rel=1e-5)


def _run(model, parts, ids, places, draw, outputs, centre, window, answer) -> float:  # type: ignore[no-untyped-def]
    def corrupt(_module, _args, output):  # type: ignore[no-untyped-def]
        output = output.clone()
        output[0, places] += draw
        return output

    def restore(i):  # type: ignore[no-untyped-def]
        def hook(_module, _args, output):  # type: ignore[no-untyped-def]
            output = output.clone()
            output[0, places[-1]] = outputs[i]
            return output

        return hook

    handles = [model.get_input_embeddings().register_forward_hook(corrupt)]
    for i in range(4):
        if centre is not None and centre - window // 2 <= i < centre - window // 2 + window:
            handles.append(parts.projection(i).register_forward_hook(restore(i)))
    found = float(model(ids).logits[0, -1].softmax(-1)[answer])
    for handle in handles:
        handle.remove()
    return found


def test_a_subject_at_the_end_is_refused(tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker) -> None:
    """Its last token is where the answer is read: nothing behind it could carry an effect."""
    tokenizer = tiny_tokenizer(True)
    parts = Adapter(tiny_model("llama", len(tokenizer)))
    request = EditRequest(7, "Ada Lovelace", "The mother tongue of Ada Lovelace", 21, "French", "English")
    with pytest.raises(InputError, match=r"case 7: .* needs text behind its subject"):
        trace(parts, tokenizer, [request], window=1, generator=torch.Generator())


def table(*effects: float) -> pd.DataFrame:
    restored = torch.tensor([effects, effects]) + 0.1
    return effect_table(Effects(torch.ones(2), torch.full((2,), 0.1), restored, 2))


def test_the_recommended_layers_end_at_the_peak_or_score_best() -> None:
    effects = table(0.0, 0.1, 0.2, 0.5, 0.3, 0.1, 0.0, 0.0)
    assert effects["effect"].tolist() == pytest.approx([0.0, 0.1, 0.2, 0.5, 0.3, 0.1, 0.0, 0.0], abs=1e-6)
    assert up_to_peak(effects, 3) == (1, 2, 3)
    assert up_to_peak(table(0.5, 0.1, 0.2, 0.1), 2) == (0, 1), "as early as there is room"
    assert up_to_peak(table(0.0, 0.1, 0.2, 0.5), 2) == (1, 2), "the last layer of all is none of them"
    layers, said = recommendation(effects, 2, (1, 2, 3), None)
    assert layers == (1, 2, 3)
    assert said == "edit layers 1,2,3: the effect of 2 layers peaks at layer 3 (0.500), and they end there"
    assert recommendation(table(0.5, 0.1, 0.2, 0.1), 2, (0, 1), None)[1].endswith("and they are the nearest that fit")
    sets = pd.DataFrame({"layers": ["0,1,2", "4,5,6"], "score": [0.2, 0.6]})
    best, said_best = recommendation(effects, 2, (1, 2, 3), sets)
    assert best == (4, 5, 6)
    assert said_best.startswith("edit layers 4,5,6: a first batch scores 0.600")
    assert recommendation(effects, 2, (1, 2, 3), sets.assign(score=0.0)) == (layers, said)


@pytest.mark.parametrize(("depth", "size"), [(4, 2), (30, 5), (32, 5), (3, 2), (6, 1)])
def test_sets_are_neighbours_spread_over_the_depth(depth: int, size: int) -> None:
    peak = tuple(range(1 if depth > size + 1 else 0, size + (1 if depth > size + 1 else 0)))
    sets = layer_sets(peak, depth)
    assert peak in sets
    assert len(set(sets)) == len(sets) <= 6
    assert all(each == tuple(range(each[0], each[0] + size)) for each in sets)
    assert sets[0][0] == 0
    assert sets[-1][-1] == depth - 2, "the last layer of all cannot be edited"


def test_the_window_is_gpt2_xl_s_share() -> None:
    assert [default_window(depth) for depth in (48, 32, 30, 4, 1)] == [10, 7, 6, 1, 1]
