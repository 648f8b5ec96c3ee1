"""Streams that stopped early, in tables beside those that did not: a dagger on the row, a note on where and why."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from sphere.report.tables.layout import dataset_label, method_label
from sphere.report.tables.render import Row, Table

DAGGER = " †"


def mark_stops(table: Table, incidents: pd.DataFrame) -> Table:
    """``table`` with a dagger on each row of a method with a stream that stopped by ``incidents``, and a note each.

    In a table of methods, one without results gets an empty row.
    """
    rows, notes = list(table.rows), list(table.notes)
    for stop in incidents[incidents["event"] == "stopped"].to_dict("records"):
        model, dataset = str(stop["model"]), dataset_label(str(stop["dataset"]))
        method = method_label(str(stop["method"]))
        place = [i for i, row in enumerate(rows) if _holds(row.section, model, dataset)]
        own = [i for i in place if rows[i].label == method]
        if place and not own and table.stub == "Method":  # it stopped before its first checkpoint: an empty row
            own = [place[-1] + 1]
            rows.insert(own[0], Row(rows[place[-1]].section, method, {}))
        for i in own:
            rows[i] = replace(rows[i], mark=DAGGER)
        if own:
            where = f"{method} on {dataset}, seed {int(stop['seed'])}"
            notes.append(f"†: {where}, stopped after {int(stop['edits']):,} edits: {stop['reason']}.")
    return replace(table, rows=rows, notes=notes)


def _holds(section: str, model: str, dataset: str) -> bool:
    """Whether a section is of the model, and of the dataset or of all of them."""
    name, _, place = section.partition(", ")
    return name == model and (not place or dataset in place)
