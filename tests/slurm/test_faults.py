"""Jobs that die on SLURM: what it records, what a user sees, what is left behind, and what a rerun makes of it."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from pathlib import Path

from .conftest import Site

FAULTS = Path(__file__).parent / "faults.smk"


def running(site: Site, rule: str) -> list[str]:
    """The numbers of the jobs of a rule that SLURM is running."""
    printed = site.cluster.run("squeue", "--noheader", "--states=RUNNING", "--format=%i %k")
    return [number for number, comment in map(str.split, printed.splitlines()) if comment == f"rule_{rule}"]


def test_every_way_to_die_is_survived_or_reported_and_a_rerun_finishes(site: Site) -> None:
    folder = site.place.folder
    process = site.start(snakefile=FAULTS)
    while process.poll() is None:
        for number in running(site, "cancelled"):
            site.cluster.run("scancel", number)
        time.sleep(1)
    run = site.ended(process)

    # What SLURM recorded: every attempt asked for that much more.
    attempts = defaultdict(list)
    for job in site.jobs:
        attempts[job.rule].append((job.state.split()[0], job.mem_mb, job.runtime))
    assert attempts == {
        "fails": [("FAILED", 500, 5), ("FAILED", 1000, 10), ("FAILED", 1500, 15)],
        "cancelled": [("CANCELLED", 500, 5), ("CANCELLED", 1000, 10), ("CANCELLED", 1500, 15)],
        "killed_for_time": [("TIMEOUT", 500, 1), ("COMPLETED", 1000, 2)],
        "killed_for_memory": [("FAILED", 600, 5), ("COMPLETED", 1200, 10)],  # where cgroups rule: OUT_OF_MEMORY
    }

    # What a user sees.
    assert run.status == 1, run.output[-4000:]
    for state in ("FAILED", "CANCELLED", "TIMEOUT"):
        assert f"SLURM status is: '{state}" in run.output
    assert "the file mended is missing" in run.output, "the log of the job that failed"
    assert "exceeded memory limit" in run.output
    assert "Requested time limit is invalid" in run.output
    assert "Traceback" not in run.output

    # What is left: what was finished, and nothing half.
    assert {path.name for path in folder.glob("*.txt")} == {"killed_for_time.txt", "killed_for_memory.txt"}

    # With the causes removed, the same command finishes what is missing, and nothing else.
    (folder / "mended").touch()
    again = site.snakemake("--set-resources", "too_long:runtime=5 * attempt", snakefile=FAULTS)
    assert again.status == 0, again.output[-4000:]
    assert again.jobs == {"fails": 1, "cancelled": 1, "too_long": 1}


def test_ctrl_c_cancels_what_runs_and_the_same_command_goes_on(site: Site) -> None:
    process = site.start("cancelled.txt", snakefile=FAULTS)
    while not running(site, "cancelled"):
        assert process.poll() is None, site.ended(process).output[-4000:]
        time.sleep(1)
    time.sleep(5)
    process.send_signal(signal.SIGINT)
    run = site.ended(process)
    assert run.status == 1, run.output[-4000:]
    assert "Terminating processes on user request" in run.output
    assert "Traceback" not in run.output
    states = [job.state.split()[0] for job in site.jobs]
    assert states == ["CANCELLED"]

    (site.place.folder / "mended").touch()
    again = site.snakemake("cancelled.txt", snakefile=FAULTS)
    assert again.status == 0, again.output[-4000:]
    assert again.jobs == {"cancelled": 1}
    assert (site.place.folder / "cancelled.txt").read_text() == "half\n"
