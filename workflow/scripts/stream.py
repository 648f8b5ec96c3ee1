"""Draw one edit stream from a dataset."""

from pathlib import Path

import numpy as np
import pandas as pd

from sphere.data.streams import draw_stream
from sphere.files import write_csv
from sphere.study.job import job

with job(snakemake, sources=snakemake.params.sources):
    skipped = draw_stream(
        Path(snakemake.input.dataset[0]),
        Path(snakemake.output.requests),
        edits=snakemake.params.edits,
        rng=np.random.default_rng(snakemake.params.seed),
    )
    write_csv(pd.DataFrame(skipped, columns=["case_id", "reason"]), snakemake.output.skipped)
