"""Fetch the text that key statistics are taken from."""

from pathlib import Path

from sphere.config import CorpusSettings
from sphere.download import fetch_corpus
from sphere.job import job

with job(snakemake):
    source = CorpusSettings(**snakemake.params.corpus)
    fetch_corpus(source, Path(snakemake.output.corpus), documents=snakemake.params.documents)
