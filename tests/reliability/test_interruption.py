"""Killed at any moment, the workflow loses nothing finished, and the same command brings the same results."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from workplace import Run, Workplace

from sphere.files import digest

from .conftest import LONG, Drill

KILLS = 20 if LONG else 2
"""Kills of streams under way, beside the one in training; a chain of at most ``CHAIN`` is one run of the study."""
CHAIN = 10
JOBS = 24
"""Jobs of the smoke study behind its model."""
FAULT, HOW = "the workflow is killed", "SIGKILL to its process group at random moments of the smoke study"
SEEN = "It can be removed with the --unlock argument."
TIMED = {"timing.csv", "timing_summary.csv", "runtime.csv", "cost.csv", "cost_summary.csv", "artefacts.csv"}
TIMED_CLAIM = "C7"


def outcome(place: Workplace) -> dict[str, str]:
    """Relative path -> digest of everything that is computed, without what holds wall times."""
    aside = {"provenance", "logs", "benchmarks"}
    found = {}
    for path in sorted(place.study.rglob("[!.]*")):
        relative = path.relative_to(place.study)
        if path.suffix in (".csv", ".json", ".safetensors", ".svg") and not aside & set(relative.parts):
            found[str(relative)] = digest(path)
    for name in list(found):
        path = place.study / name
        if path.name in TIMED:
            del found[name]
        elif path.parent.name == "claims":
            claims = pd.read_csv(path)
            found[name] = claims[claims["id"] != TIMED_CLAIM].to_csv()
    return found


def leftovers(place: Workplace) -> list[Path]:
    """Temporary files that no process will ever rename."""
    return [path for path in place.study.rglob(".*") if path.name not in (".lock", ".snakemake_timestamp")]


def trained(finished: Workplace, folder: Path) -> Workplace:
    """The study as it was when its model had just been trained."""
    place = Workplace(Path(shutil.copytree(finished.folder, folder, symlinks=True)))
    for path in [*place.study.iterdir(), *(place.study / "smoke").iterdir()]:
        if path.name not in ("world", "smoke", "model", "training.csv", "provenance"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return place


def kill(process: subprocess.Popen[str], *, after: str, times: int, seconds: float) -> None:
    """SIGKILL the whole process group some seconds after its n-th line that matches ``after``."""
    assert process.stdout is not None
    while times and (line := process.stdout.readline()):
        times -= bool(re.match(after, line))
    time.sleep(seconds)
    with suppress(ProcessLookupError):  # it had ended
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def finish(place: Workplace, *targets: str) -> None:
    """What docs/reliability.md says to do after a kill: the same command; and --unlock before it, if it says so."""
    run = place.snakemake(*targets)
    if "--unlock" in run.output:
        assert place.snakemake("--unlock").status == 0
        run = place.snakemake(*targets)
    assert run.status == 0, run.output[-4000:]


@pytest.mark.parametrize("chain", range(-(-KILLS // CHAIN)))
def test_killed_at_any_moment_the_results_are_those_of_a_run_left_alone(
    chain: int, finished: Workplace, tmp_path: Path, drill: Drill
) -> None:
    place = trained(finished, tmp_path / "killed")
    kills = min(CHAIN, KILLS - CHAIN * chain)
    rng = np.random.default_rng([6, chain])
    with drill(FAULT, HOW, times=kills) as attempt:
        for _ in range(kills):
            jobs = int(rng.integers(0, JOBS // kills))
            kill(place.start(), after="Finished jobid", times=jobs, seconds=float(rng.uniform(0, 6)))
            place.snakemake("--unlock")
        finish(place)
        assert outcome(place) == outcome(finished)
        assert leftovers(place) == []
        attempt.seen = SEEN


def test_killed_while_it_trains_the_model_is_that_of_a_run_left_alone(
    finished: Workplace, tmp_path: Path, drill: Drill
) -> None:
    place = trained(finished, tmp_path / "killed")
    model, training = place.study / "smoke" / "model", place.study / "smoke" / "training.csv"
    shutil.rmtree(model)
    training.unlink()
    target = str(model.relative_to(place.folder))
    with drill(FAULT, HOW) as attempt:
        seconds = float(np.random.default_rng(6).uniform(3, 9))
        kill(place.start(target), after=r"Job \d+: Training", times=1, seconds=seconds)
        assert not model.exists(), "half a model"
        blocked = place.snakemake(target)
        assert blocked.status == 1
        assert SEEN in " ".join(blocked.output.split())
        finish(place, target)
        for path in (model, training):
            assert digest(path) == digest(finished.study / path.relative_to(place.study))
        assert leftovers(place) == []
        attempt.seen = SEEN


def kill_once_there(place: Workplace, target: str, file: Path) -> None:
    """Start a run, and end all of it as soon as it has written ``file``."""
    process = place.start(target)
    while not file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def run_again(place: Workplace, target: str) -> Run:
    assert place.snakemake("--unlock").status == 0
    run = place.snakemake("--rerun-incomplete", target)
    assert run.status == 0, run.output[-3000:]
    return run


def test_a_stream_that_is_killed_goes_on_behind_its_last_checkpoint(copied: Callable[[], Workplace]) -> None:
    place = copied()
    stream = place.study / "smoke" / "counterfact" / "sphere" / "seed0"
    states = [stream / f"edits{edits}" / "state.safetensors" for edits in (4, 8)]
    before = [digest(state) for state in states]
    shutil.rmtree(stream)
    target = str((stream / "edits8" / "energy.csv").relative_to(place.folder))
    kept = stream / "unfinished" / "edit" / "edits4" / "provenance" / "cost.csv.json"
    kill_once_there(place, target, kept)
    assert not states[0].exists()
    run_again(place, target)
    log = place.study / "logs" / "smoke" / "counterfact" / "sphere" / "seed0" / "edit.log"
    assert "edits4/state.safetensors: finished before" in log.read_text(encoding="utf-8")
    assert [digest(state) for state in states] == before
    assert not (stream / "unfinished").exists()


def test_without_states_to_keep_one_job_edits_and_measures_and_goes_on_where_it_was_killed(
    copied: Callable[[], Workplace],
) -> None:
    place = copied()
    stream = place.study / "smoke" / "counterfact" / "sphere" / "seed0"
    names = ("energy.csv", "editing.csv", "general_ability.csv", "neutral.csv")
    files = [stream / f"edits{edits}" / name for edits in (4, 8) for name in names]
    before = [digest(file) for file in files]
    shutil.rmtree(stream)
    place.change("studies/smoke.yaml", "threads: 1", "keep_states: false\nthreads: 1")
    target = str((stream / "edits8" / "editing.csv").relative_to(place.folder))
    measured = stream / "unfinished" / "edit_and_measure" / "edits4" / "provenance" / "editing.csv.json"
    kill_once_there(place, target, measured)
    run = run_again(place, target)
    assert run.jobs == {"edit_and_measure": 1}
    log = place.study / "logs" / "smoke" / "counterfact" / "sphere" / "seed0" / "edit_and_measure.log"
    assert "edits8/state.safetensors: finished before" in log.read_text(encoding="utf-8")
    assert [digest(file) for file in files] == before
    assert not (stream / "unfinished").exists()
