"""A results folder with made-up numbers whose answers are known: what tables, figures and claims are tested on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

METRICS = ("efficacy", "generalization", "specificity")
# method -> (share of accuracy lost per 100 edits, percent of HE gained per batch)
DECAY = {
    "ft": (0.30, 2.0), "rome": (0.22, 1.5), "memit": (0.25, 1.2), "memit-seq": (0.12, 0.4), "prune": (0.18, 0.7),
    "rect": (0.20, 0.9), "revive": (0.15, 0.6), "encore": (0.10, 0.3), "alphaedit": (0.08, 0.1), "sphere": (0.02, 0.02),
    "memit+sphere": (0.15, 0.5), "prune+sphere": (0.09, 0.3), "rotate": (0.04, 0.0), "memit-seq+scatter": (0.12, 9.0),
}  # fmt: skip
TASKS = {
    "world_reasoning": "reasoning",
    "world_nli": "nli",
    "world_open_qa": "open_domain_qa",
    "world_closed_qa": "closed_domain_qa",
}


def study(**changes: Any) -> dict[str, Any]:
    """What `gather` needs to know of a study; keywords replace its entries."""
    whole = {
        "models": ["tiny"], "datasets": ["counterfact", "zsre"], "methods": ["memit", "alphaedit", "sphere"],
        "seeds": [0, 1, 2], "checkpoints": [20, 40, 60, 80, 100], "batch_size": 20,
    }  # fmt: skip
    return {**whole, **changes}


def make_results(root: Path, scope: dict[str, Any]) -> Path:
    """Write every CSV of the study under `root` and return it."""
    for seed in scope["seeds"]:
        skipped = pd.DataFrame({"case_id": [3, 5, 8], "reason": ["its subject is empty", "no target", "no target"]})
        save(skipped, root / "streams" / "zsre" / f"seed{seed}_skipped.csv")
        save(skipped[:0], root / "streams" / "counterfact" / f"seed{seed}_skipped.csv")
    for model in scope["models"]:
        save(general_ability(0.8), root / model / "pre-edited" / "general_ability.csv")
        save(neutral(0.0)[:1], root / model / "pre-edited" / "neutral.csv")
        steps = np.arange(0, 701, 50)
        curve = {"step": steps, "loss": 7 * np.exp(-steps / 120) + 0.9, "lr": 2e-3,
                 "fact_accuracy": np.where(steps % 100 == 0, 1 - np.exp(-((steps / 350) ** 3)), np.nan)}  # fmt: skip
        save(pd.DataFrame(curve), root / model / "training.csv")
        save(layer_effects(), root / model / "locate" / "effects.csv")
        save(layer_sets(), root / model / "locate" / "sets.csv")
        for dataset in scope["datasets"]:
            save(editing(20, {"efficacy": 0.01, "generalization": 0.02, "specificity": 0.9}, dataset, seed=99),
                 root / model / dataset / "pre-edited" / "editing.csv")  # fmt: skip
            for anchor in scope.get("in_context", ()):
                told = {"efficacy": 0.9, "generalization": 0.8, "specificity": 0.4}
                save(editing(20, told, dataset, seed=98), root / model / dataset / anchor / "editing.csv")
            for method in scope["methods"]:
                for seed in scope["seeds"]:
                    make_stream(root / model / dataset / method / f"seed{seed}", dataset, method, seed, scope)
    return root


def make_stream(folder: Path, dataset: str, method: str, seed: int, scope: dict[str, Any]) -> None:
    rng = np.random.default_rng([seed, len(method), len(dataset)])
    decay, growth = DECAY[method.split("@")[0]]
    energy, done = 100.0, 0
    for k in sorted(scope["checkpoints"]):
        rows, times = [], []
        if done == 0:
            rows += [energy_row(0, 0, layer, energy, 0.0) for layer in (0, 1)]
        for edits in range(done + scope["batch_size"], k + 1, scope["batch_size"]):
            batch = edits // scope["batch_size"]
            before, energy = energy, energy * (1 + growth / 100 * rng.uniform(0.3, 1.7))
            rows += [energy_row(edits, batch, layer, energy, energy - before) for layer in (0, 1)]
            spent = {"targets": 9.0, "solve": 0.5, "projection": 0.5 * ("sphere" in method), "energy": 50.0}
            times += [
                {"edits": edits, "batch": batch, "phase": phase, "seconds": seconds} for phase, seconds in spent.items()
            ]
        done = k
        left = max(0.0, 1 - decay * k / 30 * rng.uniform(0.9, 1.1))
        scores = {"efficacy": 0.95 * left, "generalization": 0.7 * left, "specificity": 0.9 * left}
        save(editing(k, scores, dataset, seed=seed), folder / f"edits{k}" / "editing.csv")
        save(pd.DataFrame(rows), folder / f"edits{k}" / "energy.csv")
        save(pd.DataFrame(times), folder / f"edits{k}" / "timing.csv")
        operations = 4e9 * (1 + ("sphere" in method))
        cost = {"edits": k, "operations": operations, "peak_memory": 2**30 + k * 2**20, "peak_device_memory": np.nan}
        kept = {"weights": 2**21, "kept": 2**20 * (method != "memit")}
        save(pd.DataFrame([cost | kept]), folder / f"edits{k}" / "cost.csv")
        save(neutral(1 - left), folder / f"edits{k}" / "neutral.csv")
        save(general_ability(0.8 * (0.3 + 0.7 * left)), folder / f"edits{k}" / "general_ability.csv")


def energy_row(edits: int, batch: int, layer: int, energy: float, change: float) -> dict[str, float]:
    pairs = 100 * 99
    bound = (change / 50) ** 2
    return {
        "edits": edits, "batch": batch, "layer": layer, "he_sum": energy * pairs, "he_mean": energy + layer,
        "delta_he": change * pairs, "theorem_k": 50.0, "perturbation": np.nan if batch == 0 else 2 * bound + 1e-6,
        "unit_perturbation": np.nan if batch == 0 else 3 * bound + 1e-6,
        "bound": bound, "update_norm": 0.1 * batch, "weight_norm": 10.0,
        "editable_share": np.nan,
    }  # fmt: skip


def editing(n: int, scores: dict[str, float], dataset: str, *, seed: int) -> pd.DataFrame:
    """n records of 0 and 1 whose mean is the score, rounded to a record."""
    frame = pd.DataFrame({"case_id": np.arange(n)})
    for family in ("success", "accuracy", "token_accuracy"):
        for metric in METRICS:
            values = (np.arange(n) < round(scores[metric] * n)).astype(float)
            frame[f"{family}_{metric}"] = np.nan if (family, dataset) == ("success", "zsre") else values
    for metric in METRICS:  # every second record was asked, and half of those that are accurate are strictly so
        asked = (np.arange(n) % 2 == 0) & (dataset != "zsre")
        frame[f"strict_{metric}"] = np.where(asked, frame[f"accuracy_{metric}"] * (np.arange(n) % 4 == 0), np.nan)
        frame[f"belief_{metric}"] = np.nan if dataset == "zsre" else 10 * scores[metric] - 3
    hops = (np.arange(n) % 5 == 0) & (dataset != "zsre")
    frame["portability_two_hop"] = np.where(hops, frame["accuracy_efficacy"], np.nan)
    first = np.arange(n) < 10
    rng = np.random.default_rng(seed)
    frame["fluency"] = np.where(first & (dataset != "zsre"), 600 + rng.normal(0, 5, n), np.nan)
    frame["consistency"] = np.where(first & (dataset != "zsre"), 0.3 + rng.normal(0, 0.01, n), np.nan)
    return frame


def general_ability(level: float) -> pd.DataFrame:
    rows = [{"task": task, "family": family, "metric": "acc", "value": level - 0.05 * i, "stderr": 0.02, "n": 100}
            for i, (task, family) in enumerate(TASKS.items())]  # fmt: skip
    return pd.DataFrame(rows)


def perplexity(value: float) -> pd.DataFrame:
    """Bits a byte of held-out text, as a task of general_ability.csv."""
    row = {"task": "corpus_perplexity", "family": "perplexity", "metric": "bits_per_byte", "value": value}
    return pd.DataFrame([row | {"stderr": 0.03, "n": 8}])


def add_perplexity(root: Path, of: Callable[[str, int], float]) -> None:
    """Add it to every general_ability.csv of a study: ``of`` the method ("pre-edited") and the edits made."""
    for path in root.rglob("general_ability.csv"):
        *_, method, seed, edits = path.parent.parts
        value = of(method, int(edits.removeprefix("edits"))) if seed.startswith("seed") else of(edits, 0)
        save(pd.concat([pd.read_csv(path), perplexity(value)]), path)


def neutral(lost: float) -> pd.DataFrame:
    """Bits a byte and drift of a model that has lost so much."""
    rows = [("bits_per_byte", 1 + lost, 0.02, 8), ("kl", lost / 2, 0.01, 8), ("top1", 1 - lost, 0.03, 8)]
    return pd.DataFrame(rows, columns=["metric", "value", "stderr", "n"])


def layer_effects() -> pd.DataFrame:
    """Of six layers; the third carries most."""
    effect = [0.1, 0.2, 0.3, 0.1, 0.0, 0.0]
    return pd.DataFrame({"layer": range(6), "effect": effect, "stderr": 0.02, "n": 8, "window": 2})


def layer_sets() -> pd.DataFrame:
    """Three sets; the study edits the second, and the first would be better."""
    scores = {"efficacy": [1.0, 0.75, 0.5], "generalization": [0.8, 0.5, 0.25], "specificity": [0.9, 0.9, 0.9]}
    frame = pd.DataFrame({"layers": ["0,1", "1,2", "3,4"], **scores})
    means = 3 / sum(1 / frame[metric] for metric in METRICS)
    return frame.assign(score=means, method="alphaedit", n=8, edited=[False, True, False])


def weights(n: int = 60, d: int = 40) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """An original weight (n, d) and three edited ones, each further from it than the one before."""
    rng = np.random.default_rng(0)
    original = rng.normal(size=(n, d)) + 0.5 * rng.normal(size=d)
    shift = np.outer(rng.normal(size=n), rng.normal(size=d))
    sizes = {"sphere": 0.05, "alphaedit": 0.3, "memit": 3.0}
    return original, {method: original + size * shift for method, size in sizes.items()}


def save(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)
