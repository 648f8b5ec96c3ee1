"""Gather the CSVs of all streams into the study's tidy tables."""

from pathlib import Path

from sphere.report.results import write_results
from sphere.report.tables import gather
from sphere.study.job import job

with job(snakemake):
    tables = Path(snakemake.output.summaries[0]).parent
    missing = gather(tables.parent, snakemake.params.study, tables)
    write_results(tables, Path(snakemake.output.results), study=tables.parent.name)
    print(*(f"not there: {path}" for path in missing), sep="\n")
