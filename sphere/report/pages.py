"""Markdown tables as pages of HTML, which Snakemake's report shows in place (it only offers CSV for download)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from markdown_it import MarkdownIt

from sphere.files import write_atomically

PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 1.5em; }}
table {{ border-collapse: collapse; border-top: 2px solid; border-bottom: 2px solid; }}
th {{ border-bottom: 1px solid; }}
td {{ font-variant-numeric: tabular-nums; }}
pre {{ overflow-x: auto; background: #f5f5f5; padding: 1em; }}
th, td {{ padding: 0.25em 0.8em; text-align: left; vertical-align: top; }}
</style></head>
<body>
{body}</body>
</html>
"""


def write_pages(markdown: Iterable[Path]) -> None:
    """Write each Markdown file as an HTML page beside it, under the same name."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    for path in markdown:
        body = reader.render(path.read_text(encoding="utf-8"))
        body = body.replace("&lt;u&gt;", "<u>").replace("&lt;/u&gt;", "</u>")  # Markdown has no underline of its own
        with write_atomically(path.with_suffix(".html")) as temporary:
            temporary.write_text(PAGE.format(title=path.stem, body=body), encoding="utf-8")
