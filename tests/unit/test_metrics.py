"""Metrics against a plain one-text-at-a-time computation, and against everything that must not change them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import plain
import pytest
import torch

from sphere.config.evaluation import StrictSettings
from sphere.data.records import EditRequest, Probe
from sphere.errors import InputError
from sphere.evaluation import metrics
from sphere.evaluation.generation import GenerationSettings
from sphere.evaluation.metrics import COLUMNS, evaluate_requests, score_targets
from sphere.models import batching
from sphere.models.adapters import adapter

PROMPTS = (
    "The capital of France is",
    "Ada",
    "What is the profession of Emil Zátopek?",
    "{| class = table |} 東京 is in the city of",
    "The mother tongue of Ada Lovelace is",
)
TARGETS = ("Paris", "New York City", "a", "Łódź", "é")


def plain_score(model, tokenizer, prompt, target):
    """NLL and matches of one target: one text, no batch, no padding, the whole model."""
    text = tokenizer(f"{prompt} {target}", return_offsets_mapping=True)
    ids, offsets = text["input_ids"], text["offset_mapping"]
    start = 1 + max(i for i, (begin, end) in enumerate(offsets) if begin < end and begin < len(prompt))
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    rows = [(logits[i - 1], ids[i]) for i in range(start, len(ids))]
    nll = np.mean([-float(row[token]) for row, token in rows])
    return nll, tuple(int(row.argmax()) == token for row, token in rows)


def teach(model, tokenizer, prompt, target):
    """Turn an untied head so that the states after ``prompt`` give ``target``."""
    ids = tokenizer(f"{prompt} {target}")["input_ids"]
    start = len(tokenizer(prompt)["input_ids"])
    hidden = model.base_model(torch.tensor([ids])).last_hidden_state[0]
    for i in range(start, len(ids)):
        model.get_output_embeddings().weight[ids[i]] += 100 * hidden[i - 1]


def greedy_word(model, tokenizer, prompt, count=2):
    """Text the model gives itself after ``prompt``, so that some targets are really predicted."""
    ids = tokenizer(prompt)["input_ids"]
    for _ in range(count):
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return tokenizer.decode(ids, skip_special_tokens=True)[len(prompt) :]


def a_request(case_id=0, **changes):
    request = EditRequest(
        case_id=case_id,
        subject="France",
        prompt="The capital of France is",
        subject_start=15,
        target_new="Rome",
        target_true="Paris",
        paraphrases=("Everybody in France knows its capital,", "Go to France and see"),
        neighborhood=(Probe("The capital of Italy is", "Paris"), Probe("São Paulo is not", "Paris")),
        generation_prompts=("France is", "France is", "They walk in the city of"),
        references=("Rome is the capital of Italy", "New York City lives"),
    )
    return replace(request, **changes)


def stream():
    zsre = a_request(1, prompt="Where is France?", subject_start=9, target_true=None, target_new="New York City")
    return [
        a_request(),
        replace(zsre, neighborhood=(Probe("nq question: who plays the violin?", "Ada Lovelace"),), references=()),
        a_request(2, target_true="Old York", target_new="New York", neighborhood=(), generation_prompts=()),
        a_request(3, prompt="東京 France", subject_start=3, paraphrases=()),
    ]


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gpt2", "gptj", "gpt_neox"])
def test_scores_equal_a_plain_forward_pass_of_each_text(family, add_bos, tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(add_bos)
    model = tiny_model(family, len(tokenizer))
    pairs = [(prompt, target) for prompt in PROMPTS for target in TARGETS]
    own = [(prompt, greedy_word(model, tokenizer, prompt)) for prompt in PROMPTS]
    pairs += [(prompt, word.strip()) for prompt, word in own if word.strip()]
    for budget in (1, 60, 10_000):
        for pair, score in zip(pairs, score_targets(model, tokenizer, pairs, token_budget=budget), strict=True):
            nll, matches = plain_score(model, tokenizer, *pair)
            assert score.nll == pytest.approx(nll, abs=1e-4)
            assert score.matches == matches


@pytest.mark.parametrize("family", ["llama", "gptj"])  # untied heads
def test_what_the_model_says_itself_is_accurate(family, tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    model = tiny_model(family, len(tokenizer))
    teach(model, tokenizer, "The capital of France is", "Rome")
    frame = evaluate_requests(model, tokenizer, [a_request()])
    assert frame.loc[0, "accuracy_efficacy"] == frame.loc[0, "token_accuracy_efficacy"] == 1
    assert frame.loc[0, "success_efficacy"] == 1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("add_bos", [True, False])
def test_padding_side_and_batch_size_change_nothing(family, add_bos, tiny_model, tiny_tokenizer):
    tokenizer, other = tiny_tokenizer(add_bos), tiny_tokenizer(add_bos)
    model = tiny_model(family, len(tokenizer))
    tokenizer.padding_side, other.padding_side = "left", "right"
    other.pad_token = "e"
    settings = GenerationSettings(length=30)
    frame = evaluate_requests(model, tokenizer, stream(), token_budget=1, generation=settings)
    assert tuple(frame.columns) == COLUMNS
    again = evaluate_requests(model, other, stream(), token_budget=10_000, generation=settings)
    nats = frame.columns[frame.columns.str.startswith("belief")]
    pd.testing.assert_frame_equal(frame[nats], again[nats], rtol=0, atol=1e-3)
    pd.testing.assert_frame_equal(frame.drop(columns=nats), again.drop(columns=nats), rtol=0, atol=1e-9)
    one_by_one = [evaluate_requests(model, tokenizer, [r]) for r in stream()]
    columns = [c for c in COLUMNS if c.split("_")[0] in ("case", "success", "accuracy", "token")]
    pd.testing.assert_frame_equal(frame[columns], pd.concat(one_by_one, ignore_index=True)[columns], rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_records_equal_one_forward_pass_a_record(family, tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    model = tiny_model(family, len(tokenizer))
    expected = plain.metrics(adapter(model), tokenizer, stream())
    got = evaluate_requests(model, tokenizer, stream())[list(expected.columns)]
    pd.testing.assert_frame_equal(got, expected, rtol=0, atol=1e-9)


def test_families_follow_their_definitions(tiny_model, tiny_tokenizer, monkeypatch):
    """Every number of a record from made-up scores, worked by hand."""
    request = a_request()
    table = {
        (request.prompt, "Rome"): metrics.TargetScore(1.0, (True, True)),
        (request.prompt, "Paris"): metrics.TargetScore(2.0, (False,)),
        (request.paraphrases[0], "Rome"): metrics.TargetScore(2.0, (True, False)),
        (request.paraphrases[0], "Paris"): metrics.TargetScore(2.0, (False,)),  # a tie is no success
        (request.paraphrases[1], "Rome"): metrics.TargetScore(0.5, (True, True)),
        (request.paraphrases[1], "Paris"): metrics.TargetScore(9.0, (False,)),
        ("The capital of Italy is", "Paris"): metrics.TargetScore(1.0, (True,)),
        ("The capital of Italy is", "Rome"): metrics.TargetScore(3.0, (False, True)),
        ("São Paulo is not", "Paris"): metrics.TargetScore(4.0, (False,)),
        ("São Paulo is not", "Rome"): metrics.TargetScore(3.0, (False, True)),
    }
    monkeypatch.setattr(metrics, "score_targets", lambda m, t, pairs, **_: [table[pair] for pair in pairs])
    row = evaluate_requests(None, None, [request]).loc[0]
    assert [row[f"success_{m}"] for m in metrics.METRICS] == [1, 0.5, 0.5]
    assert [row[f"accuracy_{m}"] for m in metrics.METRICS] == [1, 0.5, 0.5]
    assert [row[f"token_accuracy_{m}"] for m in metrics.METRICS] == [1, 0.75, 0.5]
    assert math.isnan(row["generation_efficacy"])
    assert math.isnan(row["fluency"])


def test_what_a_record_does_not_ask_is_nan(tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    frame = evaluate_requests(
        model, tokenizer, stream(), generation=GenerationSettings(length=20), strict=StrictSettings(tokens=4)
    )
    frame = frame[[column for column in frame if "question" not in column and "portability" not in column]]
    missing = {column: frame.index[frame[column].isna()].tolist() for column in frame if frame[column].isna().any()}
    assert missing == {
        "success_efficacy": [1],  # zsRE names no true target
        "success_generalization": [1, 3],
        "success_specificity": [1, 2],
        "accuracy_generalization": [3],
        "accuracy_specificity": [2],
        "token_accuracy_generalization": [3],
        "token_accuracy_specificity": [2],
        "generation_generalization": [3],
        "generation_specificity": [2],
        "strict_generalization": [3],
        "strict_specificity": [2],
        "belief_efficacy": [1],
        "belief_generalization": [1, 3],
        "belief_specificity": [1, 2],
        "fluency": [2],
        "consistency": [1, 2],
    }
    assert frame["case_id"].tolist() == [0, 1, 2, 3]
    shares = frame[[c for c in frame if c not in ("case_id", "fluency") and not c.startswith("belief")]]
    assert ((shares >= 0) & (shares <= 1) | shares.isna()).all().all()


def test_generation_compares_the_text_the_model_goes_on_with(tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    teach(model, tokenizer, "The capital of France is", "Rome")
    bare = a_request(target_true=None, paraphrases=(), neighborhood=())
    words = ["Rome", "Rom", "Romeo", "ome", "violin"]  # another split of the same text counts, other text does not
    requests = [replace(bare, case_id=i, target_new=word) for i, word in enumerate(words)]
    frame = evaluate_requests(model, tokenizer, requests, generation=GenerationSettings(length=12))
    said = greedy_word(model, tokenizer, bare.prompt, 12)
    assert frame["generation_efficacy"].tolist() == [said.startswith(f" {word}") for word in words]
    assert frame["generation_efficacy"].tolist()[:2] == [1, 1]
    assert frame["generation_efficacy"].tolist()[3:] == [0, 0]


def test_generated_records_are_spread_over_the_stream(tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(False)
    model = tiny_model("gpt2", len(tokenizer))
    settings = GenerationSettings(length=12, records=2, family=False)
    frame = evaluate_requests(model, tokenizer, [a_request(i) for i in range(6)], generation=settings)
    assert frame.index[frame["fluency"].notna()].tolist() == [0, 3]
    assert frame["generation_efficacy"].isna().all()


def test_questions_behind_an_edit_are_scored_by_their_kind(tiny_model, tiny_tokenizer):
    """A model that was taught the answers of some; an alias counts, and what is not asked is NaN."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    teach(model, tokenizer, "The capital of France is", "Rome")
    taught, other = "The capital of France is", "Ada lives in the city of"
    questions = (
        ("two_hop", Probe(taught, "Rome")), ("two_hop", Probe(other, "Oslo")),
        ("inverse", Probe(taught, "Oslo", ("Paris", "Rome"))), ("unchanged", Probe(taught, "Oslo")),
    )  # fmt: skip
    requests = [a_request(portability=questions), a_request(1)]
    frame = evaluate_requests(model, tokenizer, requests).filter(like="portability")
    assert frame.loc[0].dropna().to_dict() == {
        "portability_two_hop": 0.5, "portability_inverse": 1, "portability_unchanged": 0,
    }  # fmt: skip
    assert frame.loc[1].isna().all()
    off = evaluate_requests(model, tokenizer, requests, portability=False)
    assert off.filter(like="portability").isna().all(axis=None)


