"""Faults of the machine and of its users, each tried on the finished smoke study: what is said, and what is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from workplace import Workplace

from sphere import files
from sphere.files import digest
from sphere.study import provenance
from sphere.study.provenance import StaleArtifact, lineage, sidecar

from .conftest import Drill, line

Copied = Callable[[], Workplace]
Mount = Callable[..., None]


def segment(place: Workplace, dataset: str = "counterfact", method: str = "sphere", edits: int = 8) -> Path:
    return place.study / "smoke" / dataset / method / "seed0" / f"edits{edits}"


def target(place: Workplace, *paths: Path) -> list[str]:
    return [str(path.relative_to(place.folder)) for path in paths]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """``mount(*arguments, at=FOLDER)``, undone at the end; the test is skipped where that is not allowed."""
    mounted: list[Path] = []

    def do(*arguments: str, at: Path) -> None:
        done = subprocess.run(["mount", *arguments, str(at)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting needs root: {done.stderr.strip()}")
        if at not in mounted:  # a remount is undone with its mount
            mounted.append(at)

    yield do
    for at in reversed(mounted):
        subprocess.run(["umount", str(at)], check=True)


def test_a_full_disk(copied: Copied, mount: Mount, drill: Drill) -> None:
    place = copied()
    results, kept = place.folder / "results", place.folder / "kept"
    folder = segment(place)
    before = digest(folder / "state.safetensors")
    shutil.rmtree(folder)
    results.rename(kept)
    results.mkdir()
    mount("-t", "tmpfs", "-o", "size=256m", "none", at=results)
    shutil.copytree(kept, results, symlinks=True, dirs_exist_ok=True)
    filler = place.folder / "results" / "filler"
    free = shutil.disk_usage(results).free - 150_000  # room for logs, not for a state
    filler.write_bytes(bytes(free))
    with drill("a full disk", "the results on a file system with less room than a state takes") as attempt:
        run = place.snakemake(*target(place, folder / "energy.csv"))
        assert run.status == 1
        attempt.seen = line(run.output, "error: ")
        assert "No space left on device" in attempt.seen
        assert "Traceback" not in run.output
        assert [path for path in folder.rglob("*") if path.is_file()] == []
        filler.unlink()
        assert place.snakemake(*target(place, folder / "energy.csv")).status == 0
        assert digest(folder / "state.safetensors") == before


def test_a_results_folder_that_cannot_be_written(copied: Copied, mount: Mount, drill: Drill) -> None:
    place = copied()
    report = place.study / "report.html"
    report.unlink()
    mount("--bind", str(place.study), at=place.study)
    mount("-o", "remount,ro,bind", at=place.study)
    with drill("a read-only results folder", "the results mounted read-only") as attempt:
        run = place.snakemake()
        assert run.status == 1
        assert "Traceback" not in run.output
        attempt.seen = line(run.output, "error: ")
        assert "results/smoke cannot be written (Read-only file system): " in attempt.seen


def test_a_gpu_that_is_not_there(copied: Copied, drill: Drill) -> None:
    place = copied()
    place.change("models/smoke.yaml", "device: cpu", "device: cuda")
    with drill("a missing GPU", "`device: cuda` on a machine without one") as attempt:
        run = place.snakemake(*target(place, place.study / "smoke" / "model"), environment={"CUDA_VISIBLE_DEVICES": ""})
        assert run.status == 1
        assert "Traceback" not in run.output
        attempt.seen = line(run.output, "error: ")
        assert "torch sees no GPU: use device: auto or cpu" in attempt.seen


def test_memory_that_is_used_up(copied: Copied, drill: Drill) -> None:
    place = copied()
    model = place.study / "smoke" / "model"
    before = digest(model)
    place.change("models/smoke.yaml", "width: 64", "width: 65536")
    with drill("memory used up", "a model of width 65,536, in 8 GiB of address space") as attempt:
        run = place.snakemake(*target(place, model), memory=8 * 2**30)
        assert run.status == 1
        assert "Traceback" not in run.output
        attempt.seen = line(run.output, "error: ")
        assert "out of memory with nothing left to split" in attempt.seen
        place.change("models/smoke.yaml", "width: 65536", "width: 64")
        again = place.snakemake(*target(place, model))
        assert again.status == 0, again.output[-3000:]
        assert again.jobs == {"train_model": 1}
        assert digest(model) == before


def test_numbers_that_cannot_be_used(copied: Copied, drill: Drill) -> None:
    """MEMIT under a setting that makes its system infinite; the other method, and the tables, are made all the same."""
    place = copied()
    place.change("studies/smoke.yaml", "  zsre: {source: world}\n", "")
    chosen = place.study / "smoke" / "tuning" / "memit.json"
    note = provenance.provenance(chosen)
    text = files.read_json(chosen)
    files.write_json({**text, "hyperparameters": {"second_moment_weight": 1e308}}, chosen)
    ancestors = {(chosen.parent / name).resolve(): sha for name, sha in note["ancestors"].items()}
    provenance.record(chosen, job=note["job"], settings=note["settings"], ancestors=ancestors)
    with drill("NaN or infinity in a solve", "a hyperparameter that makes MEMIT's system infinite") as attempt:
        run = place.snakemake("tables")
        assert run.status == 0, run.output[-4000:]
        for edits in (4, 8):
            assert pd.read_csv(segment(place, method="memit", edits=edits) / "editing.csv").empty
            assert len(pd.read_csv(segment(place, edits=edits) / "editing.csv")) == edits
        table = (place.study / "tables" / "table1.md").read_text(encoding="utf-8")
        assert "| MEMIT † |" in table
        assert "| SPHERE |" in table
        attempt.seen = line(table, "†: ").split(": batch")[0] + ": ..."


def descendants(process: subprocess.Popen[str], of: str) -> list[int]:
    """Processes of the workflow whose command line holds ``of``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            session = int(entry.joinpath("stat").read_text().rpartition(")")[2].split()[3])
            if session == process.pid and of in entry.joinpath("cmdline").read_text():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
    return found


