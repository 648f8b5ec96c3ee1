"""What a job has finished before it ends: found by the next start of the same job, and by no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sphere.study import provenance
from sphere.study.provenance import sidecar
from sphere.study.unfinished import Unfinished

SETTINGS, ANCESTORS = {"batch_size": 2}, {Path("/models/a"): "0" * 64}


@pytest.fixture
def outputs(tmp_path: Path) -> list[Path]:
    return [tmp_path / f"edits{edits}" / name for edits in (2, 4) for name in ("state", "energy.csv")]


def start(outputs: list[Path], **changed: Any) -> Unfinished:
    given: dict[str, Any] = {"job": {"rule": "edit"}, "settings": SETTINGS, "ancestors": ANCESTORS} | changed
    return Unfinished([str(path) for path in outputs], **given)


def killed_behind_the_first(outputs: list[Path]) -> None:
    """A start that finished two of the four outputs, and wrote a third."""
    job = start(outputs)
    for output in outputs[:3]:
        job.path(output).parent.mkdir(parents=True, exist_ok=True)
        job.path(output).write_text(output.parent.name)
    job.finish(outputs[:2])


def test_the_same_job_finds_what_is_finished_and_moves_all_of_it(outputs: list[Path]) -> None:
    killed_behind_the_first(outputs)
    again = start(outputs)
    assert again.has(outputs[:2])
    assert not again.has(outputs[2:])
    assert not any(path.exists() for path in outputs)
    for output in outputs[2:]:
        again.path(output).write_text("edits4")
    for output in outputs:
        output.parent.mkdir(exist_ok=True)  # as the workflow engine does
    again.move()
    assert [path.read_text() for path in outputs] == ["edits2", "edits2", "edits4", "edits4"]
    assert not again.folder.parent.exists()


@pytest.mark.parametrize(
    "changed", [{"settings": {"batch_size": 3}}, {"ancestors": {Path("/models/a"): "1" * 64}}, {"ancestors": {}}]
)
def test_another_job_finds_nothing(changed: dict[str, Any], outputs: list[Path]) -> None:
    killed_behind_the_first(outputs)
    assert not start(outputs, **changed).has(outputs[:2])


def test_other_code_and_a_changed_file_find_nothing(outputs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    killed_behind_the_first(outputs)
    again = start(outputs)
    again.path(outputs[1]).write_text("other")
    assert again.has(outputs[:1])
    assert not again.has(outputs[:2])
    sidecar(again.path(outputs[0])).write_text("{")
    assert not again.has(outputs[:1])
    killed_behind_the_first(outputs)
    monkeypatch.setattr(provenance, "sources_digest", lambda: "other")
    assert not again.has(outputs[:1])
