"""Gather a study's per-stream CSVs into the tidy tables that every table, figure and claim starts from.

    editing_summary.csv            one row a model, dataset, method, seed, checkpoint and metric; interval over records
    editing_records.csv            a study of one order: the metrics of every record, of its dataset's headline family
    editing_by_method.csv          the same over seeds: Student's t where two seeds or more ran, else over records
    energy_summary.csv             energy.csv of every segment, in stream order
    general_ability_summary.csv    one row a model, dataset, method, seed, checkpoint, task and metric
    general_ability_by_method.csv  one score a task family, over seeds
    neutral_summary.csv            one row a model, dataset, method, seed, checkpoint and metric of neutral text
    neutral_by_method.csv          the same over seeds
    layer_effects.csv              what causal tracing restores at every layer
    layer_sets.csv                 what a first batch reaches in sets of layers
    sensitivity_summary.csv        efficacy for every pair of eta and alpha: on held-out edits, or of NAME@eta=@alpha=
    timing_summary.csv             wall seconds a batch and phase
    cost_summary.csv               operations and peak memory of every segment, and the size of what it keeps
    training.csv                   training curves of the models a study trains itself
    tuning_summary.csv             every setting that tuning tried, with its score
    retention_summary.csv          what edits of an age held at their first checkpoint, and hold at the last
    incidents.csv                  batches that were retried in higher precision, and where streams stopped early
    skipped_summary.csv            records that no stream edits, counted by reason
    missing.csv                    files the study names that were not there: nothing is filled in for them

Editing means are as measured: shares in [0, 1], fluency in bits x 100. The pre-edited model has `edits` 0 and no seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import pandas as pd

from sphere.config.names import PRE_EDITED, STREAM, UNFINISHED, split_name
from sphere.errors import InputError
from sphere.files import write_csv
from sphere.report.tables.intervals import NO_INTERVAL, Interval, from_stderr, over_records, over_seeds
from sphere.report.tables.layout import (
    BELIEF,
    BITS,
    FAMILIES,
    METRICS,
    PORTABILITY,
    PORTABILITY_KINDS,
    SHARE,
    STRICT_FAMILIES,
    TEXT_FAMILY,
    TEXT_METRICS,
    base_of,
    family_of,
    gap_of,
)
from sphere.report.tables.retention import COLUMNS as RETENTION
from sphere.report.tables.retention import retention_rows

CELL = ("model", "dataset", "method", "edits")
INTERVAL = ("mean", "ci_low", "ci_high", "ci_kind")

COLUMNS: dict[str, tuple[str, ...]] = {
    "editing_summary": (*STREAM, "metric_family", "metric", *INTERVAL, "n"),
    "editing_records": (*STREAM, "case_id", *METRICS),
    "editing_by_method": (*CELL, "metric_family", "metric", *INTERVAL, "n_seeds", "n"),
    "energy_summary": (
        *STREAM, "batch", "layer", "he_sum", "he_mean", "delta_he", "theorem_k", "perturbation", "unit_perturbation",
        "bound", "update_norm", "weight_norm", "editable_share",
    ),
    "general_ability_summary": (*STREAM, "task", "family", "metric", "value", "stderr", "n"),
    "general_ability_by_method": (*CELL, "family", "unit", *INTERVAL, "n_seeds"),
    "neutral_summary": (*STREAM, "metric", "value", "stderr", "n"),
    "neutral_by_method": (*CELL, "metric", *INTERVAL, "n_seeds"),
    "layer_effects": ("model", "layer", "effect", "stderr", "n", "window"),
    "layer_sets": ("model", "layers", *METRICS, "score", "method", "n", "edited"),
    "sensitivity_summary": ("model", "method", "eta", "alpha", *METRICS),
    "timing_summary": (*STREAM, "batch", "phase", "seconds"),
    "cost_summary": (*STREAM, "operations", "peak_memory", "peak_device_memory", "weights", "kept"),
    "training": ("model", "step", "loss", "lr", "fact_accuracy"),
    "tuning_summary": ("model", "method", "trial", "score"),
    "retention_summary": RETENTION,
    "incidents": (*STREAM, "batch", "event", "reason"),
    "skipped_summary": ("dataset", "seed", "reason", "records"),
    "missing": ("path",),
}  # fmt: skip
SUMMARIES = tuple(COLUMNS)
# columns of text
WORDS = (
    *STREAM[:3],
    "metric_family",
    "metric",
    "ci_kind",
    "task",
    "family",
    "unit",
    "phase",
    "path",
    "event",
    "reason",
    "layers",
)
ENERGY_NEEDS = ("edits", "batch", "layer", "he_sum", "he_mean")

# lm-evaluation-harness reports several metrics a task: the first of these that a task has is its score.
ABILITY_METRICS = ("exact_match", "acc", "f1", BITS)


@dataclass(frozen=True)
class Stream:
    """Where one stream's CSVs of one checkpoint lie, and the columns that name it."""

    folder: Path
    names: dict[str, Any]


