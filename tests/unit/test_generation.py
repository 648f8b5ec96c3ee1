"""Generation against the simplest possible loop, fluency and consistency against values worked by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from hypothesis import given
from hypothesis import strategies as st

from sphere.errors import InputError
from sphere.evaluation.generation import (
    GenerationSettings,
    consistency,
    continue_rows,
    fit_tfidf,
    n_gram_entropy,
    read_tfidf,
    words_of,
)

ROWS = [(5, 9, 200), (7,), tuple(range(40, 60)), (300, 17, 17, 17, 8), (0, 66, 31)]


def plain_greedy(model, row, count):
    """No cache, no padding, no batch."""
    ids = list(row)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return tuple(ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_cached_batches_say_what_a_plain_loop_says(family, tiny_model):
    model = tiny_model(family, 384)
    counts = [12, 3, 8, 0, 12]
    expected = [plain_greedy(model, row, count) for row, count in zip(ROWS, counts, strict=True)]
    for budget in (1, 70, 10_000):
        for pad in (0, 99):
            assert continue_rows(model, ROWS, new_tokens=counts, pad=pad, token_budget=budget) == expected


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_sampling_depends_on_seed_and_row_and_nothing_else(family, tiny_model):
    """Batches, neighbours, order and the global random state change nothing; a longer text begins with the shorter."""
    model = tiny_model(family, 384)
    counts = [12, 3, 8, 0, 12]
    one = continue_rows(model, ROWS, new_tokens=counts, pad=0, seed=3)
    assert one == continue_rows(model, ROWS, new_tokens=counts, pad=5, seed=3, token_budget=1)
    assert one[::-1] == continue_rows(model, ROWS[::-1], new_tokens=counts[::-1], pad=0, seed=3)
    assert one != continue_rows(model, ROWS, new_tokens=counts, pad=0, seed=4)
    assert one != continue_rows(model, ROWS, new_tokens=counts, pad=0)
    longer = continue_rows(model, ROWS, new_tokens=[count + 4 for count in counts], pad=0, seed=3)
    assert all(text[: len(short)] == short for text, short in zip(longer, one, strict=True))


def test_sampling_takes_the_five_likeliest_in_proportion(tiny_model):
    model = tiny_model("llama", 384)
    rows = [(7, 9)]
    with torch.no_grad():
        logits = model(torch.tensor(rows)).logits[0, -1].double()
    top = logits.topk(5)
    drawn = [continue_rows(model, rows, new_tokens=[1], pad=0, seed=seed)[0][-1] for seed in range(400)]
    assert set(drawn) <= set(top.indices.tolist())
    shares = top.values.softmax(0)
    for token, share in zip(top.indices.tolist(), shares.tolist(), strict=True):
        spread = math.sqrt(share * (1 - share) / len(drawn))
        assert abs(drawn.count(token) / len(drawn) - share) < 4 * spread + 1e-9


def test_words_are_the_penn_treebank_s():
    assert words_of("He didn't stop. Then (in Rome) she paid $3.50!") == [
        *("He", "did", "n't", "stop", ".", "Then", "(", "in", "Rome", ")", "she", "paid", "$", "3.50", "!"),
    ]


def test_generation_stops_where_positions_end(tiny_model):
    model = tiny_model("gpt2", 384)  # 128 positions
    short, long = continue_rows(model, [(4, 5), tuple(range(128))], new_tokens=[500, 500], pad=0)
    assert len(short) == 128
    assert len(long) == 128


def test_no_rows_no_generation(tiny_model):
    assert continue_rows(tiny_model("gpt2", 384), [], new_tokens=[], pad=0) == []


def test_generation_leaves_the_global_random_state_alone(tiny_model):
    model = tiny_model("llama", 384)
    before = torch.get_rng_state()
    continue_rows(model, ROWS, new_tokens=[4] * len(ROWS), pad=0)
    assert torch.equal(before, torch.get_rng_state())


def test_entropy_of_distinct_words_is_the_logarithm_of_their_number():
    # 9 words: 8 bi-grams and 7 tri-grams, all different
    assert n_gram_entropy("a b c d e f g h i") == pytest.approx((2 / 3 * 3 + 4 / 3 * math.log2(7)) / 2)


def test_entropy_counts_repeats_and_punctuation():
    # bi-grams: (a ,) twice, (, a) twice, so 1 bit; tri-grams: (a , a) twice, (, a ,) once
    three = 2 / 3 * math.log2(3 / 2) + 1 / 3 * math.log2(3)
    assert n_gram_entropy("a, a, a") == pytest.approx((2 / 3 * 1 + 4 / 3 * three) / 2)


@pytest.mark.parametrize("text", ["", "word", "no no no no no no"])
def test_entropy_of_short_or_stuck_texts_is_zero(text):
    assert n_gram_entropy(text) == 0


@given(st.lists(st.sampled_from(["a", "b", "c", "."]), max_size=40))
def test_entropy_lies_between_zero_and_that_of_distinct_words(words):
    most = [math.log2(max(1, len(words) - n + 1)) for n in (2, 3)]
    assert -1e-12 <= n_gram_entropy(" ".join(words)) <= (2 / 3 * most[0] + 4 / 3 * most[1]) / 2 + 1e-12


def test_consistency_is_one_for_the_same_words_and_zero_for_none_in_common():
    tfidf = fit_tfidf(["the nurse works in Oslo", "the pilot flies to Rome", "a baker"])
    assert consistency(tfidf, ["nurse works", "in Oslo"], ["Oslo works in", "nurse"]) == pytest.approx(1)
    assert consistency(tfidf, ["the nurse"], ["pilot flies"]) == 0
    assert consistency(tfidf, ["zebra"], ["the nurse"]) == 0
    assert consistency(tfidf, [""], ["the nurse"]) == 0


def test_consistency_weighs_a_rare_word_more_than_a_common_one():
    tfidf = fit_tfidf(["the nurse", "the pilot", "the baker"])
    assert consistency(tfidf, ["the nurse"], ["nurse"]) > consistency(tfidf, ["the nurse"], ["the"]) > 0


def test_published_word_weights_are_those_they_were_taken_from(tmp_path):
    fitted = fit_tfidf(["the nurse works in Oslo", "the pilot flies to Rome", "a baker"])
    vocabulary, frequencies = tmp_path / "vocab.json", tmp_path / "idf.npy"
    vocabulary.write_text(json.dumps({word: int(column) for word, column in fitted.vocabulary_.items()}))
    np.save(frequencies, fitted.idf_)
    texts = ["the nurse flies to Oslo"], ["the pilot works in Oslo, zebra"]
    assert consistency(read_tfidf(vocabulary, frequencies), *texts) == pytest.approx(consistency(fitted, *texts))
    np.save(frequencies, fitted.idf_[1:])
    with pytest.raises(InputError, match=r"vocab.json and .*idf.npy do not belong together"):
        read_tfidf(vocabulary, frequencies)
    frequencies.write_text("no array")
    with pytest.raises(InputError, match=r"idf.npy is no NumPy array"):
        read_tfidf(vocabulary, frequencies)


def test_references_without_words_are_refused():
    with pytest.raises(InputError, match="references file"):
        fit_tfidf(["", "!?"])


def test_chosen_records_are_evenly_spread():
    assert GenerationSettings(records=3).chosen(9) == [0, 3, 6]
    assert GenerationSettings(records=30).chosen(4) == [0, 1, 2, 3]
    assert GenerationSettings().chosen(3) == [0, 1, 2]
    assert GenerationSettings(records=0).chosen(5) == []


@pytest.mark.parametrize("wrong", [{"length": 0}, {"records": -1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError, match="at least"):
        GenerationSettings(**wrong)