def test_a_worker_that_dies(copied: Copied, drill: Drill) -> None:
    place = copied()
    folders = [segment(place, dataset) for dataset in ("counterfact", "zsre")]
    outputs = [folder / "energy.csv" for folder in folders]
    before = [digest(folder / "state.safetensors") for folder in folders]
    for folder in folders:
        shutil.rmtree(folder)
    with drill("a worker that dies", "SIGKILL to one of two jobs under way") as attempt:
        process = place.start(*target(place, *outputs))
        while len(workers := descendants(process, "/scripts/")) < 2:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        os.kill(min(workers), signal.SIGKILL)
        output, _ = process.communicate()
        assert process.returncode == 1
        assert [path.exists() for path in outputs].count(True) == 1, "the other job was finished"
        attempt.seen = line(output, "Error in rule")
        again = place.snakemake(*target(place, *outputs))
        assert again.status == 0, again.output[-3000:]
        assert again.jobs == {"edit": 1}
        assert [digest(folder / "state.safetensors") for folder in folders] == before


def test_two_workflows_on_one_results_folder(copied: Copied, drill: Drill, tmp_path: Path) -> None:
    place = copied()
    folder = segment(place)
    (other := tmp_path / "other").mkdir()
    shutil.copytree(place.folder / "config", other / "config")
    results = f"results={place.folder / 'results'}"
    (folder / "energy.csv").unlink()  # both have something to make
    first = place.start(*target(place, folder / "energy.csv"))
    while not descendants(first, "/scripts/"):
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGSTOP)
    with drill("two workflows in one folder", "a second one for the same files") as attempt:
        run = place.snakemake(*target(place, folder / "energy.csv"))
        assert run.status == 1
        attempt.seen = line(run.output, "Error: Directory cannot be locked.")
    with drill("two workflows on one results folder", "a second one, from another folder") as attempt:
        run = Workplace(other).snakemake(str(folder / "energy.csv"), config=["study=smoke", results])
        assert run.status == 1
        assert "Traceback" not in run.output
        attempt.seen = line(run.output, "error: ", folder=place.folder)
        assert "is being made by another workflow (process" in attempt.seen
    os.killpg(first.pid, signal.SIGCONT)
    output, _ = first.communicate()
    assert first.returncode == 0, output[-3000:]


def spoilt(place: Workplace) -> Iterator[Path]:
    """Every artefact of the study, each truncated or changed in one byte, one after the other."""
    for number, note in enumerate(sorted(place.study.rglob("provenance/*.json"))):
        artefact = note.parent.parent / note.stem
        file = artefact if artefact.is_file() else max(artefact.rglob("*"), key=lambda path: path.stat().st_size)
        content = file.read_bytes()
        if not content:
            continue
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        file.write_bytes(content[:middle] if number % 2 else changed)
        yield artefact
        file.write_bytes(content)


def test_files_that_are_truncated_or_edited(copied: Copied, drill: Drill) -> None:
    place = copied()
    count = 0
    for artefact in spoilt(place):
        with drill("a truncated or edited file", "half or one byte of every artefact of the smoke study") as attempt:
            with pytest.raises(StaleArtifact, match="it was changed after it was made") as caught:
                lineage([artefact])
            assert str(artefact) in str(caught.value)
            attempt.seen = (
                "refused: FILE is 60b725f10c9c but its provenance describes 2c26b46b68ff: "
                + str(caught.value).split(": ", 1)[1]
            )
            count += 1
    assert count > 60


def test_provenance_that_is_lost_or_broken(copied: Copied, drill: Drill) -> None:
    path = copied().study / "smoke" / "contexts.json"
    whole = sidecar(path).read_text()
    for text in (whole[: len(whole) // 2], "[]", "{}", '{"sha256": 1, "settings": {}, "ancestors": {}}', "\xff", ""):
        with drill("a broken provenance file", "truncated, empty, or other JSON") as attempt:
            sidecar(path).write_text(text, encoding="latin-1")
            with pytest.raises(StaleArtifact, match="has a broken provenance") as caught:
                lineage([path])
            attempt.seen = "refused: FILE has a broken provenance ...: " + str(caught.value).rpartition(": ")[2]
    sidecar(path).unlink()
    with pytest.raises(StaleArtifact, match="has no provenance"):
        lineage([path])


def test_a_refused_file_is_made_again_once_it_is_deleted(copied: Copied) -> None:
    place = copied()
    early, late = segment(place, edits=4), segment(place)
    state, goal = early / "state.safetensors", target(place, late / "editing.csv")
    before = digest(state), digest(late / "state.safetensors")
    state.write_bytes(state.read_bytes()[:-1])
    run = place.snakemake("--force", *goal)
    assert run.status == 1
    assert "it was changed after it was made; delete it and make it again" in " ".join(run.output.split())
    state.unlink()
    run = place.snakemake(*goal)
    assert run.status == 0, run.output[-3000:]
    assert run.jobs == {"edit": 1, "measure": 1}
    assert (digest(state), digest(late / "state.safetensors")) == before
