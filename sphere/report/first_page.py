"""What a report says first: which model was edited with which facts, one figure, and what became of the claims."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from docutils.nodes import Node
from docutils.parsers.rst import directives
from docutils.parsers.rst.directives.images import Image

from sphere.config.model import GgufSource, HubSource, ModelConfig, PathSource
from sphere.config.study import StudyConfig
from sphere.report.tables.layout import dataset_label, method_label
from sphere.report.verdicts import claimed, measured

SOURCES = {
    "world": "a fictional world",
    "facts": "facts of the real world that the model knows",
    "download": "a published data set",
    "path": "a file of the user's",
}
RELATION_COLUMNS = ("relation", "asked", "known", "edited")
CLAIM_WIDTHS = "4 22 10 30 34"
HEADLINE = "energy_accuracy"
"""The figure on the first page: does accuracy fall where energy moves?"""


class Picture(Image):
    """`.. picture:: FILE.svg`, an image whose file is read into the page when it is rendered."""

    def run(self) -> Sequence[Node]:
        data = b64encode(Path(self.arguments[0]).read_bytes()).decode("ascii")
        self.arguments[0] = f"data:image/svg+xml;base64,{data}"
        return super().run()


directives.register_directive("picture", Picture)


def first_page(results: Path, study: StudyConfig, models: Iterable[ModelConfig]) -> str:
    """reStructuredText over the study under ``results``; what has not been made yet is left out."""
    lines = ["This study", "----------", ""]
    lines += [f"- Model: {_model(model)}" for model in models]
    for name, dataset in study.datasets.items():
        what = f"{study.edits:,} edits of {dataset_label(name)}, {SOURCES[dataset.source]}"
        lines.append(f"- {what}; {_counted(len(study.seeds), 'order')}, batches of {study.batch_size}")
    lines += [f"- Methods: {', '.join(method_label(name) for name in study.methods)}", ""]
    lines += [*_figure(results), *_claims(results)]
    relations = results / "facts" / "relations.csv"
    if study.facts is not None and relations.exists():
        table = pd.read_csv(relations, keep_default_na=False)
        total = {"relation": "all", **table[list(RELATION_COLUMNS[1:])].sum().to_dict()}
        rows = [[*RELATION_COLUMNS], *([row[c] for c in RELATION_COLUMNS] for row in table.to_dict("records"))]
        lines += ["The facts", "---------", ""]
        lines += ["Facts by relation: those that the model was asked, those it knows, and those that are edited.", ""]
        lines += _table([*rows, [total[c] for c in RELATION_COLUMNS]])
    return "\n".join(lines) + "\n"


def _model(model: ModelConfig) -> str:
    source = model.source
    said = "trained here on the world"
    if isinstance(source, HubSource):
        said = f"{source.id}, from the hub"
    elif isinstance(source, GgufSource):
        said = f"a GGUF file, {source.item or source.path}, written out in float32"
    elif isinstance(source, PathSource):
        said = str(source.path)
    return f"``{model.name}`` ({said}), layers {', '.join(map(str, model.layers))} edited"


def _claims(results: Path) -> list[str]:
    """The verdicts, each with what was measured and why."""
    path = results / "claims" / "claims.csv"
    if not path.exists():
        return []
    rows = pd.read_csv(path).to_dict("records")
    lines = [["", "Claim", "Verdict", "Measured here", "Why"]]
    lines += [[row["id"], claimed(row), row["verdict"], measured(row), row["reason"]] for row in rows]
    title = "What became of the claims"
    return [title, "-" * len(title), "", *_table(lines, CLAIM_WIDTHS), ""]


def _figure(results: Path) -> list[str]:
    path = (results / "figures" / f"{HEADLINE}.svg").resolve()
    if not path.exists():
        return []
    title = "Energy and accuracy along the stream"
    return [title, "-" * len(title), "", f".. picture:: {path}", f"   :alt: {title}", "   :width: 100%", ""]


def _table(rows: Sequence[Sequence[Any]], widths: str = "auto") -> list[str]:
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in rows:
        lines += [f"   {'* -' if i == 0 else '  -'} {_plain(cell)}" for i, cell in enumerate(row)]
    return lines


def _plain(text: Any) -> str:
    """Text in which nothing is markup."""
    return re.sub(r"([\\*`|_])", r"\\\1", str(text))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
