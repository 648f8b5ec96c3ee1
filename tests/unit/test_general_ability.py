"""General ability on local tasks: right numbers, no network, no traces."""

from __future__ import annotations

import copy
import json
import math
import random
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import PreTrainedTokenizerFast

from sphere.data.download import fetch_snapshot
from sphere.data.items import write_passages
from sphere.errors import InputError
from sphere.evaluation.general_ability import COLUMNS, TASK_FAMILIES, _isolated, _load_tasks, evaluate_tasks
from sphere.study.configuration import load_study

ROOT = Path(__file__).resolve().parents[2]

ITEMS = [
    {"text": "The capital of France is", "choices": ["Paris", "London", "New York City"], "label": 0},
    {"text": "Ada Lovelace lives in the city of", "choices": ["Prague", "London"], "label": 1},
    {"text": "Emil Zátopek is a", "choices": ["runner", "violin", "city"], "label": 0},
    {"text": "Łódź and São Paulo are", "choices": ["cities", "the mother tongue"], "label": 0},
    {"text": "He plays the", "choices": ["orchestra", "violin"], "label": 1},
]


def write_task(folder, name, data_files, **changes):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": data_files},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
        **changes,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


@pytest.fixture
def tasks(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    write_task(folder, "world_nli", {"test": "world_nli.jsonl"})
    write_task(folder, "other", {"test": str(folder / "other.jsonl")})
    return folder


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def most_likely(model, tokenizer, item):
    """Index of the choice with the highest summed log-likelihood, one plain forward pass a choice."""
    totals = []
    for choice in item["choices"]:
        ids = tokenizer(f"{item['text']} {choice}")["input_ids"]
        start = len(tokenizer(item["text"])["input_ids"])
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        totals.append(sum(float(logits[i - 1, ids[i]]) for i in range(start, len(ids))))
    return max(range(len(totals)), key=totals.__getitem__)


@pytest.mark.parametrize("lacks", ["special tokens", "their embedding"])
def test_a_tokenizer_whose_special_tokens_the_model_lacks(lacks, tasks, tiny_model, tiny_tokenizer, no_network):
    """No BOS, EOS and padding token at all, or some beyond the model's embedding: the same numbers."""
    own = {"generation_kwargs": {"until": ["."], "max_gen_toks": 4}, "metric_list": [{"metric": "exact_match"}]}
    write_task(tasks, "free", {"test": "free.jsonl"}, output_type="generate_until", **own)
    tokenizer = tiny_tokenizer(False)
    model = tiny_model("llama", len(tokenizer))
    names = ["world_nli", "free"]
    expected = evaluate_tasks(model, tokenizer, names, include_paths=[tasks], batch_size=2)
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer)
    if lacks == "their embedding":
        bare.add_special_tokens({"bos_token": "[B]", "eos_token": "[E]", "pad_token": "[P]"})
    found = evaluate_tasks(model, bare, names, include_paths=[tasks], batch_size=2)
    pd.testing.assert_frame_equal(found, expected)
    assert bare.eos_token == (None if lacks == "special tokens" else "[E]"), "the caller's own stays as it was"


def test_accuracy_of_local_tasks_is_what_the_likelihoods_say(tasks, tiny_model, tiny_tokenizer, no_network, capfd):
    tokenizer = tiny_tokenizer(False)
    model = tiny_model("llama", len(tokenizer))
    frame = evaluate_tasks(model, tokenizer, ["world_nli", "other"], include_paths=[tasks], batch_size=2)
    right = [most_likely(model, tokenizer, item) == item["label"] for item in ITEMS]
    share = sum(right) / len(right)
    assert tuple(frame.columns) == COLUMNS
    assert frame["task"].tolist() == ["world_nli", "other"]
    assert frame["family"].tolist() == ["nli", "other"]
    assert frame["metric"].tolist() == ["acc", "acc"]
    assert frame["n"].tolist() == [5, 5]
    assert frame["value"].tolist() == pytest.approx([share, share])
    assert frame["stderr"].tolist() == pytest.approx([math.sqrt(share * (1 - share) / (len(right) - 1))] * 2)
    assert capfd.readouterr() == ("", "")


