"""The files of a study's facts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sphere.config.facts import FactsSettings
from sphere.data.facts.records import divide, first, records, require
from sphere.data.facts.tables import FOLDER, Fact, counted, load_relations
from sphere.data.facts.tasks import task_items
from sphere.data.items import write_tasks
from sphere.files import write_csv, write_json

COLUMNS = ("relation", "facts", "asked", "rewrite", "known", "edited", "held_out", "kept")


def build(known: Sequence[Path], settings: FactsSettings, out: Path, *, edits: int) -> None:
    """Write records of ``edits`` facts that the parts of ``known`` say are known, known.csv, relations.csv and tasks.

    The parts take turns, as they were dealt (``sphere.study.facts``). Every order of a stream is one of the same
    records; with 0 ``edits`` there are tasks alone. Raises InputError, with how many facts of which relations there
    are, if fewer can be edited.
    """
    parts = [pd.read_csv(path, keep_default_na=False) for path in known]  # a subject may be called NA
    asked = pd.concat(parts).sort_index(kind="stable")
    write_csv(asked, out / "known.csv")
    known_facts = asked[asked["known"].astype(str) == "True"]
    facts = [Fact(*row) for row in known_facts[["relation", "subject", "object"]].itertuples(index=False)]
    relations = load_relations(settings.relations, folder=settings.tables or FOLDER)
    rng = np.random.default_rng([settings.seed, 1])
    one_to_one = [name for name, relation in relations.items() if relation.one_to_one]
    division = divide(facts, neighbours=settings.neighbours, held_out=settings.held_out, rng=rng, one_to_one=one_to_one)
    require(division, edits, facts, settings.neighbours)
    edited = first(division.edited, edits)
    for prefix, chosen, number in (("", edited, 0), ("tuning_", division.held_out, edits)):
        rng = np.random.default_rng([settings.seed, 2, number])
        counterfact, zsre = records(chosen, division.kept, relations, rng=rng, first_id=number)
        write_json(counterfact, out / f"{prefix}counterfact.json")
        write_json(zsre, out / f"{prefix}zsre.json")
    kept = [fact for own in division.kept.values() for fact in own]
    write_tasks(task_items(kept, relations, np.random.default_rng([settings.seed, 3])), out / "tasks")
    counts = {"known": facts, "edited": edited, "held_out": division.held_out, "kept": kept}
    given = asked[asked["rewrite"].astype(str) == "True"]
    table = pd.DataFrame({"relation": list(relations)})
    table["facts"] = [len(relation.facts) for relation in relations.values()]
    table["asked"] = table["relation"].map(asked.groupby("relation").size()).fillna(0).astype(int)
    table["rewrite"] = table["relation"].map(given.groupby("relation").size()).fillna(0).astype(int)
    for name, own in counts.items():
        table[name] = table["relation"].map(counted(own)).fillna(0).astype(int)
    write_csv(table[list(COLUMNS)], out / "relations.csv")
    print(f"{out}: " + ", ".join(f"{len(own)} facts {name}" for name, own in counts.items()), flush=True)
