"""The first page of a report."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from docutils.core import publish_parts

from sphere.report.first_page import RELATION_COLUMNS, first_page
from sphere.study.configuration import load_study

ROOT = Path(__file__).parents[2]


def rendered(name: str, results: Path) -> str:
    whole = load_study(name, root=ROOT / "config")
    text = first_page(results, whole.study, whole.models.values())
    settings = {"report_level": 1, "halt_level": 1}  # any markup that is not understood raises
    html: str = publish_parts(text, writer="html", settings_overrides=settings)["body"]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html))


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "config" / "studies").glob("*.yaml")])
def test_every_study_has_one_before_anything_is_made(name: str, tmp_path: Path) -> None:
    said = rendered(name, tmp_path)
    whole = load_study(name, root=ROOT / "config")
    assert all(model in said for model in whole.models)
    assert f"{whole.study.edits:,} edits of" in said
    assert "Claims" not in said


def test_it_counts_the_facts_and_gives_the_verdicts(tmp_path: Path) -> None:
    (tmp_path / "facts").mkdir()
    (tmp_path / "claims").mkdir()
    rows = [("city_state", 250, 100, 50), ("field", 198, 82, 31)]
    pd.DataFrame(rows, columns=list(RELATION_COLUMNS)).to_csv(tmp_path / "facts" / "relations.csv", index=False)
    claims = pd.read_csv(ROOT / "config" / "published" / "claims.csv").assign(verdict="not reproduced")
    claims.to_csv(tmp_path / "claims" / "claims.csv", index=False)
    said = rendered("smollm2", tmp_path)
    assert "city_state 250 100 50" in said
    assert "all 448 182 81" in said
    assert all(f"{row.id} {row.claim}: not reproduced" in said.replace("&gt;", ">") for row in claims.itertuples())
