"""What is known before anything runs: every study's jobs, every mistake in one line, the rules' own form."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import yaml

from sphere.study.configuration import load_study
from sphere.study.plan import RULES, plan

from .conftest import ROOT, Workplace

STUDIES = sorted(path.stem for path in (ROOT / "config" / "studies").glob("*.yaml"))


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_can_be_planned(workplace: Workplace, study: str) -> None:
    run = workplace.snakemake("--dry-run", config=[f"study={study}"])
    assert run.status == 0, run.output[-3000:]
    assert {"gather", "report"} <= run.jobs.keys()
    ways = {"edit", "measure"}, {"edit", "evaluate"}, {"edit_and_measure"}
    assert {"edit", "measure", "evaluate", "edit_and_measure"} & run.jobs.keys() in ways
    found = plan(load_study(study, root=ROOT / "config"))
    counted = found.table().groupby("rule")["jobs"].sum().to_dict()
    assert counted == {rule: count for rule, count in run.jobs.items() if rule in RULES}
    minor = {"world", "facts", "stream", "download", "fetch_dataset", "gather", "tables", "figures", "claims"}
    minor |= {"held_out", "provenance", "report", "explore"}
    assert run.jobs.keys() - counted.keys() <= minor, "a job that takes long is not in the plan"


def test_the_plan_is_a_target(workplace: Workplace) -> None:
    run = workplace.snakemake("plan", "--quiet", "all", config=["study=smoke", "machine={cpu_tflops: 0.5}"])
    assert run.status == 0, run.output[-2000:]
    assert "0.5 TFLOPS of the CPU" in run.output
    assert {"edit", "measure", "neurons"} <= set(pd.read_csv(workplace.study / "plan.csv")["rule"])
    run = workplace.snakemake("plan", "--quiet", "all", config=["study=paper", "machine={gpu_memory: 20}"])
    assert run.status == 1
    assert "the GPU has 20" in run.output


def test_results_can_go_elsewhere(workplace: Workplace, tmp_path: Path) -> None:
    run = workplace.snakemake("--dry-run", "--summary", config=["study=smoke", f"results={tmp_path / 'else'}"])
    assert run.status == 0
    files = re.findall(r"^(\S+)\t", run.output, flags=re.MULTILINE)[1:]
    assert files
    assert all(file.startswith(str(tmp_path / "else" / "smoke")) for file in files)


def test_a_study_file_of_ones_own_is_taken(workplace: Workplace) -> None:
    workplace.folder.joinpath("config").rename(workplace.folder / "mine")
    (workplace.folder / "config").mkdir()
    (workplace.folder / "mine" / "config.yaml").rename(workplace.folder / "config" / "config.yaml")
    (workplace.folder / "mine" / "published").rename(workplace.folder / "config" / "published")
    run = workplace.snakemake("--dry-run", config=["study=mine/studies/smoke.yaml"])
    assert run.status == 0, run.output[-2000:]


def test_a_run_needs_no_more_than_its_study(workplace: Workplace) -> None:
    (workplace.folder / "config" / "config.yaml").write_text("study: smoke\n", encoding="utf-8")
    run = workplace.snakemake("--dry-run", "--printshellcmds", config=())
    assert run.status == 0, run.output[-2000:]
    assert "study=smoke results=results 'sources={}'" in run.output


MISTAKES = [
    ("studies/smoke.yaml", "batch_size: 4", "batchsize: 4", "unknown key 'batchsize': did you mean 'batch_size'?"),
    ("studies/smoke.yaml", "[memit, sphere]", "[memit, spehre]", "unknown method 'spehre': did you mean 'sphere'?"),
    ("studies/smoke.yaml", "models: [smoke]", "models: [smock]", "not in config/models: did you mean 'smoke'?"),
    ("models/smoke.yaml", "alpha: 0.5}", "alhpa: 0.5}", "has no hyperparameter 'alhpa': did you mean 'alpha'?"),
    ("studies/smoke.yaml", "zsre: {source: world}", "zsre: {source: path, path: z.json}", "z.json is not there"),
    ("config.yaml", "study: smollm2", "stduy: smollm2", "unknown key 'stduy': did you mean 'study'?"),
    ("config.yaml", "sources: {}", "sources: {rte: null}", "sources.rte: input should be a valid string (got None)"),
    ("config.yaml", "results: results ", "study: smoke ", "the key 'study' stands twice"),
    ("config.yaml", "gpu_memory: 80", "gpu_memroy: 80", "unknown key 'gpu_memroy': did you mean 'gpu_memory'?"),
]


@pytest.mark.parametrize(("file", "old", "new", "line"), MISTAKES, ids=[new for _, _, new, _ in MISTAKES])
def test_a_mistake_stops_parsing_with_one_line(workplace: Workplace, file: str, old: str, new: str, line: str) -> None:
    workplace.change(file, old, new)
    run = workplace.snakemake("--dry-run")
    assert run.status == 1
    errors = [each for each in run.output.splitlines() if each.startswith("error: ")]
    assert len(errors) == 1
    assert line in errors[0]
    assert "Traceback" not in run.output


def test_the_chain_of_segments_starts_at_the_model_and_skips_no_checkpoint(workplace: Workplace) -> None:
    workplace.change("studies/embedded.yaml", "jobs: stream", "jobs: checkpoint")
    run = workplace.snakemake("--dry-run", "--dag", config=["study=embedded"])
    assert run.status == 0
    ids = {job: label for job, label in re.findall(r"(\d+)\[label = \"(edit\b[^\"]*)", run.output)}
    edges = [(ids[a], ids[b]) for a, b in re.findall(r"(\d+) -> (\d+)", run.output) if a in ids and b in ids]
    assert edges
    steps = {tuple(int(re.search(r"edits: (\d+)", label)[1]) for label in edge) for edge in edges}  # type: ignore[index]
    checkpoints = yaml.safe_load((ROOT / "config" / "studies" / "embedded.yaml").read_text())["checkpoints"]
    assert steps == set(pairwise(checkpoints))


def test_the_linter_finds_nothing(workplace: Workplace) -> None:
    run = workplace.snakemake("--lint")
    assert run.status == 0, run.output


def test_a_retry_on_a_cluster_asks_for_more(workplace: Workplace) -> None:
    profile = yaml.safe_load((ROOT / "profiles" / "slurm" / "profile.yaml").read_text())
    assert profile["executor"] == "slurm"
    assert profile["retries"] >= 1
    assert profile["default-resources"].keys() == {"slurm_partition", "slurm_account"}
    default = yaml.safe_load((ROOT / "profiles" / "default" / "profile.yaml").read_text())
    assert not default.keys() & {"cores", "resources", "set-resources", "default-resources", "jobs"}


def test_scripts_stay_thin() -> None:
    for path in (ROOT / "workflow" / "scripts").glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 50, path.name
