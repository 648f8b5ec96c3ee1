"""What a workflow script does around its one call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sphere.study import provenance

# A job run as Snakemake runs it: a process of its own, with an object called `snakemake`.
SCRIPT = """
{before}
import sys
from pathlib import Path
from types import SimpleNamespace
from sphere.errors import InputError, NumericalError
from sphere.study.job import job

class Named(list):
    def __init__(self, **named):
        super().__init__(named.values())
        self.named = named
    def get(self, key): return self.named.get(key)
    def items(self): return self.named.items()

snakemake = SimpleNamespace(
    rule="edit",
    wildcards=Named(seed="0"),
    input=Named(**{inputs}),
    output=["out.txt"],
    params=Named(ridge=10),
    log=["logs/log"],
)
with job(snakemake, **{options}):
    print("working")
    {body}
"""


def start(
    folder: Path,
    body: str,
    inputs: dict[str, str] | None = None,
    buffered: bool = False,
    before: str = "",
    **options: object,
) -> subprocess.CompletedProcess[str]:
    code = SCRIPT.format(body=body, inputs=inputs or {}, before=before, options=options)
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def run(folder: Path, body: str, inputs: dict[str, str] | None = None, **options: Any) -> tuple[int, str, str]:
    """Exit status, what the process printed, and its log."""
    done = start(folder, body, inputs, **options)
    return done.returncode, done.stdout + done.stderr, (folder / "logs" / "log").read_text()


WRITE = "Path('out.txt').write_text('result')"


def test_a_finished_job_leaves_a_log_and_provenance(tmp_path: Path) -> None:
    status, printed, log = run(tmp_path, WRITE)
    assert (status, printed) == (0, "")
    assert log == "working\n"
    note = provenance.verify(tmp_path / "out.txt")
    made = note["job"]
    assert (made["rule"], made["wildcards"]) == ("edit", {"seed": "0"})
    assert made["seconds"] >= 0
    assert 0 < made["start_up_cpu_seconds"] <= made["cpu_seconds"]
    assert made["machine"]["cores"] > 0
    assert note["settings"] == {"ridge": 10}


def test_start_up_ends_when_the_body_begins_or_with_the_first_model(tmp_path: Path) -> None:
    """On a clock that counts how often it was looked at."""
    clock = "import itertools, time; time.process_time = itertools.count().__next__"
    times = {}
    for loads in ("", "; from sphere.progress import ready; ready(); ready()"):
        done = run(tmp_path, f"{WRITE}{loads}", {}, before=clock)
        assert done[0] == 0, done
        made = provenance.verify(tmp_path / "out.txt")["job"]
        times[loads] = made["start_up_cpu_seconds"], made["cpu_seconds"]
    assert list(times.values()) == [(0, 1), (1, 3)]


@pytest.mark.parametrize(
    ("error", "status"), [("InputError('bad input: mend it')", 2), ("NumericalError('bad input: mend it')", 1)]
)
def test_bad_input_and_bad_numbers_are_one_line_in_the_log(tmp_path: Path, error: str, status: int) -> None:
    found, _, log = run(tmp_path, f"raise {error}")
    assert found == status
    assert log.splitlines() == ["working", "error: bad input: mend it"]
    assert not provenance.sidecar(tmp_path / "out.txt").exists()


def test_anything_else_leaves_its_traceback_in_the_log(tmp_path: Path) -> None:
    status, _, log = run(tmp_path, "1 / 0")
    assert status == 1
    assert "Traceback" in log
    assert "ZeroDivisionError" in log


def test_an_input_that_was_changed_stops_the_job_before_it_starts(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("a")
    provenance.record(tmp_path / "in.txt", job={}, settings={}, ancestors={})
    assert run(tmp_path, WRITE, {"data": "in.txt"})[0] == 0
    (tmp_path / "in.txt").write_text("b")
    (tmp_path / "out.txt").unlink()
    status, _, log = run(tmp_path, WRITE, {"data": "in.txt"})
    assert status == 2
    assert log.startswith("refused: in.txt is ")
    assert not (tmp_path / "out.txt").exists()


def test_a_users_own_file_needs_no_provenance_where_the_rule_says_so(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("[]")
    status, _, log = run(tmp_path, WRITE, {"data": "mine.json"})
    assert status == 2
    assert "no provenance" in log
    assert run(tmp_path, WRITE, {"data": "mine.json"}, sources=["data"])[0] == 0


def test_a_stream_made_under_other_settings_is_not_continued(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("s")
    provenance.record(tmp_path / "state", job={}, settings={"ridge": 20}, ancestors={})
    status, _, log = run(tmp_path, WRITE, {"previous": "state"}, continues="previous")
    assert status == 2
    assert "ridge = 20, this job has 10" in log
    provenance.record(tmp_path / "state", job={}, settings={"ridge": 10}, ancestors={})
    assert run(tmp_path, WRITE, {"previous": "state"}, continues="previous")[0] == 0


FULL = "[Errno 28] No space left on device: free space there and run the same command again"


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        (WRITE, 1, f"error: {FULL} (this job writes out.txt)"),
        ("raise InputError('bad input: mend it')", 2, "error: bad input: mend it"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
    ],
    ids=["nothing wrong", "bad input", "anything else"],
)
def test_what_a_full_disk_keeps_out_of_the_log_is_on_the_terminal(
    tmp_path: Path, body: str, status: int, line: str, buffered: bool
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "log").symlink_to("/dev/full")
    if not buffered:  # then the job's own line fails, before its body
        status, line = 1, f"error: {FULL} (this job writes out.txt)"
    done = start(tmp_path, body, buffered=buffered)
    assert done.returncode == status
    assert done.stderr.splitlines()[-1] == line
    assert ("Traceback" in done.stderr) == line.startswith("Zero")
    assert not provenance.sidecar(tmp_path / "out.txt").exists()


def test_a_log_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    done = start(tmp_path, WRITE)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the log logs/log cannot be written: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.txt").exists()


def test_a_long_job_says_now_and_then_in_the_run_s_log_how_far_it_is(tmp_path: Path) -> None:
    """At most a line a minute there, every ten seconds in its own log."""
    body = f"""
    from sphere import progress
    clock = iter(range(0, 1000, 7))
    progress.time.monotonic = lambda: next(clock)
    for _ in progress.track(range(20), "batches"): pass
    {WRITE}
"""
    status, printed, log = run(tmp_path, body)
    assert status == 0, printed
    lines = printed.splitlines()
    assert 1 < len(lines) <= 3
    assert lines[0] == "edit 0: batches: 9/20 after 70 s, about 86 s left"
    assert set(line.removeprefix("edit 0: ") for line in lines) < set(log.splitlines())
