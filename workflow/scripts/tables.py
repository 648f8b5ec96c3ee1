"""Write every table of the study as CSV, Markdown and LaTeX."""

from pathlib import Path

from sphere.job import job
from sphere.tables import write_all

with job(snakemake, sources=snakemake.params.sources):
    tables = Path(snakemake.input.summaries[0]).parent
    write_all(tables, tables, published=Path(snakemake.input.published))
