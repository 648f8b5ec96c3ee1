"""The rows of the table: the library against its plain opponents, and parts of an edit against the whole."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import plain
import torch
from counting import Lengths, Phase, edit_operations, projection_operations
from measure import Goal, Row, Series, in_turn, matmul_rate, operation_ratio, operations
from torch import Tensor
from workload import CONFIG, LLAMA3_8B, Workload

from sphere.data.records import EditRequest
from sphere.editing.stats import collect_statistics
from sphere.editing.values import target_values
from sphere.evaluation.metrics import evaluate_requests
from sphere.geometry.directions import principal_directions, sparse_projection
from sphere.geometry.energy import measure_energy
from sphere.study.configuration import load_study

ETA, ALPHA = 0.5, 0.5
"""SPHERE's settings on AlphaEdit."""
KEPT = 0.7
"""Share of the key space that AlphaEdit may edit, for counting."""
REST = ("targets", "keys", "solve")
"""Phases of a batch that are counted beside what is timed."""
COUNTED = 2
"""Requests, records or documents on which operations are counted: their ratio needs no more."""
TOKENS = 2000
"""Rows of the large product that a rate is held against: the tokens of a batch's texts, say."""
PRODUCTS = 200
"""Such products that are timed together, some seconds' worth of a small model's."""
RATE_REPEATS = 5
"""At least: on two shared cores one repeat's rate was anything from 58 to 76 %."""


@dataclass(frozen=True)
class Size:
    """How much is measured. An opponent that works one by one may be given fewer items; its time is scaled up."""

    repeats: int
    requests: int
    plain_requests: int
    documents: int
    records: int
    plain_records: int
    matrix: tuple[int, int]
    """(d_out, d_in) of directions and projection, which are cubic in d_out."""
    narrow: tuple[int, int]
    """(d_out, d_in) at which the opponents that are cubic in d_in, or take differences of rows, still end."""
    large: tuple[int, int] = (LLAMA3_8B.hidden_size, LLAMA3_8B.intermediate_size)
    """(d_out, d_in) of the energy: 4096 x 14336, however little else is measured."""


FULL = Size(3, 100, 25, 200, 1000, 150, Size.large, (512, 1792))
SHORT = Size(2, 100, 10, 60, 1000, 60, (1024, 3584), (256, 896))
REAL = replace(FULL, repeats=1, requests=20, plain_requests=10, records=1000, plain_records=50)
"""Of a real model, of which plain takes twenty seconds an edit."""
REAL_SHORT = replace(REAL, requests=4, plain_requests=1, records=20, plain_records=5)


