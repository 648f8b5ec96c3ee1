"""Do two machines agree? python benchmarks/agreement.py RESULTS_A RESULTS_B

RESULTS_A and RESULTS_B are results of one study, results/STUDY, from two processors, or from one with and without its
wider instructions (ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 snakemake ...). A Markdown
table of every mean that both have, efficacy, generalization and specificity at each checkpoint, and whether it lies in
the other's 95 % interval. Exit code 1 if one lies in neither.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from sphere.report.tables.layout import METRICS, PRE_EDITED, family_of
from sphere.report.tables.summaries import load

KEYS = ["model", "dataset", "method", "edits", "metric"]


def compared(first: Path, second: Path) -> pd.DataFrame:
    """One row a mean of both studies: KEYS, ``a`` and ``b`` (percent), ``differ``; those of one study are left out."""
    tables = []
    for results in (first, second):
        table = load(results / "tables", "editing_by_method")
        family = [family_of(str(dataset)) for dataset in table["dataset"]]
        kept = table[(table["metric_family"] == family) & table["metric"].isin(METRICS)]
        tables.append(kept[kept["method"] != PRE_EDITED][[*KEYS, "mean", "ci_low", "ci_high"]])
    joined = tables[0].merge(tables[1], on=KEYS, suffixes=("_a", "_b"))
    inside = [
        (joined[f"ci_low_{own}"] <= joined[f"mean_{other}"]) & (joined[f"mean_{other}"] <= joined[f"ci_high_{own}"])
        for own, other in ("ab", "ba")
    ]
    same = joined["mean_a"] == joined["mean_b"]
    found = joined[KEYS].assign(a=100 * joined["mean_a"], b=100 * joined["mean_b"])
    return found.assign(differ=~(inside[0] | inside[1] | same))


def main(first: Path, second: Path) -> int:
    """Print the table and how many differ; the exit code."""
    found = compared(first, second)
    print("| method | edits | metric | A (%) | B (%) | |\n| --- | ---: | --- | ---: | ---: | --- |")
    for row in found.itertuples():
        said = "**outside both intervals**" if row.differ else ""
        print(f"| {row.method} | {row.edits} | {row.metric} | {row.a:.1f} | {row.b:.1f} | {said} |")
    gap = (found["a"] - found["b"]).abs().max()
    print(f"\n{int(found['differ'].sum())} of {len(found)} outside; the largest difference is {gap:.1f} points")
    return int(found["differ"].any() or found.empty)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
