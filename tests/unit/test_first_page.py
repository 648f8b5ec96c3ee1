"""The first page of a report."""

from __future__ import annotations

import re
import subprocess
import sys
from base64 import b64decode
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
from docutils.core import publish_parts

from sphere.report.figures import FIGURES
from sphere.report.first_page import HEADLINE, RELATION_COLUMNS, first_page
from sphere.study.configuration import load_study

ROOT = Path(__file__).parents[2]


def rendered(name: str, results: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page(name, results)))


def page(name: str, results: Path) -> str:
    whole = load_study(name, root=ROOT / "config")
    text = first_page(results, whole.study, whole.models.values())
    settings = {"report_level": 1, "halt_level": 1}  # any markup that is not understood raises
    html: str = publish_parts(text, writer="html", settings_overrides=settings)["body"]
    return html


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "config" / "studies").glob("*.yaml")])
def test_every_study_has_one_before_anything_is_made(name: str, tmp_path: Path) -> None:
    said = rendered(name, tmp_path)
    whole = load_study(name, root=ROOT / "config")
    assert all(model in said for model in whole.models)
    assert f"{whole.study.edits:,} edits of" in said
    assert "claims" not in said


def test_it_counts_the_facts_and_gives_the_verdicts(tmp_path: Path) -> None:
    (tmp_path / "facts").mkdir()
    (tmp_path / "claims").mkdir()
    rows = [("city_state", 250, 100, 50), ("field", 198, 82, 31)]
    pd.DataFrame(rows, columns=list(RELATION_COLUMNS)).to_csv(tmp_path / "facts" / "relations.csv", index=False)
    claims = pd.read_csv(ROOT / "config" / "published" / "claims.csv").assign(
        verdict="holds, vacuous", reason="it says *nothing*", effect=-0.5, unit="points", ci_low=-0.7, ci_high=-0.3,
        ci_kind="t over seeds", n_seeds=3,
    )  # fmt: skip
    claims.to_csv(tmp_path / "claims" / "claims.csv", index=False)
    said = rendered("smollm2", tmp_path)
    assert "city_state 250 100 50" in said
    assert "all 448 182 81" in said
    for row in claims.to_dict("records"):
        numbers = f"{row['statistic']}: −0.5 points [−0.7, −0.3], t over seeds, n = 3"
        whose = " (ours, not the paper's)" if row["source"] == "ours" else ""
        line = f"{row['id']} {row['claim']}{whose} holds, vacuous {numbers} it says *nothing*"
        assert line in unescape(said)


def test_it_shows_the_figure_in_the_page_itself(tmp_path: Path) -> None:
    """Moved or deleted afterwards, the file is still shown: its bytes are in the page."""
    (tmp_path / "figures").mkdir()
    picture = tmp_path / "figures" / f"{HEADLINE}.svg"
    picture.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (shown,) = re.findall(r'<img [^>]*src="data:image/svg\+xml;base64,([^"]+)"', page("smollm2", tmp_path))
    assert b64decode(shown) == picture.read_bytes()
    assert HEADLINE in FIGURES


def test_the_workflow_gets_it_without_scipy_stats() -> None:
    """Every call of snakemake imports it to parse the rules."""
    program = "import sys, sphere.report.first_page; sys.exit('scipy.stats' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
