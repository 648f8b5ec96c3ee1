"""Which layers to edit: causal tracing, and what a first batch reaches in sets of neighbouring layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sphere.config.model import EditSettings, StatisticsSettings
from sphere.config.tuning import LocateSettings
from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest, load_requests
from sphere.editing.contexts import Contexts
from sphere.editing.frozen import FrozenTargets
from sphere.editing.methods import resolve
from sphere.editing.stats import read_documents
from sphere.editing.tracing import Effects, default_window, trace
from sphere.errors import InputError
from sphere.files import write_csv
from sphere.models.adapters import adapter
from sphere.models.loading import LoadedModel, load
from sphere.progress import track
from sphere.study.own_model import prepare
from sphere.study.tune import METRICS, try_on

SETS = 5
"""Sets of layers that a first batch is made in, beside the one at the peak of the effect."""


@dataclass(frozen=True)
class Located:
    """Which layers to edit, and what says so."""

    effects: pd.DataFrame
    """``effect_table``'s."""
    window: int
    """Layers that are put back at once."""
    sets: pd.DataFrame | None
    """``first_batches``'; None where there was no text for key statistics."""
    layers: tuple[int, ...]
    said: str
    """Which layers to edit, and why, in one line."""


def locate_layers(
    loaded: LoadedModel,
    facts: Sequence[EditRequest],
    method: str,
    documents: Sequence[str],
    *,
    size: int,
    seed: int,
    others: Sequence[tuple[int, ...]] = (),
    on_effects: Callable[[pd.DataFrame, int], None] = lambda *_: None,
    **batch: Any,
) -> Located:
    """Trace ``facts``; with ``documents``, also edit them in one batch by ``method`` in sets of ``size`` layers.

    ``seed`` is the noise's. ``others`` are sets to try beside those; ``batch`` is passed to ``first_batches``, before
    which ``on_effects`` is called with the effects and their window. Raises InputError if there are not as many layers
    that can be edited.
    """
    parts = adapter(loaded.model)
    if size > parts.n_layers - 1:
        raise InputError(f"sets of {size} layers: the model has {parts.n_layers}, all but the last can be edited")
    window, generator = default_window(parts.n_layers), torch.Generator().manual_seed(seed)
    effects = effect_table(trace(parts, loaded.tokenizer, facts, window=window, generator=generator))
    on_effects(effects, window)
    peak, sets = up_to_peak(effects, size), None
    if documents:
        tried = sorted({*layer_sets(peak, parts.n_layers), *others})
        sets = first_batches(loaded, facts, method, tried, documents, **batch)
    return Located(effects, window, sets, *recommendation(effects, window, peak, sets))


def effect_table(effects: Effects) -> pd.DataFrame:
    """One row a layer: ``effect`` (mean indirect effect of the window around it), ``stderr`` and ``n`` facts."""
    found = effects.indirect
    n, depth = found.shape
    spread = found.std(0, correction=1) / n**0.5 if n > 1 else found[0] * float("nan")
    columns = {"layer": range(depth), "effect": found.mean(0).tolist(), "stderr": spread.tolist()}
    return pd.DataFrame(columns | {"n": n})


def up_to_peak(effects: pd.DataFrame, size: int) -> tuple[int, ...]:
    """The ``size`` layers that end where the effect peaks (MEMIT's choice); the last layer of all is none of them."""
    last = min(int(effects["effect"].to_numpy().argmax()), len(effects) - 2)
    last = max(last, size - 1)
    return tuple(range(last - size + 1, last + 1))


def layer_sets(peak: Sequence[int], depth: int) -> list[tuple[int, ...]]:
    """Sets of as many neighbouring layers as ``peak``, evenly spread over the depth, and ``peak`` itself."""
    size = len(peak)
    room = depth - 1 - size  # the last layer of all cannot be one's last
    starts = sorted({round(i * room / (SETS - 1)) for i in range(SETS)} | {peak[0]})
    return [tuple(range(start, start + size)) for start in starts if 0 <= start <= room]