def test_nothing_of_the_callers_is_changed(tasks, tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    evaluate_tasks(model, tokenizer, ["other"], include_paths=[tasks], limit=2)
    assert tokenizer.pad_token is None
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (np.random.get_state()[1].tolist(), random.getstate())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_local_tasks_leave_nothing_in_the_users_cache(tasks, tmp_path, tiny_model, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    tokenizer = tiny_tokenizer(True)
    evaluate_tasks(tiny_model("llama", len(tokenizer)), tokenizer, ["other"], include_paths=[tasks], limit=1)
    assert not (tmp_path / "cache").exists()


def test_limit_and_few_shots(tasks, tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    frame = evaluate_tasks(model, tokenizer, ["other"], include_paths=[tasks], limit=1)
    assert frame["n"].tolist() == [1]
    assert frame["stderr"].isna().all()
    shots = [evaluate_tasks(model, tokenizer, ["other"], include_paths=[tasks], num_fewshot=1, seed=s) for s in (3, 3)]
    assert shots[0].equals(shots[1])


def test_exact_match_of_a_generation_task(tasks, tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    write_task(
        tasks,
        "free",
        {"test": "free.jsonl"},
        output_type="generate_until",
        doc_to_choice=None,
        doc_to_target="{{choices[label]}}",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    (row,) = evaluate_tasks(model, tokenizer, ["free"], include_paths=[tasks]).to_dict("records")
    assert (row["metric"], row["value"], row["n"]) == ("exact_match", 0, 5)


def brute_force_bits(model, tokenizer, passages, length):
    """(bits, bytes) of each passage in float64, behind the BOS token, in windows of ``length`` at most."""
    model, found = copy.deepcopy(model).double(), []
    for passage in passages:
        ids = [tokenizer.bos_token_id, *tokenizer(passage, add_special_tokens=False)["input_ids"]]
        bits = 0.0
        for start in range(0, len(ids) - 1, length):
            end = min(start + length, len(ids) - 1)
            first = max(0, end - length)
            with torch.no_grad():
                chances = model(torch.tensor([ids[first:end]])).logits[0].softmax(-1)
            bits -= sum(math.log2(chances[i - first, ids[i + 1]]) for i in range(start, end))
        found.append((bits, len(passage.encode())))
    return found


@pytest.mark.parametrize("window", [64, 7], ids=["whole", "windows"])
def test_perplexity_is_what_the_likelihoods_say(window, tmp_path, tiny_model, tiny_tokenizer, no_network, capfd):
    """In bits a byte, with the standard error of a ratio over passages; few-shot examples change nothing."""
    tokenizer = tiny_tokenizer(False)
    model = tiny_model("llama", len(tokenizer))
    passages = [f"{item['text']} {', '.join(item['choices'])}" for item in ITEMS]
    write_passages("corpus_perplexity", passages, tmp_path)
    model.config.max_position_embeddings = window
    frame = evaluate_tasks(model, tokenizer, ["corpus_perplexity"], include_paths=[tmp_path], batch_size=2)
    (row,) = frame.to_dict("records")
    assert (row["task"], row["family"], row["metric"]) == ("corpus_perplexity", "perplexity", "bits_per_byte")
    assert row["n"] == len(passages)
    bits, size = np.array(brute_force_bits(model, tokenizer, passages, window)).T
    ratio, n = bits.sum() / size.sum(), len(passages)
    assert row["value"] == pytest.approx(ratio, rel=1e-5)
    spread = ((bits - ratio * size) ** 2).sum() / (n - 1)
    assert row["stderr"] == pytest.approx(math.sqrt(spread / n) / size.mean(), rel=1e-4)
    shots = evaluate_tasks(model, tokenizer, ["corpus_perplexity"], include_paths=[tmp_path], limit=3, num_fewshot=1)
    first = bits[:3].sum() / size[:3].sum()
    assert (shots["value"][0], shots["n"][0]) == (pytest.approx(first, rel=1e-5), 3)
    assert capfd.readouterr() == ("", "")


def test_perplexity_of_a_model_that_collapsed_is_a_number(tmp_path, tiny_model, tiny_tokenizer):
    """At a thousand nats a token or so the exponential would overflow."""
    tokenizer = tiny_tokenizer(False)
    model = tiny_model("llama", len(tokenizer))
    model.lm_head.weight.data *= 1e6
    write_passages("corpus_perplexity", [item["text"] for item in ITEMS], tmp_path)
    frame = evaluate_tasks(model, tokenizer, ["corpus_perplexity"], include_paths=[tmp_path])
    assert 1000 < frame["value"][0] < math.inf


def test_the_papers_four_abilities_have_three_tasks_each_and_ours_stand_apart():
    families = list(TASK_FAMILIES.values())
    abilities = ("reasoning", "nli", "open_domain_qa", "closed_domain_qa")
    assert {family: families.count(family) for family in families} == {
        **dict.fromkeys(abilities, 3),
        **dict.fromkeys(("grammar", "sentiment", "vocabulary", "perplexity"), 1),
        **{f"{ability}_zeroshot": 1 for ability in abilities},
    }


# Two rows of each dataset that the paper's tasks ask from, in its own schema.
HUB_DATA = {
    "gsm8k": [
        {"question": "Ann has 2 eggs and buys 3. How many?", "answer": "2 + 3 = <<2+3=5>>5.\n#### 5"},
        {"question": "And 1,000 more?", "answer": "5 + 1000 = 1005.\n#### 1,005"},
    ],
    "rte": [
        {"sentence1": "Ada lives in London.", "sentence2": "Ada lives in a city.", "label": 0, "idx": 0},
        {"sentence1": "Emil lives in Prague.", "sentence2": "Emil is a violin.", "label": 1, "idx": 1},
    ],
    "nq_open": [
        {"question": "who lives in london", "answer": ["Ada", "Ada Lovelace"]},
        {"question": "who lives in prague", "answer": ["Emil"]},
    ],
    "boolq": [
        {"question": "is london a city", "passage": "London is the capital.", "idx": 0, "label": 1},
        {"question": "is prague a violin", "passage": "Prague is a city.", "idx": 1, "label": 0},
    ],
    "nq_passages": [
        {"context": "Ada King lives in London.", "question": "who lives in london", "answers": ["Ada", "Ada King"]},
        {"context": "Emil lives in Prague.", "question": "who lives in prague", "answers": ["Emil"]},
    ],
}


@pytest.fixture
def hub_data(tmp_path):
    """Task of the paper study -> its dataset as a job gets it: links to a folder that the hub's subset alone is in."""
    study = load_study("paper", root=ROOT / "config")
    found = {}
    for task, row in study.task_data().items():
        folder, subset = tmp_path / "mine" / row.name, row.subset or "default"
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(item) + "\n" for item in HUB_DATA[row.name])
        splits = ("train", "test") if row.name == "gsm8k" else ("train", "validation")
        for split in splits:
            (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        files = [{"split": split, "path": f"{split}.jsonl"} for split in splits]
        absent = {"config_name": "absent", "data_files": [{"split": "train", "path": "absent/*.parquet"}]}
        card = yaml.safe_dump({"configs": [{"config_name": subset, "data_files": files}, absent]})
        (folder / "README.md").write_text(f"---\n{card}---\n", encoding="utf-8")
        fetch_snapshot(row.model_copy(update={"path": folder}), tmp_path / row.name, tmp_path / "locks")
        found[task] = (tmp_path / row.name, row.subset)
    return found


def test_the_papers_tasks_ask_from_folders_without_a_network(hub_data, tiny_model, tiny_tokenizer, no_network):
    """The harness's four and ours, all through the harness, over the datasets' own schemas."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    model.config.max_position_embeddings = 512  # gsm8k asks for up to 256 tokens
    frame = evaluate_tasks(
        model, tokenizer, list(hub_data), include_paths=[ROOT / "config" / "tasks"], data=hub_data, num_fewshot=0
    )
    assert frame["task"].tolist() == list(hub_data)
    assert frame["n"].tolist() == [2] * 8
    assert frame["value"].between(0, 1).all()
    assert set(frame["metric"]) == {"acc", "exact_match"}
    folder, _ = hub_data["rte"]
    with pytest.raises(InputError, match=r"task 'rte' is of subset 'rte', sources.tsv has 'mrpc'"):
        evaluate_tasks(model, tokenizer, ["rte"], data={"rte": (folder, "mrpc")})


def test_our_prompts_say_what_the_papers_said(hub_data):
    """Rationale in the prompt, passage first, and every answer that the metric is to take."""
    names = [name for name in hub_data if name.startswith("sphere_")]
    with _isolated():
        loaded = _load_tasks(names, [ROOT / "config" / "tasks"], hub_data, str(hub_data["rte"][0]))
    asked = {}
    for name, task in loaded.items():
        doc = task.eval_docs[0]
        asked[name] = (task.doc_to_text(doc), task.doc_to_target(doc), task.config.doc_to_choice)
    assert asked["sphere_gsm8k_zeroshot"] == (
        "Question: Ann has 2 eggs and buys 3. How many?\nReasoning: 2 + 3 = <<2+3=5>>5.\nThe answer is", "5", None
    )  # fmt: skip
    assert asked["sphere_rte_zeroshot"][1:] == (0, ["True", "False"])
    assert asked["sphere_boolq_zeroshot"][1:] == (1, ["No", "Yes"])
    assert asked["sphere_nq_zeroshot"][:2] == (
        "Ada King lives in London.\nQuestion: who lives in london?\nAnswer:", ["Ada", "Ada King"]
    )  # fmt: skip
    for name, answers in {
        "sphere_gsm8k_zeroshot": {" 5.": 1, " $5": 1, " 6": 0},
        "sphere_nq_zeroshot": {" Ada": 1, " the ada king.": 1, " Emil": 0},
    }.items():
        doc = loaded[name].eval_docs[0]
        scores = {answer: loaded[name].process_results(doc, [answer])["exact_match"] for answer in answers}
        assert scores == answers


def test_an_unknown_task_gets_a_suggestion(tasks, tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    with pytest.raises(InputError, match="unknown general-ability task 'world_nil': did you mean 'world_nli'"):
        evaluate_tasks(model, tokenizer, ["world_nil"], include_paths=[tasks])
    with pytest.raises(InputError, match="no general-ability task"):
        evaluate_tasks(model, tokenizer, [], include_paths=[tasks])


def test_unusable_tasks_are_named_in_one_line(tasks, tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    write_task(tasks, "lost", {"test": "nowhere.jsonl"})
    with pytest.raises(InputError, match="task 'lost' cannot be loaded") as caught:
        evaluate_tasks(model, tokenizer, ["lost"], include_paths=[tasks])
    assert "\n" not in str(caught.value)
    write_task(tasks, "odd", {"test": "odd.jsonl"}, metric_list=[{"metric": "acc_norm"}])
    with pytest.raises(InputError, match="'odd' reports none of acc, exact_match"):
        evaluate_tasks(model, tokenizer, ["odd"], include_paths=[tasks])
    with pytest.raises(InputError, match="not a folder"):
        evaluate_tasks(model, tokenizer, ["lost"], include_paths=[tasks / "no"])
