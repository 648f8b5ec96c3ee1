"""Draw one edit stream from a dataset."""

from pathlib import Path

import numpy as np
import pandas as pd

from sphere.artifacts import write_csv
from sphere.job import job
from sphere.streams import draw_stream

with job(snakemake, sources=snakemake.params.sources):
    skipped = draw_stream(
        Path(snakemake.input.dataset[0]),
        Path(snakemake.output.requests),
        edits=snakemake.params.edits,
        rng=np.random.default_rng(snakemake.params.seed),
    )
    write_csv(pd.DataFrame(skipped, columns=["case_id", "reason"]), snakemake.output.skipped)
