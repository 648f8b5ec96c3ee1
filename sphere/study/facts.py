"""The job that asks a model which facts it knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sphere.config.facts import FactsSettings
from sphere.data.facts.tables import FOLDER, drawn, load_relations
from sphere.evaluation.knowledge import ask
from sphere.files import write_csv
from sphere.models.loading import load


def find_known(
    model: Path, settings: FactsSettings, *, load_settings: Mapping[str, Any], part: int, parts: int, out: Path
) -> None:
    """Write one row a fact of the study's relations, with whether the model in the folder ``model`` knows it.

    Of every ``parts`` facts in a row, number ``part``: ``build`` puts them together again.
    """
    relations = load_relations(settings.relations, folder=settings.tables or FOLDER)
    loaded = load(model, **load_settings)
    facts = drawn(relations, settings.asked, np.random.default_rng([settings.seed, 4]))[part::parts]
    found = ask(loaded.model, loaded.tokenizer, relations, facts, share=settings.share)
    write_csv(found, out)
    print(f"{out}: {int(found['known'].sum())} of {len(found)} facts are known", flush=True)
