"""Table of neutral text: bits a byte, and how far a model has moved from its unedited self."""

from __future__ import annotations

from math import nan

import pandas as pd

from sphere.config.names import PRE_EDITED
from sphere.report.tables.editing import interval_note
from sphere.report.tables.layout import dataset_label, is_anchor, method_label, ordered_methods
from sphere.report.tables.render import Cell, Column, Row, Table

LABELS = {"bits_per_byte": "Bits a byte", "kl": "KL (nats)", "top1": "Same next token"}


def neutral_table(by_method: pd.DataFrame) -> Table:
    """Neutral text after the last checkpoint; one section a model and dataset. `by_method` is neutral_by_method."""
    columns = [
        Column("bits_per_byte", "Bits a byte", "", "lower", 3),
        Column("change", "Change", "", None, 3),
        Column("kl", "KL (nats)", "", "lower", 3),
        Column("top1", "Same next token (%)", "", "higher", 1),
    ]
    rows = []
    for (model, dataset), place in by_method.groupby(["model", "dataset"], sort=False):
        last = int(place["edits"].max())
        before = place[place["method"] == PRE_EDITED].set_index("metric")["mean"]
        for method in ordered_methods(place["method"]):
            own = place[(place["method"] == method) & ((place["edits"] == last) | is_anchor(method))]
            cells = {}
            for line in own.to_dict("records"):
                scale = 100 if line["metric"] == "top1" else 1
                half = scale * (line["ci_high"] - line["ci_low"]) / 2
                cells[str(line["metric"])] = Cell(scale * line["mean"], half)
            if method != PRE_EDITED and "bits_per_byte" in cells:
                cells["change"] = Cell(cells["bits_per_byte"].value - before.get("bits_per_byte", nan))
            section = f"{model}, after {last:,} {dataset_label(str(dataset))} edits"
            rows.append(Row(section, method_label(method), cells, ranked=not is_anchor(method)))
    notes = [
        "On the same passages of text that no edit is about. KL: of the edited model's next token from the unedited "
        "model's, mean over positions. Same next token: where both put the same one first.",
        interval_note(by_method),
    ]
    title = "Neutral text after the edit stream"
    return Table("neutral", title, "Method", columns, rows, notes if rows else ["No neutral text was measured."])
