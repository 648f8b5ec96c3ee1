"""Keep what documents show: copy the tables behind them into docs/results/, and renew the documents' own tables.

    python benchmarks/keep.py results/smollm2 results/smollm2-seeds

A document's table says above it what it is from: `<!-- results: smollm2/claims.csv smollm2/energy.csv -->`. Of each
study named, those files are copied from its tables/, claims/ or facts/; then the cells of all such tables are
written again, with the digits that they have. Rows and columns stay as they are, and a cell that no file has is
emptied.
"""

from __future__ import annotations

import re
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "results"
MARKED = re.compile(r"<!-- results: (.+) -->\n\n((?:^\|.*\|\n)+)", re.MULTILINE)
"""A table of a document and the files of docs/results/ that its numbers are from."""


@cache
def _read(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A kept CSV, and the columns of it that hold words."""
    table = pd.read_csv(path)
    return table, table.select_dtypes(exclude="number").fillna("").astype(str)


def kept(files: list[str], label: str, header: str) -> tuple[Any, Any]:
    """What docs/results/ has for a row's label and a column's header, and the ± beside it; the label `all` is the sum.

    A header is the name of a column, `HE change (%)` of he_change, and behind a comma words of the CSV's row. A label
    that no row has may have such words too: `MEMIT, 20 edits`. `verdict (smollm2)` is of that study's files alone.
    (None, None) where no file has both.
    """
    column, _, words = header.partition(", ")
    for study in {file.partition("/")[0] for file in files}:
        if column.endswith(f" ({study})"):
            column, files = column.removesuffix(f" ({study})"), [file for file in files if file.startswith(f"{study}/")]
    name = re.sub(r"\W+", "_", column.casefold()).strip("_")
    for file in files:
        table, text = _read(RESULTS / file)
        known = [each for each in table if each == name or each.endswith(f"_{name}")]
        whole = text.agg(" ".join, axis=1)
        first, _, more = label.partition(", ")
        own = table[text.eq(label).any(axis=1) & _has(whole, words)]
        if own.empty:
            own = table[text.eq(first).any(axis=1) & _has(whole, words) & _has(whole, more)]
        if known and label == "all":
            return table[known[0]].sum(), None
        if known and len(own):
            if len(own) > 1:
                raise ValueError(f"{file} has {len(own)} rows for {label}, {header}")
            return own[known[0]].item(), own.get(f"{known[0]}_pm", pd.Series([None])).item()
    return None, None


def _has(rows: pd.Series, words: str) -> pd.Series:
    """Which rows have these words; `500 edits` are not those of `1,500 edits`."""
    return rows.str.contains(rf"(?<![\w,]){re.escape(words)}")


def shown(value: Any, like: str) -> str:
    """A value of a CSV with the digits of ``like``, a cell that is written already."""
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return ""
    if isinstance(value, str):
        return value.replace("|", r"\|")
    return f"{value:,.{len(like.partition('.')[2])}f}".replace("-", "−")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def renewed(page: str) -> str:
    """A document with the cells of its marked tables as docs/results/ has them."""

    def table(found: re.Match[str]) -> str:
        files, (header, rule, *lines) = found[1].split(), found[2].splitlines()
        written = [header, rule]
        for line in lines:
            label, *own = cells(line)
            row = [label]
            for name, cell in zip(cells(header)[1:], own, strict=True):
                value, spread = kept(files, label, name)
                digits, _, half = cell.partition(" ± ")
                said = shown(value, digits)
                row.append(f"{said} ± {shown(spread, half)}" if half and said and not pd.isna(spread) else said)
            written.append(f"| {' | '.join(row)} |")
        return f"<!-- results: {found[1]} -->\n\n" + "\n".join(written) + "\n"

    return MARKED.sub(table, page)


def main() -> None:
    studies = {Path(given).name: Path(given) for given in sys.argv[1:]}
    pages = {page: page.read_text("utf-8") for page in sorted(DOCS.glob("*.md"))}
    files = {file for text in pages.values() for found in MARKED.finditer(text) for file in found[1].split()}
    for file in sorted(files):
        study, _, name = file.partition("/")
        if study in studies:
            sources = [studies[study] / folder / name for folder in ("tables", "claims", "facts")]
            source = next((path for path in sources if path.exists()), None)
            if source is None:
                sys.exit(f"error: {studies[study]} has no {name} in tables/, claims/ or facts/: make its tables")
            (RESULTS / study).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, RESULTS / file)
    for page, text in pages.items():
        page.write_text(renewed(text), encoding="utf-8")


if __name__ == "__main__":
    main()