def values(workload: Workload, size: Size, goal: float) -> Row:
    """Target values of one batch, against one request at a time."""
    requests = workload.texts.requests[: size.requests]
    few = requests[:: max(1, len(requests) // size.plain_requests)][: size.plain_requests]
    parts, tokenizer, contexts, settings = workload.parts, workload.tokenizer, workload.contexts, workload.settings
    layer = workload.last

    def fast(some: Sequence[EditRequest] = requests) -> Tensor:
        return target_values(parts, tokenizer, some, contexts, layer=layer, settings=settings.values).values

    def one_by_one(some: Sequence[EditRequest] = few) -> Tensor:
        each = (
            plain.target_value(parts, tokenizer, request, contexts, layer=layer, settings=settings.values)
            for request in some
        )
        return torch.stack(list(each), dim=1)

    scale = len(requests) / len(few)
    timed = in_turn(fast, one_by_one, repeats=size.repeats)
    same = timed.fast_result[:, [requests.index(request) for request in few]]
    return Row(
        f"target values, {len(requests)} requests",
        workload.name,
        timed.ratios(scale),
        goal=Goal(goal),
        fast=statistics.median(timed.fast),
        plain=scale * statistics.median(timed.plain),
        operations=operation_ratio(fast, one_by_one, few[:COUNTED]),
        difference=difference(same, timed.plain_result),
    )


def rate(workload: Workload, size: Size, goal: float) -> Row:
    """Operations a second of one batch's target values, as torch counts them, over those of a large product."""
    parts, settings = workload.parts, workload.settings
    requests = workload.texts.requests[: size.requests]
    right = parts.weight(workload.last)
    left = random_weight((TOKENS, len(right)), parts.device).to(parts.dtype)
    times = 2 * PRODUCTS * TOKENS * right.numel()

    def found() -> Tensor:
        tokenizer, contexts, layer = workload.tokenizer, workload.contexts, workload.last
        return target_values(parts, tokenizer, requests, contexts, layer=layer, settings=settings.values).values

    def products() -> None:
        for _ in range(PRODUCTS):
            left @ right

    products()
    work = operations(found)
    timed = in_turn(found, products, repeats=max(size.repeats, RATE_REPEATS))
    return Row(
        f"target values, {len(requests)} requests, in the rate of a product {TOKENS} x {shape_name(right)}",
        workload.name,
        [100 * ratio * work / times for ratio in timed.ratios()],
        unit="%",
        goal=Goal(goal),
        fast=statistics.median(timed.fast),
    )


def moments(workload: Workload, size: Size, goal: float, layers: int = 5) -> Row:
    """Key second moments of the first ``layers`` edited layers and those above, against one pass a layer."""
    parts, tokenizer, length = workload.parts, workload.tokenizer, workload.settings.statistics.max_length
    first = min(workload.settings.layers[0], parts.n_layers - layers)
    chosen = range(first, first + layers)
    documents = workload.texts.documents[-size.documents :]

    def fast(some: list[str] = documents) -> dict[int, Tensor]:
        return collect_statistics(parts, tokenizer, some, chosen, max_length=length, probe_keys=0).second_moments

    def layer_by_layer(some: list[str] = documents) -> dict[int, Tensor]:
        return plain.second_moments(parts, tokenizer, some, chosen, length)

    timed = in_turn(fast, layer_by_layer, repeats=size.repeats)
    return Row(
        f"key second moments, {layers} layers of {parts.n_layers}, {len(documents)} documents",
        workload.name,
        timed.ratios(),
        goal=Goal(goal),
        fast=statistics.median(timed.fast),
        plain=statistics.median(timed.plain),
        operations=operation_ratio(fast, layer_by_layer, documents[:COUNTED]),
        difference=max(difference(timed.fast_result[i], timed.plain_result[i]) for i in chosen),
    )


def metrics(workload: Workload, size: Size, goal: float) -> Row:
    """Editing metrics of many records, against one record a forward pass."""
    requests = workload.texts.requests[: size.records]
    few = requests[:: max(1, len(requests) // size.plain_records)][: size.plain_records]
    parts, tokenizer = workload.parts, workload.tokenizer

    def fast(some: Sequence[EditRequest] = requests) -> pd.DataFrame:
        return evaluate_requests(parts.model, tokenizer, some)

    def one_by_one(some: Sequence[EditRequest] = few) -> pd.DataFrame:
        return plain.metrics(parts, tokenizer, some)

    scale = len(requests) / len(few)
    timed = in_turn(fast, one_by_one, repeats=size.repeats)
    expected = timed.plain_result.set_index("case_id")
    got = timed.fast_result.iloc[[requests.index(request) for request in few]][list(timed.plain_result.columns)]
    return Row(
        f"editing metrics, {len(requests)} records",
        workload.name,
        timed.ratios(scale),
        goal=Goal(goal),
        fast=statistics.median(timed.fast),
        plain=scale * statistics.median(timed.plain),
        operations=operation_ratio(fast, one_by_one, few[:COUNTED]),
        difference=float((got.set_index("case_id") - expected).abs().max().max()),
    )


def energy(size: Size, device: torch.device) -> list[Row]:
    """Hyperspherical energy, against one Gram product and against the differences of all rows."""
    weight, small = (random_weight(shape, device) for shape in (size.large, size.narrow))
    gram = in_turn(lambda: measure_energy(weight), lambda: weight @ weight.T, repeats=size.repeats)
    naive = in_turn(lambda: measure_energy(small).sum, lambda: plain.energy(small), repeats=size.repeats)
    return [
        Row(
            "hyperspherical energy, in Gram products W W^T of float32",
            shape_name(weight),
            [1 / ratio for ratio in gram.ratios()],
            goal=Goal(1.5, at_least=False),
            fast=statistics.median(gram.fast),
            plain=statistics.median(gram.plain),
        ),
        Row(
            "hyperspherical energy, against differences of rows",
            shape_name(small),
            naive.ratios(),
            fast=statistics.median(naive.fast),
            plain=statistics.median(naive.plain),
            difference=abs(naive.fast_result / naive.plain_result - 1),
        ),
    ]


def projection(size: Size, device: torch.device) -> list[Row]:
    """Principal directions and the projection, against the d_in x d_in matrices that define them."""
    weight = random_weight(size.narrow, device)
    update = random_weight(size.narrow, device, seed=1).double()
    spectral = in_turn(
        lambda: principal_directions(weight, eta=ETA),
        lambda: plain.principal_directions(weight, eta=ETA),
        repeats=size.repeats,
    )
    directions = spectral.fast_result
    projected = in_turn(
        lambda: sparse_projection(update, directions, alpha=ALPHA),
        lambda: plain.projection(update, directions, alpha=ALPHA),
        repeats=size.repeats,
    )
    same = difference(projected.fast_result, plain.projection(update, spectral.plain_result, alpha=ALPHA))
    return [
        Row(
            f"{what}, {directions.shape[1]} directions",
            shape_name(weight),
            timed.ratios(),
            fast=statistics.median(timed.fast),
            plain=statistics.median(timed.plain),
            difference=same,
        )
        for what, timed in (("principal directions", spectral), ("projection of an update", projected))
    ]


def shares(workload: Workload, size: Size, device: torch.device) -> tuple[list[Row], list[Series]]:
    """Projection and energy as shares of a batch of 100 edits at Llama3-8B's shapes.

    Both are timed, the projection on matrices of ``size.matrix`` and scaled by its operations. The rest of the batch is
    counted, and taken to run as fast as a square matrix product does here. It cannot run faster, so the shares are
    upper bounds.
    """
    weight, update = (random_weight(size.matrix, device, seed=seed) for seed in (0, 1))
    update = update.double()
    directions = principal_directions(weight, eta=ETA)
    d_out, d_in = size.matrix
    config, settings = LLAMA3_8B, load_study("paper", root=CONFIG).models["llama3-8b-instruct"]
    wide = round(directions.shape[1] / d_out * config.hidden_size)

    def count(requests: int) -> dict[str, Phase]:
        return edit_operations(
            config,
            Lengths.of(workload.tokenizer, workload.texts.requests[:requests], workload.contexts),
            layers=settings.layers,
            steps=settings.values.steps,
            directions=wide,
            kept=round(KEPT * config.intermediate_size),
        )

    counted, single = count(100), count(1)
    narrow = torch.bfloat16 if device.type == "cuda" else torch.float32
    rates = matmul_rate(narrow, device), matmul_rate(torch.float64, device)
    rest = sum(counted[phase].model / rates[0] + counted[phase].float64 / rates[1] for phase in REST)
    large = random_weight(size.large, device)
    timed = in_turn(
        lambda: sparse_projection(update, directions, alpha=ALPHA), lambda: measure_energy(large), repeats=size.repeats
    )
    projected = counted["projection"].float64 / projection_operations(d_out, d_in, directions.shape[1])
    rows = [
        Row(
            f"{what}, share of a batch of 100 edits at most",
            f"Llama3-8B shapes, timed on {shape_name(on)}",
            [100 * scale * each / (rest + scale * each) for each in times],
            unit="%",
            goal=Goal(bound, at_least=False),
            fast=scale * statistics.median(times),
            note=f"{note}the rest counted as {rest:.3g} s",
        )
        for what, on, times, scale, bound, note in (
            ("projection", weight, timed.fast, projected, 0.5, f"{wide} directions, "),
            ("energy", large, timed.plain, len(settings.layers), 1.0, ""),
        )
    ]
    every, one = list(counted.values()), list(single.values())
    phases = [
        Series(what, "phase of a batch of 100 edits at Llama3-8B shapes", list(counted), costs, unit="counted")
        for what, costs in (
            ("10^12 operations in the model's dtype", [phase.model / 1e12 for phase in every]),
            ("10^12 operations in float64", [phase.float64 / 1e12 for phase in every]),
            ("10^12 bytes at least", [phase.bytes / 1e12 for phase in every]),
            ("operations a byte", [phase.intensity for phase in every]),
            ("operations a byte, one request at a time", [phase.intensity for phase in one]),
        )
    ]
    return rows, phases


def difference(got: Tensor, expected: Tensor) -> float:
    """Largest entry of the difference over the largest of what is expected."""
    return float((got - expected).abs().max() / expected.abs().max())


def random_weight(shape: tuple[int, int], device: torch.device, seed: int = 0) -> Tensor:
    """A float32 matrix (d_out, d_in) of independent normal entries."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(device)


def shape_name(weight: Tensor) -> str:
    return f"{weight.shape[0]} x {weight.shape[1]}"
