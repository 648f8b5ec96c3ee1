"""A table as data, and the same table as CSV, Markdown and booktabs LaTeX: best bold, second best underlined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import isfinite, nan
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from sphere.files import write_atomically, write_csv

NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """One column of numbers."""

    key: str
    header: str
    group: str = ""  # columns of one group stand together under its name
    better: Literal["higher", "lower"] | None = None  # which end is bold; None ranks nothing
    decimals: int = 2


@dataclass(frozen=True)
class Cell:
    """One number, the half-width of its 95 % interval (NaN: none) and the paper's value (NaN: none)."""

    value: float
    half_width: float = nan
    paper: float = nan
    note: str = ""  # what is printed where there is no number; the CSV has an empty cell


@dataclass(frozen=True)
class Row:
    """One line of a section; a row that is not `ranked` (the pre-edited model) is never best."""

    section: str
    label: str
    cells: Mapping[str, Cell]
    ranked: bool = True
    mark: str = ""  # behind the label in print, for a note
    group: str = ""  # what the method changes; a section of three groups or more has a line for each


@dataclass(frozen=True)
class Table:
    """Rows in order, sections together. Sections (models) are ranked apart."""

    label: str  # of the LaTeX \\label, and the name of the files
    title: str
    stub: str  # header over the row labels
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = field(default=())


def write_table(table: Table, stem: Path) -> None:
    """Write stem.csv, stem.md and stem.tex."""
    write_csv(as_frame(table), stem.with_name(f"{stem.name}.csv"))
    for suffix, text in ((".md", as_markdown(table)), (".tex", as_latex(table))):
        with write_atomically(stem.with_name(stem.name + suffix)) as path:
            path.write_text(text, encoding="utf-8")


def as_frame(table: Table) -> pd.DataFrame:
    """Full-precision columns: section, row, then `key`, `key_pm` and, if any cell has one, `paper_key`."""
    with_paper = {key for row in table.rows for key, cell in row.cells.items() if isfinite(cell.paper)}
    columns = ["model", "method"]
    for column in table.columns:
        columns += [column.key, f"{column.key}_pm"] + ([f"paper_{column.key}"] if column.key in with_paper else [])
    rows: list[dict[str, Any]] = []
    for row in table.rows:
        line: dict[str, Any] = {"model": row.section, "method": row.label}
        for key, cell in row.cells.items():
            line |= {key: cell.value, f"{key}_pm": cell.half_width, f"paper_{key}": cell.paper}
        rows.append(line)
    return pd.DataFrame(rows, columns=columns)


def ranks(table: Table) -> dict[tuple[int, str], int]:
    """{(row index, column key): 1 for best, 2 for second}, per section; numbers that print alike rank alike.

    Second best is the next number printed, so a tie for best still leaves one; a column with one ranked number,
    or whose numbers all print alike, ranks nothing.
    """
    found: dict[tuple[int, str], int] = {}
    for column in table.columns:
        if column.better is None:
            continue
        for section in dict.fromkeys(row.section for row in table.rows):
            values = {
                index: round(row.cells[column.key].value, column.decimals)
                for index, row in enumerate(table.rows)
                if row.section == section and row.ranked and column.key in row.cells
                and isfinite(row.cells[column.key].value)
            }  # fmt: skip
            distinct = sorted(set(values.values()), reverse=column.better == "higher")
            if len(distinct) < 2:
                continue
            found |= {(i, column.key): 1 + distinct.index(v) for i, v in values.items() if v in distinct[:2]}
    return found


def _heads(table: Table) -> dict[int, str]:
    """{row index: the group that begins with it}, in sections of three groups or more."""
    found: dict[int, str] = {}
    for section in dict.fromkeys(row.section for row in table.rows):
        rows = [(index, row.group) for index, row in enumerate(table.rows) if row.section == section and row.group]
        if len({group for _, group in rows}) > 2:
            found |= {next(index for index, own in rows if own == group): group for _, group in rows}
    return found


