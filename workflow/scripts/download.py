"""Fetch one row of sources.tsv and check it."""

from pathlib import Path

from sphere.config import Download
from sphere.download import fetch
from sphere.job import job

with job(snakemake):
    fetch(Download(**snakemake.params.source), Path(snakemake.output.file))
