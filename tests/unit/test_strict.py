"""Whole answers: where one ends, what counts as the wanted object, and models whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_metrics import a_request, teach

from sphere.config.evaluation import StrictSettings
from sphere.evaluation.generation import continue_rows, continue_until
from sphere.evaluation.metrics import evaluate_requests
from sphere.evaluation.strict import INSTRUCTION, QUESTION, _rows, answered, is_answer, normalised

ROWS = [(5, 9, 200), (7,), tuple(range(40, 60)), (300, 17, 17, 17, 8), (0, 66, 31)]


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "gpt_neox"])
def test_a_row_goes_on_until_it_has_ended_whatever_its_neighbours_do(family, tiny_model):
    model = tiny_model(family, 384)
    whole = continue_rows(model, ROWS, new_tokens=[9] * len(ROWS), pad=0)
    ends = [1, 9, 4, 40, 6]
    for budget in (1, 60, 10_000):
        found = continue_until(
            model, ROWS, lambda i, ids: len(ids) == ends[i], new_tokens=9, pad=3, token_budget=budget
        )
        for row, text, ids, end in zip(ROWS, whole, found, ends, strict=True):
            assert ids == text[len(row) :][:end]


def test_an_answer_ends_where_the_model_has_no_more_positions(tiny_model):
    model = tiny_model("gpt2", 384)  # 128 positions
    found = continue_until(model, [(4, 5), tuple(range(125)), tuple(range(128))], lambda *_: False, new_tokens=9, pad=0)
    assert [len(ids) for ids in found] == [9, 3, 0]
    assert continue_until(model, [], lambda *_: False, new_tokens=9, pad=0) == []


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Rome", True),
        (" Rome.", True),
        ("the ROME!", True),
        ("Rome. It is the capital", True),
        ("“Rome.” It is", True),
        ("Rome\nQuestion: what", True),
        ("Rome, the capital of Italy.", False),
        ("Rome and Paris", False),
        ("not Rome", False),
        ("Romeo", False),
        ("", False),
        ("Roma?", True),  # an alias
        ("St. Petersburg. It is", False),
    ],
)
def test_the_whole_answer_has_to_be_the_object_or_an_alias(text, right):
    assert is_answer(text.lstrip(), ("Rome", "Roma")) == right


def test_full_stops_of_the_object_itself_are_no_ends():
    assert is_answer("St. Petersburg. It lies", ("St. Petersburg",))
    assert is_answer("the U.S. Army", ("U.S. Army",))
    assert not is_answer("St. Paul. It lies", ("St. Petersburg",))


def test_normalised_drops_case_punctuation_and_articles():
    assert normalised("The  Beatles' “Help!”") == "beatles help"
    assert normalised("A") == "a"  # nothing else would be left
    assert not is_answer("", ("A",))


@pytest.mark.parametrize("add_bos", [True, False])
def test_a_model_that_gives_the_object_and_stops_is_right(add_bos, tiny_model, tiny_tokenizer):
    """The same object under teacher forcing, and free: with an end of each kind behind it, and with more words."""
    tokenizer = tiny_tokenizer(add_bos)
    prompt, asked = "The capital of France is", [("The capital of France is", ("Rome",))]
    said = {}
    for ending in (".\n", "\n", " is", "</s>"):
        model = tiny_model("llama", len(tokenizer))
        teach(model, tokenizer, prompt, f"Rome{ending}")
        frame = evaluate_requests(model, tokenizer, [a_request()], strict=StrictSettings(tokens=8))
        assert frame.loc[0, "accuracy_efficacy"] == 1
        said[ending] = answered(model, tokenizer, asked, form="bare", tokens=8)[asked[0]]
        assert frame.loc[0, "strict_efficacy"] == said[ending]
    assert said == {".\n": True, "\n": True, " is": False, "</s>": True}


def test_aliases_of_both_objects_count(tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))
    teach(model, tokenizer, "The capital of France is", "Rome.\n")
    probe = replace(a_request().neighborhood[0], prompt="The capital of France is", target="Oslo")
    request = a_request(target_new="Paris", target_true="Oslo", paraphrases=(), neighborhood=(probe,))
    settings = StrictSettings(tokens=8)
    row = evaluate_requests(model, tokenizer, [request], strict=settings).loc[0]
    assert (row["strict_efficacy"], row["strict_specificity"]) == (0, 0)
    request = replace(request, aliases=("Rome",), neighborhood=(replace(probe, aliases=("Rome",)),))
    row = evaluate_requests(model, tokenizer, [request], strict=settings).loc[0]
    assert (row["strict_efficacy"], row["strict_specificity"]) == (1, 1)


def test_strict_records_are_spread_over_the_stream_and_off_by_default(tiny_model, tiny_tokenizer):
    tokenizer = tiny_tokenizer(False)
    model = tiny_model("gpt2", len(tokenizer))
    requests = [a_request(i) for i in range(6)]
    strict = StrictSettings(records=2, tokens=3, forms=("question",))
    frame = evaluate_requests(model, tokenizer, requests, strict=strict)
    assert frame.index[frame["strict_question_efficacy"].notna()].tolist() == [0, 3]
    assert frame["strict_efficacy"].isna().all()
    assert evaluate_requests(model, tokenizer, requests).filter(like="strict").isna().all(axis=None)


def test_a_question_is_put_in_the_models_chat_template_where_it_has_one(tiny_tokenizer):
    tokenizer = tiny_tokenizer(True)
    asked = INSTRUCTION.format("Who plays?")
    (plain,) = _rows(tokenizer, ["Who plays?"], "question")
    assert tokenizer.decode(plain, skip_special_tokens=True) == QUESTION.format(asked)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ bos_token }}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    (chat,) = _rows(tokenizer, ["Who plays?"], "question")
    assert tokenizer.decode(chat) == f"<s>user: {asked}\nassistant:", "the template's own BOS, and no other"
    (bare,) = _rows(tokenizer, ["Who plays?"], "bare")
    assert tokenizer.decode(bare, skip_special_tokens=True) == "Who plays?"


def test_belief_is_the_log_odds_of_whole_objects(tiny_model, tiny_tokenizer):
    """Against the plain probability of every token, in double precision; and nothing of it where it is off."""
    tokenizer = tiny_tokenizer(True)
    model = tiny_model("llama", len(tokenizer))

    def log_probability(prompt, target):
        ids, start = tokenizer(f"{prompt} {target}")["input_ids"], len(tokenizer(prompt)["input_ids"])
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        return sum(float(logits[i - 1, ids[i]]) for i in range(start, len(ids)))

    request = a_request(target_new="New York City", target_true="Paris")
    row = evaluate_requests(model, tokenizer, [request]).loc[0]

    def odds(prompt):
        return log_probability(prompt, "New York City") - log_probability(prompt, "Paris")

    near = [probe.prompt for probe in request.neighborhood]
    assert row["belief_efficacy"] == pytest.approx(odds(request.prompt), abs=1e-4)
    assert row["belief_generalization"] == pytest.approx(sum(map(odds, request.paraphrases)) / 2, abs=1e-4)
    assert row["belief_specificity"] == pytest.approx(-sum(map(odds, near)) / 2, abs=1e-4)
    off = evaluate_requests(model, tokenizer, [request], belief=False)
    assert off.filter(like="belief").isna().all(axis=None)
