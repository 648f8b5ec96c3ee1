"""Two users of one folder of results: whoever writes the same statistics or directions at once gets a whole file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sphere import files
from sphere.errors import InputError
from sphere.study import provenance

from .conftest import Drill

WRITER = """
import sys
from pathlib import Path
import torch
from sphere.editing.stats import Statistics
from sphere.study import provenance
path = Path(sys.argv[1])
for _ in range(15):
    Statistics({0: torch.eye(64, dtype=torch.float64)}, {}, tokens=7).save(path)
    provenance.record(path, job={"rule": "statistics"}, settings={}, ancestors={})
"""
HOLDER = """
import sys, time
from pathlib import Path
from sphere.files import write_atomically
with write_atomically(Path(sys.argv[1])) as temporary:
    temporary.write_text("half of the n")
    print("writing", flush=True)
    time.sleep(600)
"""


Start = Callable[[str, Path], subprocess.Popen[str]]


@pytest.fixture
def started() -> Iterator[Start]:
    """``started(program, path)``: a Python process, dead at the end of the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(program: str, path: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, str(path)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_two_writers_of_the_same_statistics(tmp_path: Path, started: Start, drill: Drill) -> None:
    path = tmp_path / "statistics.safetensors"
    with drill("two users writing the same statistics", "two processes, 15 times each, and a reader") as attempt:
        writers = [started(WRITER, path) for _ in range(2)]
        reads = 0
        while any(writer.poll() is None for writer in writers):
            if provenance.sidecar(path).exists():
                provenance.verify(path)
                reads += 1
            time.sleep(0.002)
        assert [writer.returncode for writer in writers] == [0, 0]
        assert reads > 2
        assert sorted(each.name for each in tmp_path.iterdir()) == ["provenance", path.name]
        attempt.seen = ""


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(
    tmp_path: Path, started: Start
) -> None:
    path = tmp_path / "state.safetensors"
    killed, living = started(HOLDER, path), started(HOLDER, path)
    for writer in (killed, living):
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
    assert len(list(tmp_path.glob(".state.safetensors.*"))) == 2
    killed.kill()
    killed.wait()
    with files.write_atomically(path) as temporary:
        temporary.write_text("all of it")
    assert len(list(tmp_path.glob(".*"))) == 1
    assert path.read_text() == "all of it"


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "model"

    def cut_off() -> None:
        with files.write_folder_atomically(path) as temporary:
            (temporary / "weights").write_text("half")
            raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        cut_off()
    assert list(tmp_path.iterdir()) == []
    for text in ("first", "second"):
        with files.write_folder_atomically(path) as temporary:
            (temporary / "weights").write_text(text)
    assert (path / "weights").read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "plain").mkdir()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_old_folder_goes_when_the_new_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, there, remove = tmp_path / "model", [], shutil.rmtree

    def rmtree(folder: Path, **options: bool) -> None:
        there.append((path / "weights").read_text())
        remove(folder, **options)

    for text in ("first", "second"):
        with files.write_folder_atomically(path) as temporary:
            (temporary / "weights").write_text(text)
            monkeypatch.setattr(shutil, "rmtree", rmtree)
    assert there == ["first", "second"]


def test_a_folder_in_use_is_refused_and_free_again_when_its_user_dies(tmp_path: Path, started: Start) -> None:
    program = "import sys, time; from sphere.files import occupy; occupy(sys.argv[1]); print('mine', flush=True); "
    holder = started(program + "time.sleep(600)", tmp_path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "mine\n"
    with pytest.raises(InputError, match=rf"another workflow \(process {holder.pid} on ") as caught:
        files.occupy(tmp_path)
    assert "\n" not in str(caught.value)
    holder.kill()
    holder.wait()
    again = started(program, tmp_path)
    assert again.communicate()[0] == "mine\n"
    assert again.returncode == 0
    assert os.listdir(tmp_path) == [".lock"]
