"""Atomic writes, digests and provenance."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sphere
from sphere import files
from sphere.errors import InputError
from sphere.study import provenance
from sphere.study.provenance import StaleArtifact

JOB = {"rule": "edit", "wildcards": {}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def make(path: Path, text: str, *parents: Path, settings: dict[str, object] | None = None) -> Path:
    """An artefact made of ``parents``, as a workflow job would leave it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ancestors = provenance.lineage(parents)
    path.write_text(text)
    provenance.record(path, job=JOB, settings=settings or {}, ancestors=ancestors)
    return path


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")

    def cut_off() -> None:
        with files.write_atomically(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        cut_off()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_makes_its_folder_and_an_ordinary_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.csv"
    with files.write_atomically(path) as temporary:
        assert temporary.suffix == ".csv"
        assert not path.exists()
        temporary.write_text("all of it")
    (tmp_path / "plain").write_text("")
    assert path.read_text() == "all of it"
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@given(value=JSON)
def test_json_reads_back_as_written(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("json") / "value.json"
    files.write_json(value, path)
    assert files.read_json(path) == value


def test_json_refuses_what_it_cannot_hold_and_explains_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json({"loss": float("nan")}, path)
    assert not path.exists()
    with pytest.raises(InputError, match=r"value\.json is not there"):
        files.read_json(path)
    path.write_text('{"a": 1,\n b}')
    with pytest.raises(InputError, match=r"value\.json is not JSON .*line 2"):
        files.read_json(path)


def test_csv_keeps_every_bit_of_a_float(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.random.default_rng(0).standard_normal(500) * 10.0 ** np.arange(-250, 250)})
    files.write_csv(frame, tmp_path / "x.csv")
    read = pd.read_csv(tmp_path / "x.csv")
    pd.testing.assert_frame_equal(read, frame, check_exact=True)


def test_config_digest_is_of_the_meaning_not_of_the_writing() -> None:
    assert files.config_digest({"a": [1, 2], "b": None}) == files.config_digest({"b": None, "a": (1, 2)})
    values = [{"a": 1}, {"a": 2}, {"b": 1}, {"a": [1]}, {"a": "1"}, {"a": True}, {}]
    assert len({files.config_digest(value) for value in values}) == len(values)


def test_folder_digest_sees_names_and_contents_but_no_hidden_files(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "weights").write_text("w")
    before = files.digest(folder)
    (folder / ".snakemake_timestamp").touch()
    assert files.digest(folder) == before
    (folder / "deep" / "weights").rename(folder / "deep" / "renamed")
    renamed = files.digest(folder)
    (folder / "deep" / "renamed").write_text("v")
    assert len({before, renamed, files.digest(folder)}) == 3
    shutil.copytree(folder, tmp_path / "copy")
    assert files.digest(tmp_path / "copy") == files.digest(folder)


def test_another_solver_is_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that was cut off goes on by the code that began it: all of the package's, not the study's wing alone."""
    package = Path(sphere.__file__).parent
    shutil.copytree(package, tmp_path / "sphere", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sphere, "__file__", str(tmp_path / "sphere" / "__init__.py"))
    found = set()
    for name in ("editing/solvers/memit.py", "editing/methods.yaml", "geometry/energy.py", None):
        provenance.sources_digest.cache_clear()
        found.add(provenance.sources_digest())
        if name is not None:
            with (tmp_path / "sphere" / name).open("a", encoding="utf-8") as file:
                file.write("\n")
    provenance.sources_digest.cache_clear()
    assert len(found) == 4


def test_provenance_says_what_made_the_artefact(tmp_path: Path) -> None:
    model = make(tmp_path / "model.txt", "weights")
    state = make(tmp_path / "stream" / "state.txt", "edited", model, settings={"ridge": 10})
    note = provenance.provenance(state)
    assert note["job"] == JOB
    assert note["settings"] == {"ridge": 10}
    assert note["settings_sha256"] == files.config_digest({"ridge": 10})
    assert note["sha256"] == files.digest(state)
    assert note["ancestors"] == {"../model.txt": files.digest(model)}
    assert note["code"]["sources"] == provenance.sources_digest()
    assert {"torch", "transformers", "numpy"} <= note["libraries"].keys()


def test_lineage_reaches_back_to_the_first_ancestor(tmp_path: Path) -> None:
    world = make(tmp_path / "world", "w")
    model = make(tmp_path / "model", "m", world)
    state = make(tmp_path / "far" / "state", "s", model)
    assert provenance.lineage([state]) == {path.resolve(): files.digest(path) for path in (world, model, state)}


def test_an_artefact_that_was_changed_is_refused_with_both_digests(tmp_path: Path) -> None:
    path = make(tmp_path / "statistics", "C")
    before = files.digest(path)
    path.write_text("C'")
    with pytest.raises(StaleArtifact) as caught:
        provenance.verify(path)
    assert str(path) in str(caught.value)
    assert before[: files.SHORT] in str(caught.value)
    assert files.digest(path)[: files.SHORT] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read for their digest; every file is large and long unchanged."""
    read: list[str] = []

    def content_digest(file: BinaryIO) -> str:
        read.append(Path(file.name).name)
        return files.content_digest(file)

    monkeypatch.setattr(provenance, "LARGE", 1)
    monkeypatch.setattr(provenance, "COARSE", 0.0)
    monkeypatch.setattr(provenance, "content_digest", content_digest)
    return read


def later(path: Path, change: Callable[[], object]) -> None:
    """Make ``change`` to a file until the file system's clock has moved on, as it has between two jobs."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        change()


def test_a_large_artefact_is_read_once_a_change(tmp_path: Path, reads: list[str]) -> None:
    state, model = make(tmp_path / "state", "s"), tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("w")
    (model / "tokens").write_text("t")
    provenance.record(model, job=JOB, settings={}, ancestors={})
    assert sorted(reads) == ["state", "tokens", "weights"]
    for path in (state, model, state, model):
        provenance.verify(path)
    assert len(reads) == 3
    for touched in (state, model / "tokens"):  # as Snakemake does to a finished job's outputs
        later(touched, partial(os.utime, touched))
    for path in (state, model, state, model):
        provenance.verify(path)
    assert reads[3:] == ["state", "tokens"]


@pytest.mark.parametrize("folder", [False, True])
def test_a_large_artefact_that_was_changed_is_refused_whatever_its_size_and_time(
    tmp_path: Path, reads: list[str], folder: bool
) -> None:
    path = tmp_path / "model"
    weights = path / "weights" if folder else path
    weights.parent.mkdir(exist_ok=True)
    weights.write_text("first")
    provenance.record(path, job=JOB, settings={}, ancestors={})
    before = weights.stat()
    later(weights, partial(weights.write_text, "other"))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    for _ in range(2):
        with pytest.raises(StaleArtifact, match="changed after it was made"):
            provenance.verify(path)
    assert reads == ["weights" if folder else "model"] * 2, "what was refused is not read again either"
    later(weights, partial(weights.write_text, "first"))
    provenance.verify(path)


def test_a_copy_is_read_again_and_notes_that_say_nothing_are_made_anew(tmp_path: Path, reads: list[str]) -> None:
    path = make(tmp_path / "one" / "state", "s")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    provenance.verify(tmp_path / "two" / "state")
    assert reads == ["state"] * 2
    for text in ("", "[]", "{", "{}"):
        sidecar = provenance.sidecar(path)
        sidecar.with_name(".state.read").write_text(text)
        for _ in range(2):
            provenance.verify(path)
        reads.pop()
        assert len(reads) == 2


def test_small_and_young_artefacts_are_read_each_time(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that counts whole seconds would not tell two changes within one apart."""
    monkeypatch.setattr(provenance, "COARSE", 3600.0)
    path = make(tmp_path / "young", "s")
    provenance.verify(path)
    monkeypatch.setattr(provenance, "LARGE", 2)
    path = make(tmp_path / "small", "s")
    provenance.verify(path)
    assert reads == ["young"] * 2 + ["small"] * 2
    assert sorted(each.name for each in (tmp_path / "provenance").iterdir()) == ["small.json", "young.json"]


def test_an_artefact_of_another_version_of_sphere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "statistics", "C")
    monkeypatch.setattr(sphere, "__version__", "9.9")
    with pytest.raises(StaleArtifact, match=r"statistics was made by sphere \d\S+, this is 9\.9: delete it .* on with"):
        provenance.verify(path)


