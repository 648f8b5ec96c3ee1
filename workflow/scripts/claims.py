"""Test the paper's claims on the study's tables."""

from pathlib import Path

from sphere.report.claims import check_claims
from sphere.report.pages import write_pages
from sphere.study.job import job

with job(snakemake, sources=snakemake.params.sources):
    tables = Path(snakemake.input.summaries[0]).parent
    out = Path(snakemake.output[0]).parent
    check_claims(tables, Path(snakemake.input.published), out)
    write_pages([out / "claims.md"])
