"""Draw every figure of the study as PDF, SVG and PNG."""

from pathlib import Path

from sphere.report.figures import write_all
from sphere.study.job import job

with job(snakemake, sources=snakemake.params.sources):
    tables = Path(snakemake.input.summaries[0]).parent
    write_all(tables, tables.parent / "figures", published=Path(snakemake.input.published))
