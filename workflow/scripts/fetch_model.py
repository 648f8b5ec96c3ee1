"""Fetch a base model from the hub, or link one from a folder."""

from pathlib import Path

from sphere.config import HubSource, PathSource
from sphere.download import fetch_model
from sphere.job import job

with job(snakemake):
    kind = {"hub": HubSource, "path": PathSource}[snakemake.params.source["kind"]]
    fetch_model(kind(**snakemake.params.source), Path(snakemake.output.model))
