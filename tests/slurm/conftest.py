"""A SLURM for the session, and the shipped profile as a site would fill it in."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from workplace import ROOT, Run, Workplace

from .cluster import ACCOUNT, PARTITION, Cluster, Job, SlurmError


@dataclass(frozen=True)
class Site:
    """A folder in which the workflow runs on SLURM, through the shipped profile."""

    place: Workplace
    cluster: Cluster

    def start(self, *arguments: str, snakefile: Path = ROOT / "Snakefile") -> subprocess.Popen[bytes]:
        """Start snakemake. All that differs from the shipped profile is that the state of jobs is asked for sooner."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile)]
        command += ["--workflow-profile", "profile", "--slurm-init-seconds-before-status-checks", "1"]
        path = f"{Path(sys.executable).parent}{os.pathsep}{self.cluster.environment['PATH']}"
        with self._output.open("wb") as file:
            return subprocess.Popen(
                [*command, *arguments, "--config", "study=smoke"],
                cwd=self.place.folder,
                env={**self.cluster.environment, "PATH": path},
                stdout=file,
                stderr=file,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
            )

    def ended(self, process: subprocess.Popen[bytes]) -> Run:
        """What the call of snakemake that was started printed, and how it ended."""
        status = process.wait(timeout=800)
        return Run(status, self._output.read_text(encoding="utf-8"))

    def snakemake(self, *arguments: str, snakefile: Path = ROOT / "Snakefile") -> Run:
        return self.ended(self.start(*arguments, snakefile=snakefile))

    @property
    def jobs(self) -> list[Job]:
        """SLURM's record of what was submitted from here."""
        return self.cluster.jobs(self.place.folder)

    @property
    def _output(self) -> Path:
        return self.place.folder / "snakemake.log"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running SLURM. Where none can be started the tests fail: nothing else shows that the profile works."""
    slurm = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        slurm.start()
    except SlurmError as error:
        slurm.stop()
        pytest.fail(f"SLURM cannot be started: {error}", pytrace=False)
    yield slurm
    slurm.stop()


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Site:
    """A fresh folder with the configuration, and the profile with partition and account filled in."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    text = (ROOT / "profiles" / "slurm" / "profile.yaml").read_text(encoding="utf-8")
    for key, value in (("slurm_partition", PARTITION), ("slurm_account", ACCOUNT)):
        assert text.count(f'{key}: "CHANGE_ME"') == 1
        text = text.replace(f'{key}: "CHANGE_ME"', f"{key}: {value}")
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "profile.yaml").write_text(text, encoding="utf-8")
    return Site(Workplace(tmp_path), cluster)
