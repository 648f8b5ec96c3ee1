"""Table of layers: what causal tracing says of them, and what a first batch reaches in sets of them."""

from __future__ import annotations

import pandas as pd

from sphere.report.tables.layout import METRICS, method_label
from sphere.report.tables.render import Cell, Column, Row, Table


def layers_of(text: object) -> list[int]:
    """The layers of a cell of the column ``layers``."""
    return [int(layer) for layer in str(text).split(",")]


def layers_table(effects: pd.DataFrame, sets: pd.DataFrame) -> Table:
    """One row a set of layers that a first batch was made in. The tables are layer_effects and layer_sets."""
    columns = [
        Column("effect", "Indirect effect", "", "higher", 3),
        *(Column(metric, metric.capitalize(), "First batch (%)", "higher", 1) for metric in METRICS),
        Column("score", "Score", "First batch (%)", "higher", 1),
    ]
    rows, notes = [], []
    for model, tried in sets.groupby("model", sort=False):
        traced = effects[effects["model"] == model].set_index("layer")
        for line in tried.to_dict("records"):
            layers = layers_of(line["layers"])
            cells = {key: Cell(100 * line[key]) for key in (*METRICS, "score")}
            label = ", ".join(map(str, layers)) + (", edited in this study" if line["edited"] else "")
            rows.append(Row(str(model), label, {"effect": Cell(traced.loc[layers, "effect"].mean()), **cells}))
        method, facts, window = tried["method"].iloc[0], tried["n"].iloc[0], traced["window"].iloc[0]
        said = f"{facts:g} held-out facts, traced (layers in a window: {window:g}) and edited by {method_label(method)}"
        notes.append(f"{model}: {said}.")
    notes.append(
        "Indirect effect: the probability of the model's own answer that returns when the MLP outputs of a window of "
        "layers at the subject's last token are put back (ROME, arXiv 2202.05262, section 2), mean over the set's "
        "layers. Score: the harmonic mean of the three metrics (accuracy family)."
    )
    title = "Which layers to edit"
    return Table("layers", title, "Layers", columns, rows, notes if rows else ["No layers were located."])