def gather(results: Path, study: Mapping[str, Sequence[Any]], tables: Path) -> list[Path]:
    """Write the summaries of the study under `results` (that is `results/{study}`) into `tables`.

    `study` lists `models`, `datasets`, `methods`, `seeds` and `checkpoints` (edits made; 0 is not one of them), and
    `tasks` and `neutral` where general ability was tested and drift measured (empty: it was not, and no file of it is
    looked for), and `in_context` the names of further models that no method edited: `StudyConfig.scope` makes it. What
    a job that was cut off had finished is taken where it left it.
    Returns the files that were not there, also written to missing.csv; InputError where none at all was.
    """
    absent = [key for key in ("models", "datasets", "methods", "seeds", "checkpoints") if key not in study]
    if absent:
        raise InputError(f"gather needs the study's {', '.join(absent)}: list them")
    missing: list[Path] = []
    read = partial(_read, missing=missing)
    streams = list(_streams(results, study))
    before = [anchor for name in (PRE_EDITED, *study.get("in_context", ())) for anchor in _anchor(name, results, study)]

    of_records = _of_records(before, streams, partial(read, needed=("case_id",)), alone=len(study["seeds"]) == 1)
    editing = of_records["editing_summary"]
    ability = _concat([_stamp(read(path, COLUMNS["general_ability_summary"][5:]), names)
                       for path, names in _of_model_or_stream("general_ability", results, study, streams)])  # fmt: skip
    neutral = _concat([_stamp(read(path, COLUMNS["neutral_summary"][5:]), names)
                       for path, names in _of_model_or_stream("neutral", results, study, streams)])  # fmt: skip
    energy = _concat([_stamp(read(s.folder / "energy.csv", ENERGY_NEEDS), s.names) for s in streams])
    timing = _concat([_stamp(read(s.folder / "timing.csv", COLUMNS["timing_summary"][4:]), s.names) for s in streams])
    if editing.empty and ability.empty and energy.empty:
        raise InputError(f"no result of this study under {results}: run its edits first (looked for {missing[0]})")
    frames = {
        **of_records,
        "editing_by_method": _by_method(editing, "editing_by_method"),
        "energy_summary": energy,
        "general_ability_summary": ability,
        "general_ability_by_method": _by_method(headline_ability(ability), "general_ability_by_method"),
        "neutral_summary": neutral,
        "neutral_by_method": _by_method(_with_intervals(neutral), "neutral_by_method"),
        "layer_effects": _concat(
            [_optional(results / m / "locate" / "effects.csv", {"model": m}) for m in study["models"]]
        ),
        "layer_sets": _concat([_optional(results / m / "locate" / "sets.csv", {"model": m}) for m in study["models"]]),
        "sensitivity_summary": _concat([*_of_methods(results, study, "sensitivity"), _pairs(editing, study)]),
        "timing_summary": timing,
        "cost_summary": _concat(
            [_stamp(read(s.folder / "cost.csv", COLUMNS["cost_summary"][4:]), s.names) for s in streams]
        ),
        "training": _concat([_optional(results / m / "training.csv", {"model": m}) for m in study["models"]]),
        "tuning_summary": _concat(list(_of_methods(results, study, "tuning"))),
        "incidents": _concat([_optional(s.folder / "incidents.csv", s.names) for s in streams]),
        "skipped_summary": _concat(_skipped(results, study)),
        "missing": pd.DataFrame({"path": [str(path.relative_to(results)) for path in missing]}),
    }
    tables.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        write(frame, tables / f"{name}.csv", COLUMNS[name])
    return missing


