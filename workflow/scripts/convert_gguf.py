"""Write a GGUF file out as a Hugging Face folder in float32."""

from pathlib import Path

from sphere.config.model import ShapeSettings
from sphere.study.job import job

with job(snakemake, sources=snakemake.params.sources):
    from sphere.progress import ready
    from sphere.study.gguf import convert_gguf
    from sphere.study.plan.shapes import check_shape

    ready()  # to read the file is this job's work
    out = Path(snakemake.output.model)
    convert_gguf(Path(snakemake.input.file), out)
    if snakemake.params.shape:
        check_shape(snakemake.wildcards.model, ShapeSettings(**snakemake.params.shape), out)
