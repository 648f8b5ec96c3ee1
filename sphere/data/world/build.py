"""The world's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sphere.config.world import WorldSettings
from sphere.data.items import write_tasks
from sphere.data.world.corpus import documents, probes
from sphere.data.world.people import Role, create
from sphere.data.world.records import records, reference_texts
from sphere.data.world.tasks import task_items
from sphere.files import write_json, write_text


def build(settings: WorldSettings, out: Path) -> None:
    """Write the world's files under ``out``: corpus, probes, edit records, reference texts and tasks."""
    world = create(settings)
    rng = np.random.default_rng([settings.seed, 2])
    corpus = list(documents(world, count=settings.documents, rng=rng))
    write_text("\n\n".join(corpus) + "\n", out / "corpus.txt")
    prefixes: dict[Role, str] = {"test": "", "tuning": "tuning_"}
    for role, prefix in prefixes.items():
        counterfact, zsre = records(world, role)
        write_json(counterfact, out / f"{prefix}counterfact.json")
        write_json(zsre, out / f"{prefix}zsre.json")
    write_json(reference_texts(world), out / "references.json")
    write_json(probes(world), out / "probes.json")
    write_tasks(task_items(world), out / "tasks")
