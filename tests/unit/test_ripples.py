"""MQuAKE's and RippleEdits' records become edit requests with the questions behind them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ModelMaker, TokenizerMaker

from sphere.data.records import Probe, load_requests
from sphere.data.streams import draw_stream
from sphere.errors import InputError
from sphere.evaluation.metrics import evaluate_requests

Write = Callable[..., Path]


def hop(question: str, cloze: str, answer: str, *aliases: str) -> dict[str, Any]:
    return {"question": question, "cloze": cloze, "answer": answer, "answer_alias": list(aliases)}


WORKS = hop("Who employs Ada?", "Ada is employed by", "Acme", "Acme Corp.")
MQUAKE = {
    "case_id": 7,
    "requested_rewrite": [
        {
            "prompt": "{} is based in",
            "relation_id": "P159",
            "target_new": {"str": "Oslo", "id": "Q585"},
            "target_true": {"str": "Rome", "id": "Q220"},
            "subject": "Acme",
            "question": "Where is Acme based?",
        }
    ],
    "questions": ["In which city is Ada's employer based?", "Where is the firm that employs Ada?"],
    "answer": "Rome",
    "answer_alias": ["Roma"],
    "new_answer": "Oslo",
    "new_answer_alias": ["Kristiania", ""],
    "single_hops": [WORKS, hop("Where is Acme based?", "Acme is based in", "Rome", "Roma")],
    "new_single_hops": [WORKS, hop("Where is Acme based?", "Acme is based in", "Oslo", "Christiania")],
    "orig": {"triples": [["Q1", "P108", "Q2"]]},
}


def query(prompt: str, *answers: Any, subject: str = "Q1", targets: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "answers": [{"value": value, "aliases": aliases} for value, *aliases in answers],
        "query_type": "regular",
        "subject_id": subject,
        "relation": "MOTHER",
        "target_ids": list(targets),
        "phrase": None,
    }


def case(*queries: dict[str, Any]) -> dict[str, Any]:
    return {"test_queries": list(queries), "test_condition": "OR", "condition_queries": [query("unread", ("x",))]}


RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the mother of Ada Lovelace is Mary Shelley.",
        "subject_id": "Q1",
        "relation": "MOTHER",
        "target_id": "Q9",
        "previous_fact": {
            "prompt": "The name of the mother of Ada Lovelace is Annabella Byron.",
            "subject_id": "Q1",
            "relation": "MOTHER",
            "target_id": "Q8",
        },
    },
    "Relation_Specificity": [
        case(query("The gender of Ada Lovelace is", ("female", "woman"))),
        case(query("The eye color of Ada Lovelace is")),
        case(query("The gender of Ada Lovelace is", ("female",))),
    ],
    "Logical_Generalization": [
        case(query("The name of the child of Mary Shelley is", ("Ada Lovelace",), subject="Q9", targets=("Q1",))),
        case(query("The names of the siblings of Ada Lovelace are", ("Percy Shelley",), ("Clara",))),
    ],
    "Subject_Aliasing": [case(query("The name of the mother of Augusta Ada King is", ("Mary Shelley", "Mary Godwin")))],
    "Compositionality_I": [case(query("The place of birth of the mother of Ada Lovelace is", ("London",)))],
    "Compositionality_II": [case(query("The name of the grandmother of Byron King is", ("Mary Shelley",)))],
    "Forgetfulness": [],
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def put(*records: Any) -> Path:
        path = tmp_path / "records.json"
        path.write_text(json.dumps(records), encoding="utf-8")
        return path

    return put


def changed(record: dict[str, Any], value: Any, *path: Any) -> dict[str, Any]:
    """A copy with another value, or without the key if that is None."""
    result = copy.deepcopy(record)
    inner: Any = result
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return result


def test_an_mquake_record(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    (request,) = load_requests(write(MQUAKE)).requests
    assert capsys.readouterr().err == "", "every key is known"
    assert (request.case_id, request.prompt, request.subject, request.relation) == (
        7,
        "Acme is based in",
        "Acme",
        "P159",
    )
    assert (request.target_new, request.aliases, request.target_true) == ("Oslo", ("Christiania",), "Rome")
    assert request.paraphrases == ("Where is Acme based?",)
    assert request.portability == (
        *(("two_hop", Probe(asked, "Oslo", ("Kristiania",))) for asked in MQUAKE["questions"]),
        ("unchanged", Probe("Ada is employed by", "Acme", ("Acme Corp.",))),
    )


def test_an_mquake_record_of_several_edits_is_passed_over(write: Write) -> None:
    (rewrite,) = MQUAKE["requested_rewrite"]
    loaded = load_requests(write(MQUAKE, {**MQUAKE, "requested_rewrite": [rewrite, rewrite]}))
    assert len(loaded.requests) == 1
    assert loaded.reasons() == "1 because its questions are of several edits at once"


def test_a_ripple_edits_record(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    (request,) = load_requests(write(RIPPLE)).requests
    assert capsys.readouterr().err == "", "every key is known"
    assert (request.case_id, request.subject, request.relation) == (0, "Ada Lovelace", "MOTHER")
    assert request.prompt == "The name of the mother of Ada Lovelace is"
    assert request.prompt[request.subject_start : request.subject_end] == "Ada Lovelace"
    assert (request.target_new, request.target_true) == ("Mary Shelley", "Annabella Byron")
    assert request.aliases == ("Mary Godwin",)
    assert request.portability == (
        ("unchanged", Probe("The gender of Ada Lovelace is", "female", ("woman",))),
        ("inverse", Probe("The name of the child of Mary Shelley is", "Ada Lovelace")),
        ("two_hop", Probe("The names of the siblings of Ada Lovelace are", "Percy Shelley", ("Clara",))),
        ("subject_alias", Probe("The name of the mother of Augusta Ada King is", "Mary Shelley", ("Mary Godwin",))),
        ("two_hop", Probe("The place of birth of the mother of Ada Lovelace is", "London")),
        ("two_hop", Probe("The name of the grandmother of Byron King is", "Mary Shelley")),
    )


@pytest.mark.parametrize(
    ("relation", "before", "subject", "after", "target"),
    [
        ("OCCUPATION", "The occupation of ", "Ann", " is", "pilot"),
        ("CAST_MEMBER", "The names of the cast members of ", "Life is Beautiful", " are", "Ann Lee"),
        ("COUNTRY_OF_CITIZENSHIP", "The name of the country of citizenship of ", "the Duke of X", " is", "Chad"),
        ("CAPITAL", "The name of the capital city of ", "Chad", " is", "Washington, D.C."),
        ("NUMBER_OF_CHILDREN", "The number of children ", "Ann", " has is", "3"),
        ("FOLLOWED_BY", "", "Part One", " is followed by", "Part Two"),
        ("LEAGUE", "The name of the league which ", "FC X", " plays in is", "Serie A"),
    ],
)
def test_a_sentence_is_taken_apart(
    relation: str, before: str, subject: str, after: str, target: str, write: Write
) -> None:
    stem = f"{before}{subject}{after}"
    record = {"edit": {"prompt": f"{stem} {target}.", "relation": relation}}
    (request,) = load_requests(write(record)).requests
    assert (request.subject, request.subject_start) == (subject, len(before))
    assert (request.prompt, request.target_new, request.target_true) == (stem, target, None)


def test_the_previous_fact_says_where_a_subject_ends(write: Write) -> None:
    edit = {"prompt": "The name of the director of Life is Beautiful is Ann Lee.", "relation": "DIRECTOR"}
    reason = "its subject is not to be told from its prompt"
    records = [{"edit": edit}, {"edit": {**edit, "relation": "MOTHER"}}, RIPPLE]
    assert load_requests(write(*records)).reasons() == f"2 because {reason}"
    previous = {"prompt": "The name of the director of Life is Beautiful is Roberto Benigni."}
    (request,) = load_requests(write({"edit": {**edit, "previous_fact": previous}})).requests
    assert (request.subject, request.target_new, request.target_true) == (
        "Life is Beautiful", "Ann Lee", "Roberto Benigni",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (changed(MQUAKE, None, "new_answer"), 'record 0 (case 7): no "new_answer": add it'),
        (changed(MQUAKE, "text", "questions"), '(case 7): "questions" is str, not a list'),
        (changed(MQUAKE, ["text"], "new_single_hops"), '"new_single_hops" must be a list of objects'),
        (changed(MQUAKE, None, "new_single_hops", 0, "cloze"), 'new_single_hops 0: no "cloze": add it'),
        (changed(MQUAKE, None, "requested_rewrite", 0, "subject"), 'requested_rewrite: no "subject": add it'),
        (changed(MQUAKE, "Oslo", "requested_rewrite", 0, "target_new"), 'no "target_new" object with a "str"'),
        (changed(MQUAKE, ["x"], "new_answers_alias"), "'new_answers_alias': did you mean 'new_answer_alias'?"),
        (changed(MQUAKE, "x", "cloze"), "'cloze' stands in an MQuAKE record but belongs in a hop"),
        (changed(RIPPLE, "x", "edit"), 'record 0: "edit" is str, not an object'),
        (changed(RIPPLE, None, "edit", "relation"), 'record 0, edit: no "relation": add it'),
        (changed(RIPPLE, "x", "edit", "previous_fact"), 'edit: "previous_fact" is str, not an object'),
        (changed(RIPPLE, {}, "Compositionality_I"), '"Compositionality_I" must be a list of objects'),
        (changed(RIPPLE, [{}], "Forgetfulness"), 'Forgetfulness 0: no "test_queries": add it'),
        (changed(RIPPLE, [case({"prompt": "x", "answers": [{}]})], "Forgetfulness"), 'query 0: no "value": add it'),
        (changed(RIPPLE, [case({"answers": [{"value": "x"}]})], "Forgetfulness"), 'query 0: no "prompt": add it'),
        (changed(RIPPLE, [], "Relation_Specifity"), "did you mean 'Relation_Specificity'?"),
    ],
)
def test_broken_input_is_one_line_that_names_file_record_and_key(record: Any, said: str, write: Write) -> None:
    path = write(record)
    with pytest.raises(InputError) as caught:
        load_requests(path)
    assert str(caught.value).startswith(f"{path}: record 0")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_schemas_do_not_mix(write: Write) -> None:
    with pytest.raises(InputError, match="MQuAKE and RippleEdits records are mixed"):
        load_requests(write(MQUAKE, RIPPLE))


@pytest.mark.parametrize("record", [MQUAKE, RIPPLE], ids=["mquake", "ripple_edits"])
def test_a_stream_of_them_is_drawn_and_measured(
    record: dict[str, Any], write: Write, tmp_path: Path, tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker
) -> None:
    passed = draw_stream(write(record), tmp_path / "stream.json", edits=1, rng=np.random.default_rng(0))
    assert passed == []
    (request,) = load_requests(tmp_path / "stream.json").requests
    tokenizer = tiny_tokenizer(True)
    frame = evaluate_requests(tiny_model("llama", len(tokenizer)), tokenizer, [request])
    kinds = {f"portability_{kind}" for kind, _ in request.portability}
    assert set(frame.filter(like="portability").dropna(axis=1).columns) == kinds
    assert frame["success_efficacy"].notna().all()
