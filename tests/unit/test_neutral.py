"""Neutral text: bits a byte and drift against their definitions, one text at a time in float64."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TEXTS

from sphere.errors import InputError
from sphere.evaluation.neutral import COLUMNS, compare, passages, read_texts, states_of
from sphere.models.adapters import adapter


def plain(model, ids):
    """log P (T - 1, V) of what follows each token but the last, from a whole forward pass of one text."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj"])
def test_drift_is_that_of_whole_forward_passes(family, add_bos, tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(add_bos)
    model = tiny_model(family, len(tokenizer))
    parts = adapter(model)
    taken = passages(tokenizer, TEXTS, length=20)
    before = states_of(parts, tokenizer, taken, budget=50)
    old = [plain(model, text.ids) for text in taken]
    parts.set_weight(1, parts.weight(1) + 0.2 * torch.randn(parts.weight(1).shape, generator=torch.manual_seed(0)))
    new = [plain(model, text.ids) for text in taken]
    found = compare(parts, taken, states_of(parts, tokenizer, taken), before)
    assert tuple(found.columns) == COLUMNS
    value = found.set_index("metric")["value"]
    nats = -sum(
        float(logs[i, text.ids[i + 1]]) for logs, text in zip(new, taken, strict=True) for i in range(len(logs))
    )
    assert value["bits_per_byte"] == pytest.approx(nats / math.log(2) / sum(text.bytes for text in taken), rel=1e-5)
    kl = torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in zip(old, new, strict=True)])
    assert value["kl"] == pytest.approx(float(kl.mean()), rel=1e-4)
    same = torch.cat([a.argmax(-1) == b.argmax(-1) for a, b in zip(old, new, strict=True)])
    assert value["top1"] == pytest.approx(float(same.double().mean()))
    assert 0 < value["top1"] < 1
    assert (found["n"] == len(taken)).all()


