"""Write the texts that key statistics are taken from."""

from pathlib import Path

from sphere.data.corpus import extract_corpus
from sphere.study.job import job

with job(snakemake, sources=snakemake.params.sources):
    files, params = snakemake.input, snakemake.params
    extract_corpus(Path(files.file), Path(snakemake.output.corpus), column=params.column, documents=params.documents)
