"""Which statements make a model say what it knows: python benchmarks/templates.py MODEL [FACTS]

For each relation of sphere/data/facts, a Markdown table of the share of FACTS of its facts (40, drawn by a seed) whose
object the model puts first behind each statement, those that are taken and those that were only tried. The facts are of
the tables that studies draw from, so the shares say how to ask, not what an edit does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from sphere.data.facts.tables import Relation, load_relations, said
from sphere.evaluation.metrics import score_targets
from sphere.models.loading import LoadedModel, load


def shares(loaded: LoadedModel, relation: Relation, count: int) -> list[tuple[float, bool, str]]:
    """(share, whether it is taken, statement) of every statement of ``relation``, the best first."""
    facts = relation.facts
    chosen = np.random.default_rng(0).permutation(len(facts))[:count]
    found = []
    for taken, statements in ((True, relation.file.statements), (False, relation.file.others)):
        for statement in statements:
            pairs = [(said(statement, facts[i].subject), facts[i].object) for i in chosen]
            scores = score_targets(loaded.model, loaded.tokenizer, pairs)
            found.append((float(np.mean([all(score.matches) for score in scores])), taken, statement))
    return sorted(found, key=lambda each: (-each[0], not each[1]))


def main(model: Path, count: int = 40) -> None:
    """Print the table of all relations."""
    loaded = load(model)
    print("| relation | statement | taken | share |\n| --- | --- | --- | ---: |")
    for name, relation in load_relations().items():
        for share, taken, statement in shares(loaded, relation, count):
            print(f"| {name} | {statement} | {'yes' if taken else ''} | {share:.2f} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
