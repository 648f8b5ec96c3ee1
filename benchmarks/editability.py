"""Where can a model be edited? First-batch metrics for sets of layers and clamps, on the tuning records.

    python benchmarks/editability.py results/embedded/embedded results/embedded/world

prints the table of docs/embedded-model.md. The target-value loss tells whether the last edited layer lies before the
model reads the fact from the subject; the other columns are the accuracy family after one batch.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from sphere.config.values import ValueSettings
from sphere.data.records import load_requests
from sphere.editing.contexts import Contexts
from sphere.editing.loop import Editor
from sphere.editing.methods import resolve
from sphere.editing.stats import collect_statistics, read_documents
from sphere.editing.values import target_values
from sphere.evaluation.metrics import evaluate_requests
from sphere.models.adapters import adapter
from sphere.models.loading import load

METHODS = {"memit-seq": {"second_moment_weight": 50}, "alphaedit": {"nullspace_fraction": 0.8, "ridge": 1}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder with model/ and contexts.json")
    parser.add_argument("world", type=Path, help="folder with corpus.txt and the tuning records")
    parser.add_argument("--layers", nargs="+", default=["0", "1", "2", "0,1", "0,1,2"])
    parser.add_argument("--clamps", nargs="+", type=float, default=[0.75, 1.5, 3.0])
    parser.add_argument("--edits", type=int, default=20)
    parser.add_argument("--dataset", choices=["counterfact", "zsre"], default="counterfact")
    given = parser.parse_args()
    loaded = load(given.model / "model", device="cpu")
    parts = adapter(loaded.model)
    contexts = Contexts.read(given.model / "contexts.json")
    requests = load_requests(given.world / f"tuning_{given.dataset}.json").requests[: given.edits]
    documents = read_documents(given.world / "corpus.txt")[-2000:]
    pretrained = {i: parts.weight(i).clone() for i in range(parts.n_layers)}
    moments = collect_statistics(parts, loaded.tokenizer, documents, range(parts.n_layers - 1))
    print("| layers | clamp | method | median loss of z | efficacy | generalization | specificity |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for names, clamp in itertools.product(given.layers, given.clamps):
        layers = [int(name) for name in names.split(",")]
        values = ValueSettings(clamp_norm_factor=clamp)
        for i, weight in pretrained.items():
            parts.set_weight(i, weight)
        found = target_values(parts, loaded.tokenizer, requests, contexts, layer=layers[-1], settings=values)
        for method, settings in METHODS.items():
            for i, weight in pretrained.items():
                parts.set_weight(i, weight)
            editor = Editor(
                loaded.model,
                loaded.tokenizer,
                resolve(method, hyperparameters=settings),
                layers=layers,
                values=values,
                contexts=contexts,
                statistics=moments,
            )
            editor.run(requests, batch_size=len(requests))
            frame = evaluate_requests(loaded.model, loaded.tokenizer, requests)
            shown = " | ".join(
                f"{frame[f'accuracy_{m}'].mean():.3f}" for m in ("efficacy", "generalization", "specificity")
            )
            print(f"| {names} | {clamp:g} | {method} | {found.losses.median():.2f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
