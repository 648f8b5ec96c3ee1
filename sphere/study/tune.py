"""Settings tried on held-out edits: a search, the same for every method, and the map over eta and alpha.

The score looks at the whole trial stream, not at its first batch alone: it is the mean, over evaluations along the
trial, of the harmonic mean of efficacy, generalization and specificity (accuracy family; those that the records have)
on all edits made so far. The tuning records' facts are none of the test stream's.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sphere.config.model import EditSettings
from sphere.config.tuning import SensitivitySettings, TuningSettings
from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest, load_requests
from sphere.editing.contexts import Contexts
from sphere.editing.frozen import FrozenTargets
from sphere.editing.loop import Editor
from sphere.editing.methods import resolve
from sphere.editing.spectra import Spectra
from sphere.editing.stats import Statistics
from sphere.errors import InputError, NumericalError
from sphere.evaluation.metrics import evaluate_requests
from sphere.files import write_csv, write_json
from sphere.models.adapters import adapter
from sphere.models.loading import LoadedModel, load
from sphere.progress import track

METRICS = ("efficacy", "generalization", "specificity")


def trials(grid: Mapping[str, Sequence[Any]], count: int, *, rng: np.random.Generator) -> list[dict[str, Any]]:
    """At most ``count`` settings out of the grid's product: all where there are no more, else drawn by ``rng``."""
    product = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if len(product) <= count:
        return product
    return [product[i] for i in sorted(rng.choice(len(product), size=count, replace=False))]


def score(frame: pd.DataFrame, family: str = "accuracy") -> float:
    """Harmonic mean of the means of a family's three metrics; 0 as soon as one of them is.

    Of those that the records have: MQuAKE's and RippleEdits' bring no neighbourhood prompts.
    """
    measured = [frame[f"{family}_{metric}"].dropna() for metric in METRICS]
    means = [float(values.mean()) for values in measured if len(values)]
    return len(means) / sum(1 / mean for mean in means) if means and min(means) > 0 else 0.0


def tune(
    model_dir: Path,
    requests: Path,
    *,
    method: str,
    hyperparameters: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    tuning: TuningSettings,
    batch_size: int,
    out_chosen: Path,
    out_trials: Path,
    **needs: Any,
) -> None:
    """Write the best trial's hyperparameters (JSON) and all trials (CSV) of ``method`` on one model.

    A trial that diverges scores 0. Ties go to the earlier trial. Raises InputError if every trial scores 0.
    ``needs`` is passed to ``try_settings``.
    """
    candidates = trials(grid, tuning.trials, rng=np.random.default_rng([tuning.seed, 11]))
    frame = try_settings(
        model_dir,
        requests,
        candidates,
        method=method,
        hyperparameters=hyperparameters,
        edits=tuning.edits,
        evaluate_every=tuning.evaluated_every(batch_size),
        batch_size=batch_size,
        seed=tuning.seed,
        **needs,
    )
    best = int(frame["score"].to_numpy().argmax())
    if frame["score"].iloc[best] <= 0:
        raise InputError(f"no trial of {method} edits anything: widen tuning_grid.{method} in the model's file")
    write_csv(frame, out_trials)
    chosen = {"method": method, "hyperparameters": candidates[best], "score": float(frame["score"].iloc[best])}
    write_json(chosen, out_chosen)


def map_sensitivity(
    model_dir: Path,
    requests: Path,
    *,
    sensitivity: SensitivitySettings,
    out: Path,
    **needs: Any,
) -> None:
    """Write one row (CSV) for every pair of eta and alpha, in the order of rows of the paper's map.

    Evaluated after the last edit only. Pairs of which one is 0 project nothing, so one edit of them stands for all.
    ``needs`` is passed to ``try_settings``.
    """
    pairs = [{"eta": eta, "alpha": alpha} for eta in sensitivity.eta for alpha in sensitivity.alpha]
    kinds = [(pair["eta"], pair["alpha"]) if pair["eta"] and pair["alpha"] else None for pair in pairs]
    distinct = dict(zip(kinds, pairs, strict=True))
    tried = try_settings(
        model_dir,
        requests,
        list(distinct.values()),
        method=sensitivity.method,
        edits=sensitivity.edits,
        evaluate_every=sensitivity.edits,
        seed=0,
        **needs,
    )
    found = dict(zip(distinct, tried.to_dict("records"), strict=True))
    rows = [{**found[kind], **pair, "trial": i} for i, (kind, pair) in enumerate(zip(kinds, pairs, strict=True))]
    write_csv(pd.DataFrame(rows), out)


