"""The smoke study on SLURM, from nothing to its report, and the profile as it comes."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter, defaultdict

import pandas as pd
import yaml

from sphere.config.machine import load_machine
from sphere.study.configuration import load_study
from sphere.study.plan import plan

from .cluster import ACCOUNT, PARTITION
from .conftest import ROOT, Site

LOCAL = {"report"}  # runs where snakemake runs
LONG = bool(os.environ.get("SPHERE_DRILL"))  # the whole smoke study, instead of one dataset and method, untuned


def test_the_study_runs_through_the_profile_and_slurm_saw_what_was_asked(site: Site) -> None:
    place = site.place
    if not LONG:
        file = place.folder / "config" / "studies" / "smoke.yaml"
        study = yaml.safe_load(file.read_text(encoding="utf-8"))
        study |= {"datasets": {"counterfact": {"source": "world"}}, "methods": ["sphere"]}
        kept = {key: value for key, value in study.items() if key not in ("locate", "tuning", "sensitivity")}
        file.write_text(yaml.safe_dump(kept), encoding="utf-8")
    place.change("studies/smoke.yaml", "jobs: stream", "jobs: checkpoint")
    place.change("models/smoke.yaml", "device: cpu\n", "device: cpu\nresources: {gpu: 1}\n")
    place.change("config.yaml", "disk: 2000 ", "time_margin: 30\n  disk: 2000 ")  # minutes that differ

    run = site.snakemake()
    assert run.status == 0, run.output[-4000:]
    assert "claims.html" in (place.study / "report.html").read_text(encoding="utf-8")
    assert pd.read_csv(place.study / "tables" / "missing.csv").empty

    jobs = site.jobs
    assert Counter(job.rule for job in jobs) == {rule: n for rule, n in run.jobs.items() if rule not in LOCAL}
    assert {(job.state, job.partition, job.account) for job in jobs} == {("COMPLETED", PARTITION, ACCOUNT)}
    asked = defaultdict(set)
    for job in jobs:
        asked[job.rule].add((job.mem_mb, job.runtime, job.gpu))
    assert asked["world"] == {(1000, 10, 0)}
    assert asked["figures"] == {(2000, 30, 0)}

    # Those of the other rules are what the plan expects of each job.
    config = place.folder / "config"
    machine = load_machine(yaml.safe_load((config / "config.yaml").read_text(encoding="utf-8"))["machine"])
    planned = plan(load_study("smoke", root=config), machine)
    expected = defaultdict(set)
    for job in planned.jobs:
        names = {name: getattr(job, name) for name in ("model", "dataset", "method", "edits")}
        expected[job.rule].add(dataclasses.astuple(planned.asks(job.rule, **names)))
    assert {rule: asked[rule] for rule in expected} == expected
    assert len(set.union(*expected.values())) > 2


def test_a_profile_that_nobody_filled_in_submits_nothing(site: Site) -> None:
    shipped = (ROOT / "profiles" / "slurm" / "profile.yaml").read_text(encoding="utf-8")
    (site.place.folder / "profile" / "profile.yaml").write_text(shipped, encoding="utf-8")
    run = site.snakemake()
    assert run.status == 1
    errors = [line for line in run.output.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: profiles/slurm/profile.yaml: set slurm_partition and slurm_account to yours; see docs/slurm.md"
    ]
    assert "Traceback" not in run.output
    assert site.jobs == []