def test_rows_are_shared_where_one_begins_another():
    inputs = [(1, 2), (1, 2, 3), (5,), (1, 2), (1, 2, 4), (1,)]
    rows, members = metrics._shared_rows(inputs)
    assert sorted(rows) == [(1, 2, 3), (1, 2, 4), (5,)]
    assert sorted(i for owned in members for i in owned) == list(range(len(inputs)))
    assert all(row[: len(inputs[i])] == inputs[i] for row, owned in zip(rows, members, strict=True) for i in owned)


def test_two_one_token_targets_cost_one_row(tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    sizes = []

    def note(_module, _args, inputs):
        sizes.append(tuple(inputs["input_ids"].shape))

    model.model.register_forward_pre_hook(note, with_kwargs=True)
    length = len(tokenizer("Ada lives")["input_ids"])
    score_targets(model, tokenizer, [("Ada lives", "a"), ("Ada lives", "c")])
    assert sizes == [(1, length)]


def test_out_of_memory_halves_the_batch_and_changes_nothing(tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    pairs = [(prompt, target) for prompt in PROMPTS for target in TARGETS]
    expected = score_targets(model, tokenizer, pairs)
    tried = []

    def refuse(_module, _args, inputs):
        tried.append(inputs["input_ids"].numel())
        if tried[-1] > 100:
            raise torch.OutOfMemoryError("out of memory")

    model.model.register_forward_pre_hook(refuse, with_kwargs=True)
    found = score_targets(model, tokenizer, pairs)
    assert max(tried) > 100  # it did run out
    assert [score.matches for score in found] == [score.matches for score in expected]
    assert [s.nll for s in found] == pytest.approx([s.nll for s in expected], abs=1e-5)


def test_a_single_row_that_does_not_fit_and_other_errors_are_raised():
    def full(_batch):
        raise torch.OutOfMemoryError("out of memory")

    def broken(_batch):
        raise RuntimeError("shapes differ")

    with pytest.raises(torch.OutOfMemoryError):
        batching.run_in_batches([5, 5, 5, 5], full, token_budget=100)
    with pytest.raises(RuntimeError, match="shapes differ"):
        batching.run_in_batches([5, 5], broken, token_budget=100)


def test_batches_keep_to_the_budget_and_cover_every_row():
    lengths = [3, 50, 7, 7, 1, 20, 9]
    seen: list[list[int]] = []
    batching.run_in_batches(lengths, seen.append, token_budget=21)
    assert sorted(i for batch in seen for i in batch) == list(range(len(lengths)))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 21 for b in seen)
    assert any(len(batch) > 1 for batch in seen)


def test_a_prompt_beyond_the_models_positions_is_refused(tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("gpt2", len(tokenizer))
    with pytest.raises(InputError, match="the model takes 128"):
        score_targets(model, tokenizer, [("Ada " * 200, "Paris")])


def test_an_empty_prompt_without_bos_is_refused(tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(False)
    with pytest.raises(InputError, match="no token before its target"):
        score_targets(tiny_model("gpt2", len(tokenizer)), tokenizer, [("", "Paris")])


def test_progress_ends_at_the_total(tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    told = []
    evaluate_requests(
        tiny_model("llama", len(tokenizer)), tokenizer, stream(), token_budget=50, progress=lambda *a: told.append(a)
    )
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize("family", [True, False])
def test_records_without_generation_prompts_have_no_fluency(family, tiny_model, tiny_tokenizer):
    """zsRE has none: its generation family is measured, fluency and consistency are not."""
    tokenizer = tiny_tokenizer(True)
    requests = [replace(request, generation_prompts=()) for request in stream()]
    settings = GenerationSettings(length=20, family=family)
    frame = evaluate_requests(tiny_model("llama", len(tokenizer)), tokenizer, requests, generation=settings)
    assert frame["fluency"].isna().all()
    assert frame["consistency"].isna().all()
    assert frame["generation_efficacy"].notna().all() == family
