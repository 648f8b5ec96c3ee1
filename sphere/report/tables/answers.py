"""Tables of what a model says and believes: whole answers beside teacher forcing, and log-odds beside `success`."""

from __future__ import annotations

from math import nan
from typing import Literal

import pandas as pd

from sphere.config.names import PRE_EDITED
from sphere.report.tables.editing import interval_note, last_checkpoint
from sphere.report.tables.layout import (
    BELIEF,
    METRICS,
    STRICT_FAMILIES,
    dataset_label,
    gap_of,
    is_anchor,
    method_label,
    ordered_methods,
)
from sphere.report.tables.render import Cell, Column, Row, Table

STRICT_COLUMNS: tuple[tuple[str, str, Literal["higher"] | None], ...] = (
    ("forced", "forced", None),
    ("strict", "strict", "higher"),
    ("gap", "gap", None),
)


def strict_table(by_method: pd.DataFrame) -> Table:
    """Accuracy under teacher forcing, of whole free answers on the same records, and the gap, at the last checkpoint.

    One section a model, dataset and form in which the prompt is put. `by_method` is editing_by_method.
    """
    columns = [
        Column(f"{metric}_{key}", header, metric.capitalize(), better)
        for metric in METRICS
        for key, header, better in STRICT_COLUMNS
    ]
    last = last_checkpoint(by_method)
    rows = []
    for (model, dataset), place in last.groupby(["model", "dataset"], sort=False):
        for family, form in STRICT_FAMILIES.items():
            asked = place[place["metric_family"] == family]
            for method in ordered_methods(asked["method"]):
                own = place[place["method"] == method]
                cells: dict[str, Cell] = {}
                for metric in METRICS:
                    strict, gap = (found_cell(own, each, metric, 100) for each in (family, gap_of(family)))
                    cells |= {f"{metric}_forced": Cell(strict.value + gap.value)}
                    cells |= {f"{metric}_strict": strict, f"{metric}_gap": gap}
                section = f"{model}, {dataset_label(str(dataset))}, {form}"
                rows.append(Row(section, method_label(method), cells, ranked=not is_anchor(method)))
    notes = [
        "Percent, after the last checkpoint. Forced: every token of the wanted object is the likeliest under teacher "
        "forcing (accuracy). Strict: the whole free answer is the object or an alias of it. Gap: forced minus strict, "
        "record by record. All three on the records that were asked for whole answers.",
        interval_note(last[last["metric_family"].isin(STRICT_FAMILIES)]),
    ]
    title = "Whole answers beside teacher forcing"
    return Table("strict", title, "Method", columns, rows, notes if rows else ["No whole answers were asked for."])


def belief_table(by_method: pd.DataFrame) -> Table:
    """Log-odds of the wanted object against the other, their change from the unedited model, and what `success` counts.

    One section a model and dataset, at the last checkpoint. `by_method` is editing_by_method.
    """
    columns = [
        Column(f"{metric}_{key}", header, metric.capitalize(), None, decimals)
        for metric in METRICS
        for key, header, decimals in (("odds", "log-odds", 2), ("change", "change", 2), ("success", "success (%)", 1))
    ]
    last = last_checkpoint(by_method)
    rows = []
    for (model, dataset), place in last.groupby(["model", "dataset"], sort=False):
        before = place[place["method"] == PRE_EDITED]
        for method in ordered_methods(place.loc[place["metric_family"] == BELIEF, "method"]):
            own = place[place["method"] == method]
            cells: dict[str, Cell] = {}
            for metric in METRICS:
                odds = found_cell(own, BELIEF, metric)
                cells |= {f"{metric}_odds": odds, f"{metric}_success": found_cell(own, "success", metric, 100)}
                if method != PRE_EDITED:
                    change = odds.value - found_cell(before, BELIEF, metric).value
                    cells[f"{metric}_change"] = Cell(change, odds.half_width)
            section = f"{model}, {dataset_label(str(dataset))}"
            rows.append(Row(section, method_label(method), cells, ranked=not is_anchor(method)))
    notes = [
        "Log-odds in nats, after the last checkpoint: log P(new) minus log P(true), for specificity the reverse; "
        "positive where the model is on the wanted side. Change: from the unedited model on the first seed's stream. "
        "Success compares means a token, log-odds whole objects.",
        interval_note(last[last["metric_family"] == BELIEF]),
    ]
    title = "Belief: log-odds of the wanted object against the other"
    return Table("belief", title, "Method", columns, rows, notes if rows else ["No log-odds were measured."])


def found_cell(own: pd.DataFrame, family: str, metric: str, scale: float = 1.0) -> Cell:
    """The mean of one metric, times ``scale``, and its half-width; empty where it was not measured."""
    found = own[(own["metric_family"] == family) & (own["metric"] == metric)]
    if found.empty:
        return Cell(nan)
    mean, low, high = (scale * float(found[column].iloc[0]) for column in ("mean", "ci_low", "ci_high"))
    return Cell(mean, (high - low) / 2)
