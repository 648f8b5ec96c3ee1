"""Markdown tables as pages of HTML."""

from __future__ import annotations

from pathlib import Path

from sphere.report.pages import write_pages


def test_a_table_becomes_a_page_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "table1.md"
    table = "| method | efficacy |\n| --- | ---: |\n| **SPHERE** | 1 \\| 2 |\n| <u>FT</u> | 0 |\n"
    path.write_text(f"{table}\nA note: a < b & c.\n", encoding="utf-8")
    write_pages([path])
    page = (tmp_path / "table1.html").read_text(encoding="utf-8")
    assert "<title>table1</title>" in page
    assert "<td><strong>SPHERE</strong></td>" in page
    assert "<td><u>FT</u></td>" in page
    assert ">1 | 2</td>" in page
    assert "a &lt; b &amp; c" in page


def test_html_in_a_table_is_text(tmp_path: Path) -> None:
    path = tmp_path / "t.md"
    path.write_text("| a |\n| --- |\n| <script>x</script> |\n", encoding="utf-8")
    write_pages([path])
    assert "<script>" not in (tmp_path / "t.html").read_text(encoding="utf-8")