def as_markdown(table: Table) -> str:
    """A GitHub table: best in bold, second best underlined, the paper's value in square brackets."""
    arrows = {"higher": " ↑", "lower": " ↓", None: ""}
    best, heads = ranks(table), _heads(table)
    sections = list(dict.fromkeys(row.section for row in table.rows))
    groups = [f"{column.group} " if column.group else "" for column in table.columns]
    header = [f"{group}{c.header}{arrows[c.better]}" for group, c in zip(groups, table.columns, strict=True)]
    lines = [f"**{table.title}**", ""]
    lines.append(_line(["Model", table.stub, *header]))
    lines.append(_line(["---", "---", *["---:"] * len(header)]))
    for section in sections:
        first = True
        for index, row in enumerate(table.rows):
            if row.section == section:
                if index in heads:
                    lines.append(_line([section if first else "", f"*{heads[index]}*", *[""] * len(header)]))
                    first = False
                cells = [_markdown_cell(row.cells.get(c.key), c, best.get((index, c.key))) for c in table.columns]
                lines.append(_line([section if first else "", row.label + row.mark, *cells]))
                first = False
    return "\n".join([*lines, "", *[f"{note}  " for note in table.notes]]).rstrip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _markdown_cell(cell: Cell | None, column: Column, rank: int | None) -> str:
    if cell is None or (not isfinite(cell.value) and not isfinite(cell.paper)):
        return cell.note or NOTHING if cell else NOTHING
    text = _number(cell.value, column)
    text = {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(rank or 0, text)
    if isfinite(cell.half_width):
        text += f" ±{_number(cell.half_width, column)}"
    return text + (f" [{_number(cell.paper, column)}]" if isfinite(cell.paper) else "")


def _number(value: float, column: Column) -> str:
    if not isfinite(value):
        return NOTHING
    return f"{round(value, column.decimals) + 0.0:.{column.decimals}f}".replace("-", "−")  # never minus zero


def as_latex(table: Table) -> str:
    """A `table*` for booktabs: needs \\usepackage{booktabs,graphicx} and a Unicode-aware or T1 font encoding."""
    arrows = {"higher": r"\,$\uparrow$", "lower": r"\,$\downarrow$", None: ""}
    best, heads = ranks(table), _heads(table)
    width = len(table.columns) + 1
    lines = [r"\begin{table*}[t]", r"  \centering"]
    lines += [f"  \\caption{{{_escape(table.title)}}}", f"  \\label{{tab:{table.label}}}"]
    fit = r"\ifdim\width>\linewidth\linewidth\else\width\fi"  # shrink a wide table, leave a narrow one
    lines += [
        f"  \\resizebox{{{fit}}}{{!}}{{%",
        f"  \\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"    \toprule",
    ]
    if any(column.group for column in table.columns):
        lines += _group_lines(table.columns)
    headers = [_escape(table.stub), *[_escape(c.header) + arrows[c.better] for c in table.columns]]
    lines.append("    " + " & ".join(headers) + r" \\")
    for section in dict.fromkeys(row.section for row in table.rows):
        lines += [r"    \midrule", f"    \\multicolumn{{{width}}}{{l}}{{\\textit{{{_escape(section)}}}}} \\\\"]
        for index, row in enumerate(table.rows):
            if row.section == section:
                if index in heads:
                    lines.append(f"    \\multicolumn{{{width}}}{{l}}{{\\quad\\textit{{{_escape(heads[index])}}}}} \\\\")
                cells = [_latex_cell(row.cells.get(c.key), c, best.get((index, c.key))) for c in table.columns]
                lines.append("    " + " & ".join([_escape(row.label + row.mark), *cells]) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}}"]
    lines += [f"  \\par\\smallskip{{\\footnotesize {_escape(' '.join(table.notes))}\\par}}"] if table.notes else []
    return "\n".join([*lines, r"\end{table*}"]) + "\n"


def _group_lines(columns: Sequence[Column]) -> list[str]:
    spans, rules, start = [], [], 2
    for group, members in groupby(columns, key=lambda column: column.group):
        count = len(list(members))
        spans.append(f"\\multicolumn{{{count}}}{{c}}{{{_escape(group)}}}")
        if group:
            rules.append(f"\\cmidrule(lr){{{start}-{start + count - 1}}}")
        start += count
    return ["    & " + " & ".join(spans) + r" \\", "    " + " ".join(rules)]


def _latex_cell(cell: Cell | None, column: Column, rank: int | None) -> str:
    if cell is None or (not isfinite(cell.value) and not isfinite(cell.paper)):
        return _escape(cell.note) or "--" if cell else "--"
    text = _latex_number(cell.value, column)
    text = {1: f"\\textbf{{{text}}}", 2: f"\\underline{{{text}}}"}.get(rank or 0, text)
    if isfinite(cell.half_width):
        text += f"{{\\scriptsize\\,$\\pm$\\,{_latex_number(cell.half_width, column)}}}"
    return text + (f"{{\\scriptsize\\,[{_latex_number(cell.paper, column)}]}}" if isfinite(cell.paper) else "")


def _latex_number(value: float, column: Column) -> str:
    return _number(value, column).replace("−", "$-$").replace(NOTHING, "--")


_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--", "−": "$-$", "Δ": r"$\Delta$",
    "Σ": r"$\Sigma$", "η": r"$\eta$", "α": r"$\alpha$", "≥": r"$\geq$", "≤": r"$\leq$", "|": r"$|$", "†": r"$\dagger$",
}  # fmt: skip


def _escape(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)
