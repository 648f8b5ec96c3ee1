"""Fetch a model or a dataset from the Hugging Face hub, or link one from a folder."""

from pathlib import Path

from sphere.config.model import ShapeSettings
from sphere.config.sources import Source
from sphere.data.download import fetch_snapshot
from sphere.study.job import job
from sphere.study.plan.shapes import check_shape

with job(snakemake):
    params = snakemake.params
    out = Path(snakemake.output[0])
    fetch_snapshot(Source(**params.source), out, Path(params.locks), code=params.get("code", False))  # of a model
    if params.get("shape"):  # of a model whose file says one
        check_shape(snakemake.wildcards.model, ShapeSettings(**params.shape), out)
