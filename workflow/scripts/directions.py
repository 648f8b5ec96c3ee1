"""Find the principal hyperspherical directions of the pretrained weights of all layers."""

from pathlib import Path

from sphere.study.job import job

with job(snakemake):
    from sphere.editing.spectra import save_directions
    from sphere.models.adapters import adapter
    from sphere.models.loading import load

    loaded = load(snakemake.input.model, **snakemake.params.load)
    save_directions(adapter(loaded.model), snakemake.params.layers, Path(snakemake.output.directions))