def first_batches(
    loaded: LoadedModel,
    requests: Sequence[EditRequest],
    method: str,
    sets: Sequence[tuple[int, ...]],
    documents: Sequence[str],
    *,
    family: str = "accuracy",
    hyperparameters: Mapping[str, Any] | None = None,
    values: ValueSettings | None = None,
    text: StatisticsSettings | None = None,
) -> pd.DataFrame:
    """One row a set of layers: ``layers``, METRICS (the ``family``'s) after one batch of ``requests``, ``score``.

    With the default settings of what is not given (``text`` says how key statistics are taken of ``documents``), and
    target values at the bare prompts alone: sets are compared, no more.
    """
    text = text or StatisticsSettings(documents=max(1, len(documents)))
    values, chosen = values or ValueSettings(), resolve(method, hyperparameters=hyperparameters)
    rows = []
    for layers in track(sets, f"first batches by {method}"):
        edited = chosen.edited_layers(layers, values)
        statistics, spectra = prepare(loaded, chosen, edited, documents, text)
        (row,) = try_on(
            loaded,
            requests,
            [{}],
            method=method,
            hyperparameters=hyperparameters or {},
            layers=layers,
            values=values,
            contexts=Contexts(),
            statistics=statistics,
            spectra=spectra,
            targets=FrozenTargets(),
            evaluate_every=len(requests),
            batch_size=len(requests),
            seed=0,
            family=family,
        ).to_dict("records")
        found = {metric: row.get(metric, float("nan")) for metric in METRICS}
        rows.append({"layers": ",".join(map(str, layers)), **found, "score": row["score"]})
    return pd.DataFrame(rows)


def recommendation(
    effects: pd.DataFrame, window: int, peak: tuple[int, ...], sets: pd.DataFrame | None
) -> tuple[tuple[int, ...], str]:
    """Which layers to edit, and the same with its reason in one line."""
    top = effects.iloc[int(effects["effect"].to_numpy().argmax())]
    said = f"the effect of {window} layers peaks at layer {int(top['layer'])} ({top['effect']:.3f})"
    if sets is None or sets["score"].max() <= 0:
        why = "and they end there" if peak[-1] == int(top["layer"]) else "and they are the nearest that fit"
        return peak, f"edit layers {','.join(map(str, peak))}: {said}, {why}"
    best = sets.iloc[int(sets["score"].to_numpy().argmax())]
    layers = tuple(int(layer) for layer in best["layers"].split(","))
    return (
        layers,
        f"edit layers {best['layers']}: a first batch scores {best['score']:.3f} there, the most of all; {said}",
    )


def locate_for_study(
    model: Path,
    requests: Path,
    corpus: Path,
    *,
    locate: LocateSettings,
    hyperparameters: Mapping[str, Any],
    editing: EditSettings,
    text: StatisticsSettings,
    out_effects: Path,
    out_sets: Path,
) -> None:
    """Write what ``locate_layers`` finds with a study's settings; among the sets is the one that the study edits.

    The columns are ``EFFECTS`` and ``SETS_TRIED``.
    """
    loaded = load(model, **editing.load_settings())
    every = load_requests(requests).requests
    if len(every) < locate.records:
        raise InputError(f"{requests} has {len(every)} usable records, the study locates layers on {locate.records}")
    found = locate_layers(
        loaded,
        every[: locate.records],
        locate.method,
        read_documents(corpus),
        size=len(editing.layers),
        seed=locate.seed,
        others=[editing.layers],
        hyperparameters=hyperparameters,
        values=editing.values.model_copy(update={"weights": "current"}),  # of a first batch they are the same
        text=text,
    )
    print(found.said, flush=True)
    assert found.sets is not None
    own = found.sets["layers"] == ",".join(map(str, editing.layers))
    write_csv(found.effects.assign(window=found.window)[list(EFFECTS)], out_effects)
    sets = found.sets.assign(method=locate.method, n=locate.records, edited=own)
    write_csv(sets[list(SETS_TRIED)], out_sets)


EFFECTS = ("layer", "effect", "stderr", "n", "window")
SETS_TRIED = ("layers", *METRICS, "score", "method", "n", "edited")
