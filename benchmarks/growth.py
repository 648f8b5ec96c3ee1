"""How the cost grows: with edits made, batch size, width and layers."""

from __future__ import annotations

from collections.abc import Sequence

import plain
import torch
from comparisons import ALPHA, ETA, Size, random_weight
from measure import Series, seconds
from workload import Workload

from sphere.editing.loop import Editor
from sphere.editing.measurement import Record
from sphere.editing.methods import resolve
from sphere.editing.stats import collect_statistics
from sphere.editing.values import target_values
from sphere.geometry.directions import principal_spectrum, sparse_projection
from sphere.geometry.energy import measure_energy

BATCH = 20
"""Edits in a batch of the stream."""


def edits(workload: Workload, *, batches: int = 5) -> list[Series]:
    """Seconds of each of the first batches of a stream edited by SPHERE, by phase."""
    layers, settings = workload.settings.layers, workload.settings
    length = settings.statistics.max_length
    found = collect_statistics(
        workload.parts, workload.tokenizer, workload.texts.documents[-200:], layers, max_length=length
    )
    editor = Editor(
        workload.parts.model,
        workload.tokenizer,
        resolve("sphere", hyperparameters=settings.methods["sphere"]),
        layers=layers,
        values=settings.values,
        contexts=workload.contexts,
        statistics=found,
    )
    before = {i: weight.clone() for i, weight in editor.pretrained.items()}
    records: list[Record] = []
    try:
        editor.run(workload.texts.requests[: batches * BATCH], batch_size=BATCH, on_batch=records.append)
    finally:
        for i, weight in before.items():
            workload.parts.set_weight(i, weight)
    made = [record.edits for record in records]
    return [
        Series(f"a batch of {BATCH} edits: {phase}", "edits made", made, [record.seconds[phase] for record in records])
        for phase in records[0].seconds
    ]


def batch_size(workload: Workload, sizes: Sequence[int] = (1, 10, 30, 100)) -> Series:
    """Seconds a request of the target values."""
    times = []
    for count in sizes:
        spent, _ = seconds(
            lambda some=workload.texts.requests[:count]: target_values(
                workload.parts,
                workload.tokenizer,
                some,
                workload.contexts,
                layer=workload.last,
                settings=workload.settings.values,
            )
        )
        times.append(spent / count)
    return Series("target values, seconds a request", "requests in a batch", list(sizes), times)


def width(size: Size, device: torch.device) -> list[Series]:
    """Energy, principal directions and projection of d_out x 3.5 d_out matrices."""
    widths = [width for width in (256, 512, 1024, 2048) if width <= size.matrix[0]]
    times: dict[str, list[float]] = {"energy": [], "principal directions": [], "projection": []}
    for d_out in widths:
        weight = random_weight((d_out, 7 * d_out // 2), device)
        times["energy"].append(seconds(lambda weight=weight: measure_energy(weight))[0])
        spent, spectrum = seconds(lambda weight=weight: principal_spectrum(weight))
        times["principal directions"].append(spent)
        update, directions = weight.double(), spectrum.up_to(ETA)
        times["projection"].append(seconds(lambda u=update, d=directions: sparse_projection(u, d, alpha=ALPHA))[0])
    return [Series(what, "d_out (d_in = 3.5 d_out)", widths, spent) for what, spent in times.items()]


def layers(workload: Workload, size: Size) -> list[Series]:
    """Key second moments of the first 1, 2, ... layers: in one pass, and in one pass a layer."""
    parts, tokenizer, length = workload.parts, workload.tokenizer, workload.settings.statistics.max_length
    documents = workload.texts.documents[-size.documents :]
    counts = list(range(1, min(5, parts.n_layers) + 1))
    fast, slow = [], []
    for count in counts:
        fast.append(
            seconds(
                lambda n=count: collect_statistics(
                    parts, tokenizer, documents, range(n), max_length=length, probe_keys=0
                )
            )[0]
        )
        slow.append(seconds(lambda n=count: plain.second_moments(parts, tokenizer, documents, range(n), length))[0])
    by = "layers"
    return [Series("key second moments", by, counts, fast), Series("key second moments, plain", by, counts, slow)]
