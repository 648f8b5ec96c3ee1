"""Write the page on which a person asks for curves."""

from pathlib import Path

from sphere.report.explore import write_explorer
from sphere.study.job import job

with job(snakemake):
    write_explorer(Path(snakemake.input.results), Path(snakemake.output.page))
