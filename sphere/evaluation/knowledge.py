"""Which facts a model knows: the object is what it puts first behind the rewrite prompt, and most paraphrases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sphere.data.facts.tables import Fact, Relation
from sphere.evaluation.metrics import score_targets
from sphere.models.batching import DEFAULT_TOKEN_BUDGET

COLUMNS = ("relation", "subject", "object", "rewrite", "paraphrases", "known")


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    relations: Mapping[str, Relation],
    facts: Sequence[Fact],
    *,
    share: float = 0.5,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
) -> pd.DataFrame:
    """One row a fact of ``facts``, with the columns ``COLUMNS``.

    They say whether the rewrite prompt gives its object, and the share of paraphrases that give it or one of its
    aliases (NaN where the rewrite prompt did not).

    A text gives an object if every token of it is the likeliest after what stands before (the ``accuracy`` family).
    A fact is ``known`` if the rewrite prompt and at least ``share`` of the paraphrases give it.
    """
    pairs = [(relations[fact.relation].statement(fact.subject), fact.object) for fact in facts]
    first = _given(model, tokenizer, pairs, token_budget)
    asked: list[tuple[Fact, str, str]] = []
    for fact, given in zip(facts, first, strict=True):
        relation = relations[fact.relation]
        for number in range(1, len(relation.file.statements)) if given else ():
            text = relation.statement(fact.subject, number)
            asked += [(fact, text, name) for name in relation.names_of(fact.object)]
    again = _given(model, tokenizer, [(text, name) for _, text, name in asked], token_budget)
    said: dict[Fact, dict[str, bool]] = {}
    for (fact, text, _), given in zip(asked, again, strict=True):
        texts = said.setdefault(fact, {})
        texts[text] = texts.get(text, False) or given
    rows = []
    for fact, given in zip(facts, first, strict=True):
        found = list(said.get(fact, {}).values())
        part = sum(found) / len(found) if found else float("nan")
        rows.append((fact.relation, fact.subject, fact.object, given, part, bool(given and part >= share)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _given(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], budget: int
) -> list[bool]:
    """For each (prompt, object), whether every token of the object is the likeliest."""
    return [all(score.matches) for score in score_targets(model, tokenizer, pairs, token_budget=budget)]
