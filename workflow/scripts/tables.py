"""Write every table of the study as CSV, Markdown, LaTeX and HTML."""

from pathlib import Path

from sphere.report.pages import write_pages
from sphere.report.tables import write_all
from sphere.study.job import job

with job(snakemake, sources=snakemake.params.sources):
    tables = Path(snakemake.input.summaries[0]).parent
    write_all(tables, tables, published=Path(snakemake.input.published))
    write_pages(Path(path) for path in snakemake.output if path.endswith(".md"))
