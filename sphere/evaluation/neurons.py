"""How an edit changes the cosines between neurons (rows of an edited weight), and a sample of rows to draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import save_file

from sphere.config.names import STREAM
from sphere.errors import InputError
from sphere.files import write_atomically, write_csv

Weight = NDArray[np.floating[Any]]  # (d_out, d_in), rows are neurons
Weights = Mapping[int, Weight]  # by layer
COLUMNS = (*STREAM, "layer", "cosine_change")
ORIGINAL = "original"
SAMPLED_ROWS = 128


def cosine_matrix(weight: Weight) -> NDArray[np.float64]:
    """Cosines between the rows of `weight` (n, d): (n, n). A zero row has cosine 0 with every row."""
    rows = unit_rows(weight)
    return np.clip(rows @ rows.T, -1.0, 1.0)


def unit_rows(weight: Weight) -> NDArray[np.float64]:
    """Rows scaled to unit length, float64; a zero row stays zero."""
    rows = np.asarray(weight, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def cosine_change(original: Weight, edited: Weight, *, block: int = 1024) -> float:
    """Mean over ordered pairs i != j of |cos'(i, j) - cos(i, j)|, in [0, 2]; both weights (d_out, d_in).

    Taken `block` rows at a time, so memory stays at a few block x d_out matrices.
    """
    if original.shape != edited.shape:
        raise InputError(f"weights of shape {original.shape} and {edited.shape} differ: compare the same layer")
    before, after, n = unit_rows(original), unit_rows(edited), len(original)
    total = 0.0
    for start in range(0, n, block):
        change = np.abs(after[start : start + block] @ after.T - before[start : start + block] @ before.T)
        own = np.arange(len(change))
        change[own, start + own] = 0.0
        total += float(change.sum())
    return total / (n * (n - 1)) if n > 1 else float("nan")


def gather_neurons(
    tables: Path, originals: Mapping[str, Weights], edited: Iterable[tuple[Mapping[str, Any], Weights]]
) -> None:
    """Write neuron_cosine.csv (one row a stream and layer) and neurons.safetensors (sampled rows, to be drawn).

    `originals` gives each model's pretrained weights by layer, and `edited` yields (names, weights by layer) with
    names = {model, dataset, method, seed, edits}; it may be a generator, since one set is looked at at a time.
    Rows are sampled evenly from the last edited layer of the first stream of each model, dataset and method.
    """
    rows: list[dict[str, Any]] = []
    kept: dict[str, NDArray[np.float32]] = {}
    sampled: set[tuple[str, ...]] = set()
    for names, weights in edited:
        original = originals[names["model"]]
        for layer in sorted(weights):
            change = cosine_change(original[layer], weights[layer])
            rows.append({**{key: names[key] for key in STREAM}, "layer": layer, "cosine_change": change})
        last, stream = max(weights), tuple(names[key] for key in ("model", "dataset", "method"))
        if stream not in sampled:
            sampled.add(stream)
            for label, weight in ((ORIGINAL, original[last]), (names["method"], weights[last])):
                kept["/".join([*stream[:2], str(last), label])] = _sample(weight)
    tables.mkdir(parents=True, exist_ok=True)
    write_csv(pd.DataFrame(rows, columns=list(COLUMNS)), tables / "neuron_cosine.csv")
    with write_atomically(tables / "neurons.safetensors") as path:
        save_file(kept, path)


def _sample(weight: Weight) -> NDArray[np.float32]:
    rows = np.unique(np.linspace(0, len(weight) - 1, min(SAMPLED_ROWS, len(weight))).astype(int))
    return np.ascontiguousarray(weight[rows], dtype=np.float32)
