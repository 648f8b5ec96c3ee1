"""Fetch a file of sources.tsv and check it."""

from pathlib import Path

from sphere.config.sources import Source
from sphere.data.download import fetch
from sphere.study.job import job

with job(snakemake):
    params = snakemake.params
    fetch(Source(**params.source), Path(snakemake.output.file), Path(params.locks))
