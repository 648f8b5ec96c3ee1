"""The tests' own SLURM says in one line why it cannot be started."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import cluster
from .cluster import Cluster, SlurmError


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PROGRAMS", ("sh", "no-such-program"))
    with pytest.raises(SlurmError, match=r"^no-such-program not installed \(\.ci/packages does that\)$"):
        Cluster(tmp_path).start()


def test_a_daemon_that_ends_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(SlurmError, match=r"^sh did not start: the port is taken$"):
        Cluster(tmp_path)._daemon("sh", "-c", "echo first; echo the port is taken", ready=lambda: False)
