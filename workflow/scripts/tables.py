"""Write every table of the study as CSV, Markdown, LaTeX and HTML."""

from pathlib import Path

from sphere.job import job
from sphere.pages import write_pages
from sphere.tables import write_all

with job(snakemake, sources=snakemake.params.sources):
    tables = Path(snakemake.input.summaries[0]).parent
    write_all(tables, tables, published=Path(snakemake.input.published))
    write_pages(Path(path) for path in snakemake.output if path.endswith(".md"))
