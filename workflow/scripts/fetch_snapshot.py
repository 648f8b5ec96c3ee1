"""Fetch a model or a dataset from the Hugging Face hub, or link one from a folder."""

from pathlib import Path

from sphere.config import ShapeSettings, Source
from sphere.download import fetch_snapshot
from sphere.job import job
from sphere.plan.shapes import check_shape

with job(snakemake):
    params = snakemake.params
    fetch_snapshot(Source(**params.source), Path(snakemake.output[0]), Path(params.locks))
    if params.get("shape"):  # of a model whose file says one
        check_shape(snakemake.wildcards.model, ShapeSettings(**params.shape), Path(snakemake.output[0]))
