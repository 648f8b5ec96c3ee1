"""Downloads: what is checked before a file is taken. No network: the URLs are of local files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sphere.config import Download, PathSource, load_downloads
from sphere.download import fetch, fetch_model
from sphere.errors import InputError

CONTENT = b'[{"case_id": 1}]'
SHA = hashlib.sha256(CONTENT).hexdigest()


def source(tmp_path: Path, *, length: int | None = len(CONTENT), sha256: str | None = SHA) -> Download:
    path = tmp_path / "served.json"
    path.write_bytes(CONTENT)
    return Download(name="served", url=path.as_uri(), revision="1", bytes=length, sha256=sha256, licence="MIT")


def test_a_download_with_the_recorded_length_and_checksum_is_taken(tmp_path: Path) -> None:
    fetch(source(tmp_path), tmp_path / "out.json")
    assert (tmp_path / "out.json").read_bytes() == CONTENT


def test_an_unknown_checksum_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(source(tmp_path, length=None, sha256=None), tmp_path / "out.json")
    assert SHA in capsys.readouterr().out


@pytest.mark.parametrize(("length", "sha256", "part"), [(3, SHA, "16 bytes"), (16, "0" * 64, SHA)])
def test_another_file_than_the_recorded_one_is_refused(tmp_path: Path, length: int, sha256: str, part: str) -> None:
    with pytest.raises(InputError, match=part):
        fetch(source(tmp_path, length=length, sha256=sha256), tmp_path / "out.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["served.json"]


def test_a_url_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    gone = source(tmp_path).model_copy(update={"url": (tmp_path / "gone").as_uri()})
    with pytest.raises(InputError, match="cannot be downloaded") as caught:
        fetch(gone, tmp_path / "out.json")
    assert "\n" not in str(caught.value)


def test_the_list_of_downloads_is_valid_and_licensed() -> None:
    downloads = load_downloads(Path(__file__).resolve().parents[2] / "config" / "sources.tsv")
    assert {"counterfact", "multi_counterfact", "zsre_mend_eval"} <= downloads.keys()
    assert downloads["counterfact"].bytes == 45_108_470
    assert all(each.url.startswith("https://") and each.licence for each in downloads.values())


def test_a_model_folder_of_ones_own_is_linked(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    fetch_model(PathSource(kind="path", path=folder), tmp_path / "model")
    assert (tmp_path / "model" / "config.json").read_text() == "{}"
    assert (tmp_path / "model" / "config.json").is_symlink()