def test_a_model_has_not_moved_from_itself(tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    parts = adapter(tiny_model("llama", len(tokenizer)))
    taken = passages(tokenizer, TEXTS, length=20)
    states = states_of(parts, tokenizer, taken)
    value = compare(parts, taken, states, states).set_index("metric")["value"]
    assert (value["kl"], value["top1"]) == (0, 1)
    alone = compare(parts, taken, states)
    assert alone["metric"].tolist() == ["bits_per_byte"]
    assert alone["value"].item() == value["bits_per_byte"]


def test_a_model_that_knows_nothing_takes_all_bits_of_a_token(tiny_model, tiny_tokenizer):
    """With a head of zeros every token has the same chance: log2 of the vocabulary a token, whatever the text."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    model.get_output_embeddings().weight.zero_()
    parts = adapter(model)
    taken = passages(tokenizer, TEXTS, length=20)
    found = compare(parts, taken, states_of(parts, tokenizer, taken))
    tokens = sum(len(text.ids) - 1 for text in taken)
    assert found["value"].item() == pytest.approx(math.log2(len(tokenizer)) * tokens / sum(t.bytes for t in taken))


def test_bytes_are_those_of_the_predicted_text(tiny_tokenizer):
    text = "Łódź and 東京"
    (with_bos,) = passages(tiny_tokenizer(True), [text], length=100)
    assert with_bos.bytes == len(text.encode())  # all of it is behind the BOS token
    tokenizer = tiny_tokenizer(False)
    (bare,) = passages(tokenizer, ["Ada Lovelace lives"], length=100)
    first = tokenizer("Ada Lovelace lives", return_offsets_mapping=True)["offset_mapping"][0]
    assert bare.bytes == len("Ada Lovelace lives") - first[1]
    (cut,) = passages(tokenizer, ["Ada Lovelace lives"], length=2)
    assert len(cut.ids) == 2
    assert cut.bytes < bare.bytes
    assert passages(tokenizer, ["Ada lives", "a"], length=9) == passages(tokenizer, ["Ada lives"], length=9)
    with pytest.raises(InputError, match="no text to predict"):
        passages(tokenizer, ["a"], length=9)


def test_the_standard_error_is_that_of_a_ratio(tiny_model, tiny_tokenizer):
    """Against the jackknife, over passages of unequal length."""
    tokenizer = tiny_tokenizer(True)
    parts = adapter(tiny_model("llama", len(tokenizer)))
    taken = passages(tokenizer, [text for whole in TEXTS for text in (whole, whole[:25], whole[5:30])], length=40)
    states = states_of(parts, tokenizer, taken)
    found = compare(parts, taken, states)
    n = len(taken)
    without = [
        compare(parts, taken[:i] + taken[i + 1 :], states[:i] + states[i + 1 :])["value"].item() for i in range(n)
    ]
    jackknife = math.sqrt((n - 1) / n * sum((each - np.mean(without)) ** 2 for each in without))
    assert found["stderr"].item() == pytest.approx(jackknife, rel=0.15)
    assert math.isnan(compare(parts, taken[:1], states[:1])["stderr"].item())


def test_texts_are_read_from_a_corpus_or_from_me_ppl(tmp_path: Path) -> None:
    corpus, me_ppl = tmp_path / "corpus.txt", tmp_path / "me_ppl.json"
    corpus.write_text("one\n\ntwo\n\n\nthree\n", encoding="utf-8")
    me_ppl.write_text(json.dumps([{"Corpus": "C4", "Text": " one"}, {"Corpus": "C4", "Text": "two"}]), encoding="utf-8")
    assert read_texts(corpus, skip=1, count=2) == ["two", "three"]
    assert read_texts(me_ppl, count=2) == ["one", "two"]
    with pytest.raises(InputError, match=r"asks for 3 texts, .*corpus.txt has 2 behind the 1 that key statistics"):
        read_texts(corpus, skip=1, count=3)
    me_ppl.write_text('[{"text": "one"}]', encoding="utf-8")
    with pytest.raises(InputError, match=r'me_ppl.json holds no texts: .* each with a "Text"'):
        read_texts(me_ppl, count=1)


def test_the_published_sentences_are_read(sample_data: Path) -> None:
    if not (sample_data / "me_ppl_1k.json").exists():
        pytest.skip("no ME-PPL among the real samples")
    texts = read_texts(sample_data / "me_ppl_1k.json", count=1000)
    assert len(set(texts)) > 990
    assert all(texts)


def test_a_state_is_put_beside_the_unedited_model(tiny_model, tiny_tokenizer, tmp_path: Path) -> None:
    """The stage: the pre-edited model has bits a byte alone; a state of the same weights has not moved."""
    from sphere.config.evaluation import NeutralSettings
    from sphere.editing.state import EditState
    from sphere.study.stages import measure_drift

    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    weight = adapter(model).weight(1).clone()
    for name, change, stopped in (("same", 0.0, ""), ("moved", 0.3, ""), ("stopped", 0.3, "NaN")):
        state = EditState("memit", 0, 4, 1, {1: weight + change}, stopped=stopped)
        state.save(tmp_path / f"{name}.safetensors")

    def measured(*names: str) -> list[pd.DataFrame]:
        outs = [tmp_path / f"{name}.csv" for name in names or ("before",)]
        states = [tmp_path / f"{name}.safetensors" for name in names]
        settings = NeutralSettings(passages=4, length=16)
        measure_drift(
            tmp_path / "model", tmp_path / "texts.txt", states, outs, load_settings={}, settings=settings, skip=2
        )
        return [pd.read_csv(out) for out in outs]

    (before,) = measured()
    same, moved, stopped = measured("same", "moved", "stopped")
    assert same.loc[0, "value"] == before["value"].item()
    assert same["value"].tolist()[1:] == [0, 1]
    assert moved.loc[1, "value"] > 0
    assert stopped.empty
