"""Edit streams: which records, in which order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sphere.data.records import load_requests
from sphere.data.streams import draw_stream
from sphere.errors import InputError


def zsre(subject: str, answer: str, question: str = "Where does {} live?") -> dict[str, Any]:
    return {
        "subject": subject,
        "src": question.format(subject),
        "rephrase": f"In which city is {subject}?",
        "answers": [answer],
        "loc": "nq question: who wrote it",
        "loc_ans": "Ada",
        "pred": "Rome",
        "alt": "Rome",
    }


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Twelve zsRE records; the third has no subject in its question, the fifth contradicts the first."""
    records = [zsre(f"Person {i}", f"City {i}") for i in range(12)]
    records[2]["src"] = "Where does somebody else live?"
    records[4] = zsre("Person 0", "Another City")
    path = tmp_path / "zsre.json"
    path.write_text(json.dumps(records))
    return path


def drawn(dataset: Path, edits: int, seed: int) -> list[dict[str, Any]]:
    out = dataset.parent / "stream.json"
    draw_stream(dataset, out, edits=edits, rng=np.random.default_rng(seed))
    return list(json.loads(out.read_text()))


def test_seeds_order_one_set_of_records_differently(dataset: Path) -> None:
    first, again, other = drawn(dataset, 6, 0), drawn(dataset, 6, 0), drawn(dataset, 6, 1)
    assert first == again
    assert first != other
    for stream in (first, other):
        assert sorted(record["case_id"] for record in stream) == [0, 1, 3, 5, 6, 7]


def test_records_keep_their_schema_and_their_identity(dataset: Path) -> None:
    before = {request.case_id: request for request in load_requests(dataset).requests}
    drawn(dataset, 8, 3)
    stream = load_requests(dataset.parent / "stream.json")
    assert not stream.skipped
    assert len(stream.requests) == 8
    for request in stream.requests:
        assert request == before[request.case_id]


def test_what_is_passed_over_is_told(dataset: Path) -> None:
    passed = draw_stream(dataset, dataset.parent / "s.json", edits=10, rng=np.random.default_rng(0))
    assert [case for case, _ in passed] == [2, 4]
    assert "another target" in passed[1][1]


def test_a_stream_longer_than_the_dataset_is_refused(dataset: Path) -> None:
    with pytest.raises(InputError, match="10 usable records, the study edits 11"):
        drawn(dataset, 11, 0)
    assert not (dataset.parent / "stream.json").exists()


def test_records_that_share_a_case_id_are_refused(dataset: Path) -> None:
    records = json.loads(dataset.read_text())
    dataset.write_text(json.dumps([{**record, "case_id": 7} for record in records]))
    with pytest.raises(InputError, match="11 records share a case_id"):
        drawn(dataset, 2, 0)


def test_what_the_loader_takes_can_be_written(dataset: Path) -> None:
    """A byte order mark, and half of a surrogate pair where nothing reads it."""
    records = json.loads(dataset.read_text())
    records[0]["alt"] = "\ud800"
    dataset.write_text(json.dumps(records), encoding="utf-8-sig")
    assert sorted(record["case_id"] for record in drawn(dataset, 2, 0)) == [1, 3]


@pytest.mark.parametrize("name", ["counterfact", "zsre"])
def test_real_records_make_a_stream(sample_data: Path, tmp_path: Path, name: str) -> None:
    source = sample_data / f"{name}_sample.json"
    draw_stream(source, tmp_path / "stream.json", edits=500, rng=np.random.default_rng(0))
    loaded = load_requests(tmp_path / "stream.json")
    assert len(loaded.requests) == 500
    assert not loaded.skipped
    assert len({request.case_id for request in loaded.requests}) == 500


def test_a_subject_comes_back_only_after_all_others(tmp_path: Path) -> None:
    """Two facts of one subject share a key: no batch should hold both while another subject waits."""
    wording = ("Where does {} live?", "Where was {} born?", "Where did {} study?")
    records = [zsre(f"Person {i}", f"City {i}", question) for question in wording for i in range(5)]
    (tmp_path / "zsre.json").write_text(json.dumps(records))
    subjects = [record["subject"] for record in drawn(tmp_path / "zsre.json", 15, 0)]
    for start in (0, 5, 10):
        assert len(set(subjects[start : start + 5])) == 5
