"""Table of the questions behind an edit: does what follows from it follow, and does what does not stay?"""

from __future__ import annotations

from dataclasses import replace
from math import nan

import pandas as pd

from sphere.report.tables.answers import found_cell
from sphere.report.tables.editing import interval_note, last_checkpoint
from sphere.report.tables.layout import (
    PORTABILITY,
    PORTABILITY_KINDS,
    dataset_label,
    is_anchor,
    method_label,
    ordered_methods,
)
from sphere.report.tables.render import Cell, Column, Row, Table

SCALE = 100.0
"""Percent: an interval that is wider on one side says that a handful of records bring the question, and no more."""


def portability_table(by_method: pd.DataFrame) -> Table:
    """Share of the questions answered, by kind, after the last checkpoint; one section a model and dataset.

    `by_method` is editing_by_method. A kind that no record brings has no column.
    """
    last = last_checkpoint(by_method)
    asked = last[last["metric_family"] == PORTABILITY]
    kinds = {kind: label for kind, label in PORTABILITY_KINDS.items() if kind in set(asked["metric"])}
    columns = [Column(kind, label, "", "higher") for kind, label in kinds.items()]
    rows = []
    for (model, dataset), place in asked.groupby(["model", "dataset"], sort=False):
        for method in ordered_methods(place["method"]):
            own = place[place["method"] == method]
            cells = {kind: _of_enough(found_cell(own, PORTABILITY, kind, SCALE)) for kind in kinds}
            section = f"{model}, {dataset_label(str(dataset))}"
            rows.append(Row(section, method_label(method), cells, ranked=not is_anchor(method)))
    notes = [
        "Percent of the questions to which every token of the answer, or of an alias of it, is the likeliest under "
        "teacher forcing; mean over the records that bring such questions, with no interval where it would be wider "
        "than the scale because few do.",
        interval_note(asked),
    ]
    title = "Questions behind the edits"
    return Table("portability", title, "Method", columns, rows, notes if rows else ["No record asks behind its edit."])


def _of_enough(cell: Cell) -> Cell:
    return replace(cell, half_width=nan) if cell.half_width > SCALE else cell