def test_an_artefact_without_provenance_is_refused_unless_it_is_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text("[]")
    with pytest.raises(StaleArtifact, match="has no provenance"):
        provenance.lineage([path])
    assert provenance.lineage([], sources=[path]) == {path.resolve(): files.digest(path)}


def test_inputs_made_from_different_models_are_refused_and_both_are_named(tmp_path: Path) -> None:
    model = make(tmp_path / "model", "first")
    statistics = make(tmp_path / "statistics", "C", model)
    make(model, "second")
    contexts = make(tmp_path / "contexts", "c", model)
    with pytest.raises(StaleArtifact) as caught:
        provenance.lineage([statistics, contexts])
    assert str(statistics) in str(caught.value)
    assert str(contexts) in str(caught.value)
    with pytest.raises(StaleArtifact, match="this job"):
        provenance.lineage([statistics, model])


def test_a_folder_of_results_can_be_moved(tmp_path: Path) -> None:
    model = make(tmp_path / "old" / "model", "m")
    make(tmp_path / "old" / "stream" / "state", "s", model)
    os.rename(tmp_path / "old", tmp_path / "new")
    moved = provenance.lineage([tmp_path / "new" / "stream" / "state", tmp_path / "new" / "model"])
    assert set(moved) == {(tmp_path / "new" / name).resolve() for name in ("model", "stream/state")}


