"""Multiple-choice items, written as tasks of lm-evaluation-harness over local JSON lines."""

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
        lines = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in items)
        write_text(lines, folder / f"{name}.jsonl")
        write_text(_task_yaml(name, f"{name}.jsonl"), folder / f"{name}.yaml")


def _task_yaml(task: str, data: str) -> str:
    return yaml.safe_dump(
        {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": data}},
            "output_type": "multiple_choice",
            "test_split": "test",
            "doc_to_text": "{{text}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{label}}",
            "target_delimiter": " ",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        },
        sort_keys=False,
    )
