"""A study's corpus: text for key statistics from its start, held-out passages from its end."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
import yaml
from pyarrow import parquet

from sphere.config.dataset import CORPUS_TASKS
from sphere.data.corpus import CHARACTERS, PASSAGES, extract_corpus, write_held_out
from sphere.editing.stats import read_documents
from sphere.errors import InputError
from sphere.evaluation.neutral import read_texts


def test_a_corpus_comes_from_parquet_or_text(tmp_path: Path) -> None:
    texts = ["One.\n\nStill one.", "", "Two: 東京."]
    parquet.write_table(pyarrow.table({"id": [1, 2, 3], "text": texts}), tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_text("One.\nStill one.\n\n\n \nTwo: 東京.", encoding="utf-8")
    for name in ("a.parquet", "a.txt"):
        extract_corpus(tmp_path / name, tmp_path / "out.txt", column="text", documents=2)
        assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "One.\nStill one.\n\nTwo: 東京.\n\n"
    with pytest.raises(InputError, match=r"has 2 texts, statistics.documents .* asks for 3: lower it"):
        extract_corpus(tmp_path / "a.parquet", tmp_path / "more.txt", column="text", documents=3)
    assert not (tmp_path / "more.txt").exists()
    with pytest.raises(InputError, match=r"no column 'body': set corpus\.column to one of id, text"):
        extract_corpus(tmp_path / "a.parquet", tmp_path / "out.txt", column="body", documents=2)
    (tmp_path / "half.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:100])
    with pytest.raises(InputError, match=r"half\.parquet is no parquet file"):
        extract_corpus(tmp_path / "half.parquet", tmp_path / "out.txt", column="text", documents=2)


def texts(count: int) -> list[str]:
    """Every third is too short for a passage; each names itself at its beginning."""
    return [f"Text {i}\nis of {'long  words ' * (2 if i % 3 == 0 else 60)}." for i in range(count)]


def test_held_out_passages_are_of_no_text_that_anything_else_reads(tmp_path: Path) -> None:
    file, folder = tmp_path / "a.txt", tmp_path / "tasks"
    file.write_text("\n\n".join(texts(30)), encoding="utf-8")
    skip = 12 + 5
    extract_corpus(file, tmp_path / "corpus.txt", column="text", documents=skip)
    write_held_out(file, folder, column="text", skip=skip)
    (task,) = CORPUS_TASKS
    lines = (folder / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    passages = [json.loads(line)["text"] for line in lines]
    assert [int(passage.split()[1]) for passage in passages] == [i for i in range(30) if i % 3][-PASSAGES:]
    read = {*read_documents(tmp_path / "corpus.txt")[:12], *read_texts(tmp_path / "corpus.txt", skip=12, count=5)}
    assert len(read) == skip
    assert not {text.split()[1] for text in read} & {passage.split()[1] for passage in passages}
    assert all(CHARACTERS - 6 < len(passage) <= CHARACTERS for passage in passages)
    assert {passage.split()[-1] for passage in passages} <= {"long", "words"}, "whole words"
    asked = yaml.safe_load((folder / f"{task}.yaml").read_text(encoding="utf-8"))
    assert (asked["task"], asked["output_type"]) == (task, "loglikelihood_rolling")
    write_held_out(file, tmp_path / "more", column="text", skip=3)
    again = (tmp_path / "more" / f"{task}.jsonl").read_text(encoding="utf-8")
    assert again.splitlines() == lines, "the same, however many texts others read"


def test_passages_of_a_text_without_spaces(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(["東京" * CHARACTERS] * PASSAGES), encoding="utf-8")
    write_held_out(tmp_path / "a.txt", tmp_path, column="text", skip=0)
    lines = (tmp_path / f"{CORPUS_TASKS[0]}.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["text"] for line in lines} == {"東京" * (CHARACTERS // 2)}


def test_too_few_texts_for_passages(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(texts(20)), encoding="utf-8")
    with pytest.raises(InputError, match=r"has 7 texts .* behind the first 9, .* needs 8: lower statistics.documents"):
        write_held_out(tmp_path / "a.txt", tmp_path, column="text", skip=9)
    assert not list(tmp_path.glob("*.jsonl"))
