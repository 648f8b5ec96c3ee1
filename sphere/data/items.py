"""Multiple-choice items and passages, written as tasks of lm-evaluation-harness over local JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sphere.files import write_text

Item = dict[str, Any]


def item(text: str, answer: str, wrong: Sequence[str], rng: np.random.Generator) -> Item:
    """A text that one of its shuffled choices continues: ``answer``."""
    choices = [str(choice) for choice in rng.permutation([answer, *wrong])]
    return {"text": text, "choices": choices, "label": choices.index(answer), "answer": answer}


def write_tasks(tasks: Mapping[str, Sequence[Item]], folder: Path) -> None:
    """Write folder/NAME.jsonl and folder/NAME.yaml of every task."""
    for name, items in tasks.items():
        _write(
            name,
            items,
            folder,
            output_type="multiple_choice",
            doc_to_text="{{text}}",
            doc_to_choice="{{choices}}",
            doc_to_target="{{label}}",
            target_delimiter=" ",
            metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        )


def write_passages(name: str, passages: Sequence[str], folder: Path) -> None:
    """Write a task that asks for the likelihood of whole passages, in bits a byte of UTF-8."""
    _write(
        name,
        [{"text": passage} for passage in passages],
        folder,
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="text",
        metric_list=[{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    )


def _write(name: str, items: Sequence[Item], folder: Path, **asked: Any) -> None:
    lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in items)
    write_text(lines, folder / f"{name}.jsonl")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        **asked,
        "metadata": {"version": 1.0},
    }
    write_text(yaml.safe_dump(task, sort_keys=False), folder / f"{name}.yaml")