def write(frame: pd.DataFrame, path: Path, columns: Sequence[str]) -> None:
    """Write a CSV with these columns first (empty where the frame lacks one), any others after them."""
    others = [column for column in frame.columns if column not in columns]
    whole = frame.reindex(columns=[*columns, *others])
    for column in ("seed", "edits", "batch", "layer", "cohort", "size", "n", "n_seeds"):
        if column in whole:
            whole[column] = whole[column].astype("Int64")
    write_csv(whole, path)


def load(tables: Path, name: str) -> pd.DataFrame:
    """One of the gathered tables, `name` without `.csv`."""
    path = tables / f"{name}.csv"
    if not path.exists():
        raise InputError(f"{path} is not there: gather the study's tables first")
    frame = pd.read_csv(path)
    # a table without rows does not tell its columns' types
    return frame.astype({column: float for column in frame.columns if column not in WORDS}) if frame.empty else frame


def _streams(results: Path, study: Mapping[str, Sequence[Any]]) -> Iterator[Stream]:
    for model in study["models"]:
        for dataset in study["datasets"]:
            for method in study["methods"]:
                for seed in study["seeds"]:
                    for edits in sorted(k for k in study["checkpoints"] if k > 0):
                        folder = results / model / dataset / method / f"seed{seed}" / f"edits{edits}"
                        yield Stream(folder, dict(zip(STREAM, (model, dataset, method, seed, edits), strict=True)))


def _anchor(name: str, results: Path, study: Mapping[str, Sequence[Any]]) -> Iterator[Stream]:
    """A model that no method edited, of each model and dataset."""
    for model in study["models"]:
        for dataset in study["datasets"]:
            names = dict(zip(STREAM, (model, dataset, name, None, 0), strict=True))
            yield Stream(results / model / dataset / name, names)


def _of_records(
    before: Iterable[Stream], streams: Iterable[Stream], read: Callable[[Path], pd.DataFrame], *, alone: bool
) -> dict[str, pd.DataFrame]:
    """The tables that records make. A stream's records are read once, and let go before the next one's.

    ``alone`` says that one seed was run: editing_records then holds them.
    """
    editing = [_editing_rows(read(s.folder / "editing.csv"), s.names) for s in before]
    retention, kept = [], []
    for _, own in groupby(streams, key=lambda stream: stream.folder.parent):
        found = {stream.names["edits"]: (read(stream.folder / "editing.csv"), stream.names) for stream in own}
        editing += [_editing_rows(records, names) for records, names in found.values()]
        kept += [_headline_records(records, names) for records, names in found.values() if alone]
        last = found[max(found)][1]
        retention.append(retention_rows({edits: records for edits, (records, _) in found.items()}, last))
    frames = {"editing_summary": editing, "editing_records": kept, "retention_summary": retention}
    return {name: _concat(rows) for name, rows in frames.items()}


MEASURED_IF = {"general_ability": "tasks", "neutral": "neutral"}
"""File beside a model and a state -> the key of ``study`` that says whether it is measured."""


