"""The library against plain implementations of the same mathematics: same machine, same run, timed in turn.

    python benchmarks/run.py --short                                  # under three minutes on two cores
    python benchmarks/run.py --write docs/performance.md              # the table of docs/performance.md
    python benchmarks/run.py --model results/embedded/embedded/model  # with trained weights instead of random ones
    python benchmarks/run.py --model SmolLM2.gguf --records counterfact.json  # and rows of a real model

A ratio of 4 x means that the library takes a quarter of plain's time. Rows at Llama3-8B's shapes need a GPU of 80 GB.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import comparisons
import growth
import torch
from comparisons import FULL, REAL, REAL_SHORT, SHORT, Size
from measure import Goal, Row, machine
from report import around, markdown, plain_data, put_into
from workload import Workload, embedded, llama3_8b, real

from sphere.errors import InputError
from sphere.files import write_json

GPU_GOALS: dict[str, tuple[Callable[[Workload, Size, float], Row], float]] = {
    "target values, 100 requests": (comparisons.values, 10),
    "key second moments, 5 layers": (comparisons.moments, 3.5),
    "editing metrics, 1000 records": (comparisons.metrics, 5),
}
GPU_SIZE = replace(FULL, repeats=2, plain_requests=8, documents=50, plain_records=100)
"""The opponents take seconds an item there."""


def main() -> int:
    given = arguments()
    if given.threads:
        torch.set_num_threads(given.threads)
    size = SHORT if given.short else FULL
    cpu = torch.device("cpu")
    try:
        if given.write:
            around(given.write)
        rows = real_rows(given)
        workload = embedded(None if given.records else given.model)
        rows += [
            said(comparisons.values(workload, size, 4)),
            said(comparisons.moments(workload, size, 3.5)),
            said(comparisons.metrics(workload, size, 2)),
            *map(said, comparisons.energy(size, cpu)),
            *map(said, comparisons.projection(size, cpu)),
        ]
        shares, phases = comparisons.shares(workload, size, cpu)
        rows += [*map(said, shares), *gpu_rows()]
        series = [
            *phases,
            *growth.edits(workload),
            growth.batch_size(workload),
            *growth.width(size, cpu),
            *growth.layers(workload, size),
        ]
        command = shlex.join(["python", "benchmarks/run.py", *sys.argv[1:]])
        table = markdown(machine(), command, rows, series)
        print(f"\n{table}")
        if given.json:
            write_json(plain_data(machine(), command, rows, series), given.json)
        if given.write:
            put_into(given.write, table)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer and smaller items, two repeats")
    parser.add_argument("--model", type=Path, help="the embedded study's trained model, or with --records any model")
    parser.add_argument("--records", type=Path, nargs="+", default=[], help="CounterFact's schema; asks for --model")
    parser.add_argument("--study", default="smollm2", help="whose first model's settings --records takes")
    parser.add_argument("--threads", type=int, help="threads of torch (default: all cores)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--write", type=Path, help="page whose marked part the table replaces")
    return parser.parse_args()


def real_rows(given: argparse.Namespace) -> list[Row]:
    """The rows of a model of one's own on one's own records, if there are any."""
    if not given.records:
        return []
    if given.model is None:
        raise InputError("--records are measured on a model: name its folder or .gguf file with --model")
    size, workload = REAL_SHORT if given.short else REAL, real(given.model, given.records, given.study)
    often = size if given.short else replace(size, repeats=FULL.repeats)  # a single ratio varies by a tenth
    return [
        said(comparisons.values(workload, often, 10)),
        said(comparisons.rate(workload, size, 65)),
        said(comparisons.metrics(workload, size, 3)),
    ]


def gpu_rows() -> list[Row]:
    """The rows at Llama3-8B's shapes, or what they would be."""
    if not torch.cuda.is_available():
        on, why = "Llama3-8B shape", "not run: no CUDA device"
        return [Row(what, on, goal=Goal(bound), note=why) for what, (_, bound) in GPU_GOALS.items()]
    workload, gpu = llama3_8b(), torch.device("cuda")
    return [
        *(said(compare(workload, GPU_SIZE, bound)) for compare, bound in GPU_GOALS.values()),
        *map(said, comparisons.energy(GPU_SIZE, gpu)),
        *map(said, comparisons.projection(GPU_SIZE, gpu)),
        *map(said, comparisons.shares(workload, GPU_SIZE, gpu)[0]),
    ]


def said(row: Row) -> Row:
    """``row``, once it is printed: a long run shows where it stands."""
    print(f"{row.what}, {row.on}: {row.value:.3g} {row.unit}", file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
