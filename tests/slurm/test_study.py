"""The smoke study on SLURM, from nothing to its report, and the profile as it comes."""

from __future__ import annotations

import os
from collections import Counter

import pandas as pd
import yaml

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
        kept = {key: value for key, value in study.items() if key not in ("tuning", "sensitivity")}
        file.write_text(yaml.safe_dump(kept), encoding="utf-8")
    place.change("models/smoke.yaml", "{mem_mb: 1500, runtime: 10}", "{gpu: 1, mem_mb: 1600, runtime: 11}")

    run = site.snakemake()
    assert run.status == 0, run.output[-4000:]
    assert "claims.html" in (place.study / "report.html").read_text(encoding="utf-8")
    assert pd.read_csv(place.study / "tables" / "missing.csv").empty

    jobs = site.jobs
    assert Counter(job.rule for job in jobs) == {rule: n for rule, n in run.jobs.items() if rule not in LOCAL}
    assert {(job.state, job.partition, job.account) for job in jobs} == {("COMPLETED", PARTITION, ACCOUNT)}
    asked = {job.rule: (job.mem_mb, job.runtime, job.gpu) for job in jobs}
    assert asked["world"] == (1000, 10, 0)
    assert asked["figures"] == (2000, 30, 0)
    with_model = ("train_model", "statistics", "null_space", "directions", "edit", "evaluate", "ability")
    assert {asked[rule] for rule in with_model} == {(1600, 11, 1)}


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
