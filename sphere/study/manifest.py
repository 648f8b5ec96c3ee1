"""What a study's results rest on: configuration, versions, machines, wall time a rule, and the digest of every file.

All of it is read from the provenance beside the artefacts, so it tells what was, not what is. No torch import.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sphere.files import SHORT, read_json, write_atomically, write_csv
from sphere.study.provenance import lineage, sidecar

TIMES = ("seconds", "cpu_seconds", "start_up_cpu_seconds")
COLUMNS = ("path", "sha256", "rule", "wildcards", *TIMES, "code", "libraries", "machine", "settings_sha256")
UNKNOWN = "not recorded"


def write_manifest(
    results: Iterable[Path],
    study: Mapping[str, Any],
    methods: Iterable[Mapping[str, Any]] = (),
    *,
    artefacts: Path,
    page: Path,
) -> None:
    """Write every artefact that ``results`` were made from as CSV, and a page (Markdown) that sums it up.

    ``study`` is the validated configuration, as ``Study.plain`` gives it, and ``methods`` what its methods are made of,
    as ``Study.methods_used`` does.
    """
    found = gather_artefacts(results, root=page.parent)
    write_csv(found, artefacts)
    with write_atomically(page) as path:
        path.write_text(as_markdown(found, study, methods), encoding="utf-8")


def gather_artefacts(results: Iterable[Path], *, root: Path) -> pd.DataFrame:
    """One row an artefact, near and far: COLUMNS. Paths are relative to ``root``; a user's own file has no rule."""
    rows = []
    for path, sha in lineage(results).items():
        row: dict[str, Any] = {"path": os.path.relpath(path, root.resolve()), "sha256": sha}
        if sidecar(path).exists():
            note = read_json(sidecar(path))
            job = note["job"]
            wildcards = " ".join(f"{name}={value}" for name, value in sorted(job["wildcards"].items()))
            row |= {"rule": job["rule"], "wildcards": wildcards} | {name: job.get(name) for name in TIMES}
            row |= {"code": f"{note['code']['version']}, sources {note['code']['sources'][:SHORT]}"}
            row |= {"libraries": _said(note["libraries"]), "machine": _said(job.get("machine", {}))}
            row |= {"settings_sha256": note["settings_sha256"]}
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values("path", ignore_index=True)


def as_markdown(found: pd.DataFrame, study: Mapping[str, Any], methods: Iterable[Mapping[str, Any]] = ()) -> str:
    """The page: versions, machines, wall time a rule, digests of what streams start from, configuration."""
    made = found[found["rule"].notna()]
    jobs = made.drop_duplicates(["rule", "wildcards"])
    sections = [f"# What the study {study['study']['name']} rests on", str(study["study"]["description"])]
    sections += ["## Code and libraries", _counted(made, ["code", "libraries"], "artefacts")]
    sections += ["## Machines", _counted(jobs, ["machine"], "jobs")]
    sections += ["## Time", _times(jobs), _start_up(jobs)]
    shared = found[~found["path"].str.contains(r"/edits\d+/") & ~found["path"].str.match("tables|figures|claims")]
    shown = shared.assign(sha256=shared["sha256"].str[:SHORT], rule=shared["rule"].fillna("your own"))
    sections += [
        "## Files",
        f"The first {SHORT} digits of the sha256 of what every stream starts from; artefacts.csv has all "
        f"{len(found):,} files with whole digests, settings, versions and machines.",
        _table(shown[["path", "sha256", "rule"]]),
    ]
    if used := list(methods):
        made_of = pd.DataFrame(used)
        sections += ["## Methods", "Solver and post-processes, and every setting before tuning.", _table(made_of)]
    settings = yaml.safe_dump(json.loads(json.dumps(dict(study))), sort_keys=False, allow_unicode=True)
    sections += ["## Configuration", "Merged and validated, defaults included.", f"```yaml\n{settings}```"]
    return "\n\n".join(sections) + "\n"


def _times(jobs: pd.DataFrame) -> str:
    """Jobs, total and longest wall time, CPU time and that of start-up of every rule, the longest total first."""
    known = jobs.astype(dict.fromkeys(TIMES, float))
    rows = [
        (rule, len(own), own["seconds"].sum(min_count=1), own["seconds"].max(), *own[list(TIMES[1:])].sum(min_count=1))
        for rule, own in [*known.groupby("rule"), ("all", known)]
    ]
    rows.sort(key=lambda row: (row[0] == "all", -row[2] if row[2] == row[2] else 0))
    headers = ("total", "longest", "CPU", "of it start-up")
    shown = [
        {"rule": rule, "jobs": jobs} | dict(zip(headers, map(_clock, times), strict=True))
        for rule, jobs, *times in rows
    ]
    lacking = int(known["seconds"].isna().sum())
    note = f" Jobs without a time: {lacking}." if lacking else ""
    return _table(pd.DataFrame(shown)) + "\n\nTotals add up jobs that may have run side by side." + note


def _start_up(jobs: pd.DataFrame) -> str:
    """What share of the CPU time went before any job had what it works on."""
    known = jobs[list(TIMES[1:])].astype(float).dropna()
    total, spent = known.sum()
    if not total:
        return f"Start-up: {UNKNOWN}."
    share = f"{100 * spent / total:.0f} % of the CPU time of {len(known)} jobs"
    return f"Start-up (imports, checking inputs, loading the model) took {share}."


def _clock(seconds: float) -> str:
    if seconds != seconds:
        return UNKNOWN
    minutes, rest = divmod(float(seconds), 60)
    return f"{minutes:.0f} min {rest:02.0f} s" if minutes else f"{rest:.1f} s"


def _counted(frame: pd.DataFrame, columns: list[str], what: str) -> str:
    """Distinct values of the columns with how many rows have them, the most frequent first."""
    named = frame[columns].fillna(UNKNOWN).replace("", UNKNOWN)
    counts = named.value_counts().rename(what).reset_index()
    one = f"All {len(frame):,} {what} agree." if len(counts) == 1 else f"{len(counts)} kinds of {what}."
    return f"{one}\n\n{_table(counts)}"


def _said(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _table(frame: pd.DataFrame) -> str:
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)