def test_a_stream_is_continued_only_under_its_own_settings(tmp_path: Path) -> None:
    state = make(tmp_path / "state", "s", settings={"ridge": 10, "layers": [4, 5]})
    provenance.same_settings(state, {"layers": (4, 5), "ridge": 10})
    with pytest.raises(StaleArtifact, match=r"ridge = 10, this job has 20"):
        provenance.same_settings(state, {"ridge": 20, "layers": [4, 5]})
    with pytest.raises(StaleArtifact, match=r"alpha = None, this job has 0\.5"):
        provenance.same_settings(state, {"ridge": 10, "layers": [4, 5], "alpha": 0.5})


def test_provenance_files_are_json_of_their_own_folder(tmp_path: Path) -> None:
    path = make(tmp_path / "a" / "x.csv", "x")
    assert provenance.sidecar(path) == tmp_path / "a" / "provenance" / "x.csv.json"
    assert json.loads(provenance.sidecar(path).read_text())["sha256"] == files.digest(path)


def refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_folder_is_used_all_the_same_and_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    refuse_locks(monkeypatch, number)
    files.occupy(tmp_path)
    printed = capsys.readouterr().err
    assert printed.startswith(f"warning: {tmp_path} is on a file system without locks")
    assert printed.count("\n") == 1
    with files.alone(tmp_path / "x"):
        pass
    assert capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_occupied_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"\(File exists\): give other results with --config results=FOLDER"):
        files.occupy(tmp_path / "file")
    refuse_locks(monkeypatch, errno.ENOSPC)
    with pytest.raises(InputError, match=r"\(No space left on device\): free space there .*, or give other results"):
        files.occupy(tmp_path)


def test_whoever_may_write_a_folder_may_lock_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o775)
    files.occupy(tmp_path / "shared")
    lock = tmp_path / "shared" / ".lock"
    assert lock.stat().st_mode & 0o777 == 0o664
    opened = os.open

    def another_users(path: Path, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", another_users)
    with pytest.raises(InputError, match=r"another workflow \(process \d+ on "):
        files.occupy(tmp_path / "shared")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r"\(Permission denied\): give yourself access to it"):
        files.occupy(tmp_path / "shared")