def try_settings(
    model_dir: Path,
    requests: Path,
    candidates: Sequence[Mapping[str, Any]],
    *,
    method: str,
    hyperparameters: Mapping[str, Any],
    edits: int,
    evaluate_every: int,
    editing: EditSettings,
    contexts: Path,
    statistics: Path,
    spectra: Sequence[Path],
    targets: Sequence[Path] = (),
    batch_size: int,
    seed: int,
) -> pd.DataFrame:
    """Edit the first ``edits`` records once with each candidate over ``hyperparameters``, from the pretrained weights.

    As ``try_on``, from files.
    """
    loaded = load(model_dir, **editing.load_settings())
    place = adapter(loaded.model).device
    every = load_requests(requests).requests
    if len(every) < edits:
        raise InputError(f"{requests} has {len(every)} usable records, the study asks for {edits} held-out edits")
    return try_on(
        loaded,
        every[:edits],
        candidates,
        method=method,
        hyperparameters=hyperparameters,
        layers=editing.layers,
        values=editing.values,
        contexts=Contexts.read(contexts),
        statistics=Statistics.load(statistics, device=place),
        spectra=Spectra.load(spectra, device=place),
        targets=FrozenTargets.load(targets),
        evaluate_every=evaluate_every,
        batch_size=batch_size,
        seed=seed,
    )


def try_on(
    loaded: LoadedModel,
    stream: Sequence[EditRequest],
    candidates: Sequence[Mapping[str, Any]],
    *,
    method: str,
    hyperparameters: Mapping[str, Any],
    layers: Sequence[int],
    values: ValueSettings,
    contexts: Contexts,
    statistics: Statistics | None,
    spectra: Spectra,
    targets: FrozenTargets,
    evaluate_every: int,
    batch_size: int,
    seed: int,
    family: str = "accuracy",
) -> pd.DataFrame:
    """Edit ``stream`` once with each candidate over ``hyperparameters``, from the model's weights, and put them back.

    One row a candidate: trial, the candidate's settings, METRICS (the ``family``'s) after the last edit, ``score`` (the
    mean of ``score`` over the evaluations, one every ``evaluate_every`` edits; 0 with a ``note`` if it diverged).
    """
    parts, edits = adapter(loaded.model), len(stream)
    pretrained = {i: parts.weight(i).clone() for i in range(parts.n_layers)}
    rows: list[dict[str, Any]] = []
    for number, candidate in enumerate(
        track(candidates, f"settings of {method}") if len(candidates) > 1 else candidates
    ):
        for i, weight in pretrained.items():
            parts.set_weight(i, weight)
        editor = Editor(
            loaded.model,
            loaded.tokenizer,
            resolve(method, hyperparameters={**hyperparameters, **candidate}),
            layers=layers,
            values=values,
            contexts=contexts,
            statistics=statistics,
            spectra=spectra,
            targets=targets,
            seed=seed,
            energy_every=edits + 1,
        )
        row: dict[str, Any] = {"trial": number, **candidate}
        scores: list[float] = []
        try:
            for start in range(0, edits, evaluate_every):
                editor.run(stream[start : start + evaluate_every], batch_size=batch_size)
                frame = evaluate_requests(loaded.model, loaded.tokenizer, stream[: start + evaluate_every])
                scores.append(score(frame, family))
                row |= {metric: float(frame[f"{family}_{metric}"].mean()) for metric in METRICS}
        except NumericalError as error:
            row["note"] = str(error)
            scores = [0.0]
        rows.append({**row, "score": float(np.mean(scores))})
    for i, weight in pretrained.items():
        parts.set_weight(i, weight)
    return pd.DataFrame(rows)
