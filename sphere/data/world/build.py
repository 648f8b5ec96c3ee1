"""The world's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sphere.config.world import WorldSettings
from sphere.data.items import write_tasks
from sphere.data.world.corpus import documents, probes
from sphere.data.world.people import Role, create
from sphere.data.world.records import records, reference_texts
from sphere.data.world.tasks import task_items
from sphere.files import write_atomically


def build(settings: WorldSettings, out: Path) -> None:
    """Write the world's files under ``out``: corpus, probes, edit records, reference texts and tasks."""
    world = create(settings)
    rng = np.random.default_rng([settings.seed, 2])
    corpus = list(documents(world, count=settings.documents, rng=rng))
    _write_text(out / "corpus.txt", "\n\n".join(corpus) + "\n")
    prefixes: dict[Role, str] = {"test": "", "tuning": "tuning_"}
    for role, prefix in prefixes.items():
        counterfact, zsre = records(world, role)
        _write_json(out / f"{prefix}counterfact.json", counterfact)
        _write_json(out / f"{prefix}zsre.json", zsre)
    _write_json(out / "references.json", reference_texts(world))
    _write_json(out / "probes.json", probes(world))
    write_tasks(task_items(world), out / "tasks")


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


def _write_json(path: Path, value: Any) -> None:
    _write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")
