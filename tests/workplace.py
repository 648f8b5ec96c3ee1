"""The smoke study, run once for all tests of the workflow, in a folder of its own."""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Run:
    """What a call of snakemake printed and how it ended."""

    status: int
    output: str

    @property
    def jobs(self) -> dict[str, int]:
        """Rule -> number of jobs, by the table at the head of a run, `all` aside; empty if there was nothing to do."""
        table = re.search(r"Job stats:\n(.*?)\n\n", self.output, flags=re.DOTALL)
        rows = re.findall(r"^(\w+) +(\d+)$", table[1], flags=re.MULTILINE) if table else []
        return {rule: int(count) for rule, count in rows if rule not in ("all", "total")}


@dataclass(frozen=True)
class Workplace:
    """A folder with a copy of the configuration, in which the workflow runs."""

    folder: Path

    def start(
        self,
        *arguments: str,
        config: Sequence[str] = ("study=smoke",),
        cores: int = 2,
        environment: Mapping[str, str] | None = None,
        memory: int = resource.RLIM_INFINITY,
    ) -> subprocess.Popen[str]:
        """Start the repository's workflow here, in a process group of its own; each process gets ``memory`` bytes."""
        command = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--snakefile", str(ROOT / "Snakefile")]
        command += ["--workflow-profile", str(ROOT / "profiles" / "default"), *arguments]
        command += ["--config", *config] if config else []
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, "PATH": path, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (memory, memory)),
        )

    def snakemake(self, *arguments: str, **options: Any) -> Run:
        """Run the repository's workflow here to its end; options as of ``start``."""
        process = self.start(*arguments, **options)
        try:
            output, _ = process.communicate()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return Run(process.returncode, output)

    def change(self, file: str, old: str, new: str) -> None:
        """Replace one passage of a file under config/."""
        path = self.folder / "config" / file
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    @property
    def study(self) -> Path:
        return self.folder / "results" / "smoke"


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    """A fresh folder: nothing has run."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    return Workplace(tmp_path)


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, Run]:
    """The smoke study, run to its end, once for all of pytest's processes. Tests must leave it as it is."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all of them
    place, note = Workplace(base / "smoke"), base / "smoke.json"
    with (base / "smoke.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second waits for the one who came first
        if not note.exists():
            shutil.copytree(ROOT / "config", place.folder / "config")
            note.write_text(json.dumps(asdict(place.snakemake())), encoding="utf-8")
    return place, Run(**json.loads(note.read_text(encoding="utf-8")))


@pytest.fixture
def finished(whole_study: tuple[Workplace, Run]) -> Workplace:
    """The folder of the finished smoke study. Tests must leave it as it is."""
    place, run = whole_study
    assert run.status == 0, run.output[-4000:]
    return place


@pytest.fixture
def reconfigured(finished: Workplace, tmp_path: Path) -> Workplace:
    """The finished study's own files under a configuration to be changed: for dry runs."""
    shutil.copytree(finished.folder / "config", tmp_path / "config")
    (tmp_path / ".snakemake").mkdir()
    for name in ("results", ".snakemake/metadata"):
        (tmp_path / name).symlink_to(finished.folder / name)
    return Workplace(tmp_path)


@pytest.fixture
def copied(finished: Workplace, tmp_path: Path) -> Callable[[], Workplace]:
    """A copy of the finished study, to be changed."""

    def copy() -> Workplace:
        return Workplace(Path(shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)))

    return copy
