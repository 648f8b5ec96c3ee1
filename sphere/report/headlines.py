"""Three lines at the end of a run: where the results are, how the paper's method did, and what became of the claims."""

from __future__ import annotations

from math import isfinite
from pathlib import Path

import pandas as pd

from sphere.report.tables.layout import (
    ANCHORS,
    METRICS,
    dataset_label,
    family_label,
    family_of,
    is_baseline,
    is_headline,
    method_label,
)
from sphere.report.tables.render import NOTHING
from sphere.report.tables.summaries import load


def headlines(study: Path) -> list[str]:
    """The lines for the results folder of a study; what has not been made yet is left out."""
    report, summary, claims = study / "report.html", study / "tables" / "editing_by_method.csv", study / "claims"
    lines = [f"results: {report if report.exists() else study}"]
    if summary.exists():
        lines.append(_editing(load(summary.parent, summary.stem)))
    if (claims / "claims.csv").exists():
        verdicts = pd.read_csv(claims / "claims.csv")["verdict"].value_counts()
        lines.append(f"claims: {'; '.join(f'{count} {verdict}' for verdict, count in verdicts.items())}"
                     f" ({claims / 'claims.md'})")  # fmt: skip
    return lines


def _editing(by_method: pd.DataFrame) -> str:
    """SPHERE and the best baseline on each dataset, best first, by the mean of the metrics that it has."""
    said = []
    edited = by_method[~by_method["method"].isin(ANCHORS) & by_method["metric"].isin(METRICS)]
    for (model, dataset), place in edited.groupby(["model", "dataset"], sort=False):
        family = family_of(str(dataset))
        last = place[(place["edits"] == place["edits"].max()) & (place["metric_family"] == family)]
        scores = 100 * last.pivot_table(index="method", columns="metric", values="mean").reindex(columns=list(METRICS))
        ranked = scores.assign(mean=scores.mean(axis=1)).sort_values("mean", ascending=False)
        shown = [name for name in ranked.index if is_headline(name)]
        shown += [name for name in ranked.index if is_baseline(name)][:1]
        numbers = ", ".join(
            f"{method_label(name)} {' / '.join(_share(scores.loc[name, metric]) for metric in METRICS)}"
            for name in sorted(shown, key=lambda name: -ranked.loc[name, "mean"])
        )
        said.append(f"{model}, {int(place['edits'].max()):,} {dataset_label(str(dataset))} edits "
                    f"({family_label(family)}, %): {numbers}")  # fmt: skip
    return f"efficacy / generalization / specificity of SPHERE and the best baseline: {'; '.join(said)}"


def _share(percent: float) -> str:
    """A dataset may have no paraphrases or neighbourhood prompts."""
    return f"{percent:.1f}" if isfinite(percent) else NOTHING