def _of_model_or_stream(
    name: str, results: Path, study: Mapping[str, Sequence[Any]], streams: list[Stream]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The pre-edited scores belong to a model: they are repeated under each dataset, where the curves start."""
    if not study.get(MEASURED_IF[name], True):
        return
    for stream in _anchor(PRE_EDITED, results, study):
        yield results / stream.names["model"] / PRE_EDITED / f"{name}.csv", stream.names
    for stream in streams:
        yield stream.folder / f"{name}.csv", stream.names


def _read(path: Path, needed: Iterable[str], *, missing: list[Path]) -> pd.DataFrame:
    found = _found(path)
    if found is None:
        if path not in missing:
            missing.append(path)
        return pd.DataFrame()
    frame = pd.read_csv(found)
    lacking = [column for column in needed if column not in frame]
    if lacking:
        raise InputError(f"{path} has no column {', '.join(lacking)}: delete the file and run its rule again")
    return frame


def _found(path: Path) -> Path | None:
    """The file, where its job has ended; else where a job that was cut off left it, if one did."""
    here = path.parent
    cut_off = chain(
        here.parent.glob(f"{UNFINISHED}/*/{here.name}/{path.name}"), here.glob(f"{UNFINISHED}/*/{path.name}")
    )
    return path if path.exists() else next(cut_off, None)


def _optional(path: Path, names: Mapping[str, Any]) -> pd.DataFrame:
    found = _found(path)
    return pd.DataFrame() if found is None else _stamp(pd.read_csv(found), names)


def _of_methods(results: Path, study: Mapping[str, Sequence[Any]], folder: str) -> Iterator[pd.DataFrame]:
    """{folder}/{method}.csv beside each model, of the methods that have one."""
    for model in study["models"]:
        for method in study["methods"]:
            yield _optional(results / model / folder / f"{method}.csv", {"model": model, "method": method})


def _skipped(results: Path, study: Mapping[str, Sequence[Any]]) -> Iterator[pd.DataFrame]:
    """streams/{dataset}/seed{seed}_skipped.csv, counted by reason."""
    for dataset in study["datasets"]:
        for seed in study["seeds"]:
            path = results / "streams" / dataset / f"seed{seed}_skipped.csv"
            if path.exists():
                counts = pd.read_csv(path).groupby("reason", sort=False).size().reset_index(name="records")
                yield _stamp(counts, {"dataset": dataset, "seed": seed})


def _pairs(editing: pd.DataFrame, study: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """One row for every method NAME@eta=..@alpha=.., after the last checkpoint of the study's first dataset.

    At eta = 0 or alpha = 0 nothing is projected: that edge of the map is the method without the projection, if it ran.
    """
    chosen = {name: split_name(name) for name in study["methods"]}
    chosen = {name: found for name, found in chosen.items() if {"eta", "alpha"} <= found[1].keys()}
    if editing.empty or not chosen:
        return pd.DataFrame()
    dataset, last = study["datasets"][0], max(study["checkpoints"])
    kept = editing[(editing["dataset"] == dataset) & (editing["edits"] == last)]
    kept = kept[kept["metric_family"] == family_of(dataset)]
    means = kept.pivot_table(index=["model", "method"], columns="metric", values="mean").reindex(columns=list(METRICS))
    places = [(base, settings["eta"], settings["alpha"], name) for name, (base, settings) in chosen.items()]
    for base in dict.fromkeys(base for base, *_ in places):
        etas, alphas = ({0.0, *(each[i] for each in places if each[0] == base)} for i in (1, 2))
        edge = [(eta, alpha) for eta in sorted(etas) for alpha in sorted(alphas) if eta == 0 or alpha == 0]
        places += [(base, eta, alpha, base_of(base) or "") for eta, alpha in edge]
    rows = [
        {"model": model, "method": base, "eta": eta, "alpha": alpha, **means.loc[(model, name)].to_dict()}
        for model in study["models"]
        for base, eta, alpha, name in places
        if (model, name) in means.index
    ]
    return pd.DataFrame(rows)


def _stamp(frame: pd.DataFrame, names: Mapping[str, Any]) -> pd.DataFrame:
    """The frame with the stream's names in front; a column the file has itself (`edits` of energy.csv) is kept."""
    if frame.empty:
        return pd.DataFrame()
    own = {name: value for name, value in names.items() if name not in frame}
    stamped = frame.assign(**own)
    return stamped[[*own, *frame.columns]]


def _concat(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    full = [frame for frame in frames if not frame.empty]
    return pd.concat(full, ignore_index=True) if full else pd.DataFrame()


def _editing_rows(records: pd.DataFrame, names: Mapping[str, Any]) -> pd.DataFrame:
    """One row a metric; a metric that no record has (no paraphrases, no generations) gives no row."""
    rows = []
    records = _with_gaps(records)
    for column in records.columns:
        named = _metric_of(str(column))
        interval = over_records(records[column]) if named else None
        if named and interval and interval.n:
            rows.append({**names, "metric_family": named[0], "metric": named[1], **_fields(interval), "n": interval.n})
    return pd.DataFrame(rows)


def _headline_records(records: pd.DataFrame, names: Mapping[str, Any]) -> pd.DataFrame:
    """One row a record, with the metrics of its dataset's headline family."""
    named = {f"{family_of(names['dataset'])}_{metric}": metric for metric in METRICS}
    if records.empty or not named.keys() <= set(records):
        return pd.DataFrame()
    return _stamp(records[["case_id", *named]].rename(columns=named), names)


def _with_gaps(records: pd.DataFrame) -> pd.DataFrame:
    """``records`` and, for every strict score, how far the accuracy of the same record lies above it."""
    gaps = {
        f"{gap_of(family)}_{metric}": records[f"accuracy_{metric}"] - records[f"{family}_{metric}"]
        for family in STRICT_FAMILIES
        for metric in METRICS
        if {f"accuracy_{metric}", f"{family}_{metric}"} <= set(records)
    }
    return records.assign(**gaps)


def _metric_of(column: str) -> tuple[str, str] | None:
    if column in TEXT_METRICS:
        return TEXT_FAMILY, column
    families = (*FAMILIES, *STRICT_FAMILIES, *map(gap_of, STRICT_FAMILIES), BELIEF)
    match = re.fullmatch(f"({'|'.join(families)})_({'|'.join(METRICS)})", column)
    match = match or re.fullmatch(f"({PORTABILITY})_({'|'.join(PORTABILITY_KINDS)})", column)
    return (match[1], match[2]) if match else None


def headline_ability(ability: pd.DataFrame) -> pd.DataFrame:
    """One score a stream, checkpoint, family and unit: the mean over its tasks of each task's first known metric.

    Columns of STREAM, `family`, `unit`, `mean` and its interval over test items.
    """
    if ability.empty:
        return ability
    kept = ability.assign(rank=[_metric_rank(metric) for metric in ability["metric"]])
    by_task = [*STREAM, "family", "task"]
    kept = kept.sort_values("rank", kind="stable").drop_duplicates(by_task).sort_index()
    kept["unit"] = [BITS if _bare(metric) == BITS else SHARE for metric in kept["metric"]]
    rows = []
    for key, tasks in kept.groupby(names := [*STREAM, "family", "unit"], sort=False, dropna=False):
        error = float((tasks["stderr"] ** 2).sum(skipna=False) ** 0.5) / len(tasks)
        interval = from_stderr(float(tasks["value"].mean()), error, len(tasks))
        rows.append({**dict(zip(names, key, strict=True)), **_fields(interval)})
    return pd.DataFrame(rows)


def scores(ability: pd.DataFrame) -> pd.DataFrame:
    """`headline_ability()` without what is no share: a mean over bits and shares would say nothing."""
    return ability if ability.empty else ability[ability["unit"] == SHARE]


def _with_intervals(measured: pd.DataFrame) -> pd.DataFrame:
    """``measured`` with ``mean`` and the interval of its standard errors over items, for value and stderr."""
    intervals = [from_stderr(float(row["value"]), float(row["stderr"])) for row in measured.to_dict("records")]
    return measured.assign(**pd.DataFrame([_fields(each) for each in intervals], columns=list(INTERVAL)))


def _metric_rank(metric: str) -> int:
    bare = _bare(metric)
    return ABILITY_METRICS.index(bare) if bare in ABILITY_METRICS else len(ABILITY_METRICS)


def _bare(metric: str) -> str:
    """The metric's name without the harness's filter."""
    return str(metric).split(",")[0]


def _by_method(summary: pd.DataFrame, name: str) -> pd.DataFrame:
    """Over the seeds of every cell: Student's t with two seeds or more, else the one seed's own interval."""
    if summary.empty:
        return summary
    fixed = [column for column in COLUMNS[name] if column in summary and column not in (*INTERVAL, "n")]
    records: Callable[[pd.DataFrame], dict[str, Any]] = (
        (lambda cell: {"n": int(cell["n"].sum())}) if "n" in COLUMNS[name] else (lambda cell: {})
    )
    rows = []
    for key, cell in summary.groupby(fixed, sort=False, dropna=False):
        seeds = over_seeds(cell["mean"])
        own = cell.sort_values("mean", na_position="last").iloc[0]
        fields = _fields(seeds) if seeds.kind != NO_INTERVAL else {column: own[column] for column in INTERVAL}
        rows.append({**dict(zip(fixed, key, strict=True)), **fields, "n_seeds": seeds.n, **records(cell)})
    return pd.DataFrame(rows)


def _fields(interval: Interval) -> dict[str, Any]:
    return dict(zip(INTERVAL, (interval.mean, interval.low, interval.high, interval.kind), strict=True))
