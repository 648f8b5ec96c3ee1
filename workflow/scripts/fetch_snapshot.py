"""Fetch a model or a dataset from the Hugging Face hub, or link one from a folder."""

from pathlib import Path

from sphere.config import Source
from sphere.download import fetch_snapshot
from sphere.job import job

with job(snakemake):
    params = snakemake.params
    fetch_snapshot(Source(**params.source), Path(snakemake.output[0]), Path(params.locks))
