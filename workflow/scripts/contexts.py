"""Sample the context templates from the unedited model."""

from sphere.files import write_atomically
from sphere.study.job import job

with job(snakemake):
    import torch

    from sphere.editing.contexts import sample_contexts
    from sphere.models.adapters import adapter
    from sphere.models.loading import load

    settings = snakemake.params.contexts
    loaded = load(snakemake.input.model, **snakemake.params.load)
    contexts = sample_contexts(
        adapter(loaded.model),
        loaded.tokenizer,
        count=settings["count"],
        length=settings["length"],
        generator=torch.Generator().manual_seed(settings["seed"]),
    )
    with write_atomically(snakemake.output.contexts) as temporary:
        temporary.write_text(contexts.to_json(), encoding="utf-8")
