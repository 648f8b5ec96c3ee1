"""MQuAKE and RippleEdits records -> records in CounterFact's schema, with the questions behind their edits.

MQuAKE (Zhong et al. 2023) asks multi-hop questions whose answer an edit changes; RippleEdits (Cohen et al. 2024) asks
six kinds of questions about one edit, and writes the edit as a sentence, without a label of its subject.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sphere.data.fields import Record, Unusable, names_of, object_of, objects_of, question, text_of, texts_of
from sphere.errors import InputError

MQUAKE_KEYS = {
    "an MQuAKE record": {
        *("case_id", "requested_rewrite", "questions", "answer", "answer_alias", "answer_extended"),
        *("new_answer", "new_answer_alias", "single_hops", "new_single_hops", "orig"),
    },
    "requested_rewrite": {"prompt", "relation_id", "target_new", "target_true", "subject", "question"},
    "a hop": {"question", "cloze", "answer", "answer_alias"},
}
CRITERIA = {
    "Relation_Specificity": "unchanged",
    "Logical_Generalization": "two_hop",
    "Subject_Aliasing": "subject_alias",
    "Compositionality_I": "two_hop",
    "Compositionality_II": "two_hop",
    "Forgetfulness": "unchanged",
}
"""RippleEdits' criteria -> kinds of questions; a logical generalization that asks for the subject is ``inverse``."""
RIPPLE_EDITS_KEYS = {
    "a RippleEdits record": {"case_id", "example_type", "edit", *CRITERIA},
    "edit": {"prompt", "subject_id", "relation", "target_id", "previous_fact"},
    "a test": {"test_queries", "test_condition", "condition_queries"},
    "a query": {
        *("prompt", "answers", "query_type", "subject_id", "relation", "target_ids", "phrase"),
        *("second_relation", "second_hop_target_ids"),
    },
}
"""Every key of the published records by the object it stands in, whether it is read here or not."""
PHRASES = {
    "AWARD_RECEIVED": ("The name of the award", "won is"),
    "CAPITAL": ("The name of the capital city of", "is"),
    "CAPITAL_OF": ("The name of the country which", "is the capital of is"),
    "CONTINENT": ("The name of the continent which", "is part of is"),
    "COUNTRY": ("The name of the country which", "is associated with is"),
    "CURRENCY": ("The name of the currency in", "is"),
    "ETHNIC_GROUP": ("The name of the ethnic group which", "is associated with is"),
    "FOLLOWED_BY": ("", "is followed by"),
    "FOLLOWS": ("", "follows"),
    "LEAGUE": ("The name of the league which", "plays in is"),
    "MEMBER_OF_SPORTS_TEAM": ("The name of the sports team which", "is a member of is"),
    "NATIVE_LANGUAGE": ("The mother tongue of", "is"),
    "NUMBER_OF_CHILDREN": ("The number of children", "has is"),
    "RELIGION": ("The name of the religion which", "is associated with is"),
    "SEX_OR_GENDER": ("The gender of", "is"),
}
"""RippleEdits' relations whose sentences put other words around the subject than "The name of the RELATION of"
(or "The RELATION of") and "is"."""


def from_mquake(record: Record, where: str) -> Record:
    """The edit, its question as a paraphrase, the multi-hop questions as ``two_hop``, and as ``unchanged`` the facts
    that stand on the chain before and after the edit.

    Raises Unusable for a record of several edits, whose questions hold only after all of them.
    """
    rewrites = objects_of(record, "requested_rewrite", where)
    if len(rewrites) != 1:
        raise Unusable("its questions are of several edits at once" if rewrites else 'its "requested_rewrite" is empty')
    (rewrite,) = rewrites
    answers = (text_of(record, "new_answer", where), *names_of(record, "new_answer_alias", where))
    asked = [question("two_hop", prompt, answers) for prompt in texts_of(record, "questions", where)]
    before = [(hop.get("question"), hop.get("answer")) for hop in objects_of(record, "single_hops", where)]
    new = rewrite.get("target_new")
    for i, hop in enumerate(objects_of(record, "new_single_hops", where)):
        inside = f"{where}, new_single_hops {i}"
        answers = (text_of(hop, "answer", inside), *names_of(hop, "answer_alias", inside))
        fact = hop.get("question"), hop["answer"]
        if fact in before:
            asked.append(question("unchanged", text_of(hop, "cloze", inside), answers))
        elif isinstance(new, dict) and fact == (rewrite.get("question"), new.get("str")):
            new = {**new, "aliases": list(answers[1:])}
    return {
        "requested_rewrite": {**rewrite, "target_new": new},
        "paraphrase_prompts": [text_of(rewrite, "question", where)] if "question" in rewrite else [],
        "portability": asked,
    }


def from_ripple_edits(record: Record, where: str) -> Record:
    """The edit, taken apart, and every test query that has an answer, by ``CRITERIA``; conditions are not applied.

    Raises Unusable where the edit's sentence cannot be taken apart.
    """
    edit, inside = object_of(record, "edit", where), f"{where}, edit"
    prompt, relation, previous = text_of(edit, "prompt", inside), text_of(edit, "relation", inside), None
    if edit.get("previous_fact") is not None:
        previous = text_of(object_of(edit, "previous_fact", inside), "prompt", f"{inside}, previous_fact")
    start, end, stem = _parted(prompt, relation, previous)
    new = _object(prompt, stem)
    asked: dict[tuple[str, str], Record] = {}
    aliases: list[str] = []
    for criterion, place, query in _queries(record, where):
        names = [name for answer in objects_of(query, "answers", place) for name in _names(answer, place)]
        if not names:
            continue
        kind = CRITERIA[criterion]
        if criterion == "Logical_Generalization" and _asks_for_the_subject(query, edit):
            kind = "inverse"
        if kind == "subject_alias" and names[0] == new:
            aliases = names[1:]
        text = text_of(query, "prompt", place)
        asked.setdefault((kind, text), question(kind, text, list(dict.fromkeys(names))))
    rewrite = {
        "prompt": f"{prompt[:start]}{{}}{prompt[end : len(stem)]}",
        "subject": prompt[start:end],
        "relation_id": relation,
        "target_new": {"str": new, "id": edit.get("target_id"), "aliases": aliases},
    }
    if previous is not None:
        rewrite["target_true"] = {"str": _object(previous, stem)}
    return {"requested_rewrite": rewrite, "portability": list(asked.values())}


def _parted(prompt: str, relation: str, previous: str | None) -> tuple[int, int, str]:
    """Where the subject starts and ends in the edit's sentence, and all of it before the object.

    A subject or an object may hold the words between them; then the sentence of the previous fact, which has the same
    beginning, decides.
    """
    words, verb = re.escape(relation.lower().replace("_", " ")), "are" if prompt.startswith("The names ") else "is"
    head, tail = PHRASES.get(relation, (f"The (?:names? of the )?{words}s? of", verb))
    begun = re.match(f"{head} " if head else "", prompt)
    if begun is None:
        raise Unusable("its subject is not to be told from its prompt")
    start = begun.end()
    found = [each for each in re.finditer(f"(?=( {tail} ))", prompt) if each.start() > start]
    stems = [(each.start(), prompt[: each.end(1)]) for each in found]
    stems = [(end, stem) for end, stem in stems if previous is None or previous.startswith(stem)]
    if not stems or (previous is None and len(stems) > 1):
        raise Unusable("its subject is not to be told from its prompt")
    return start, *stems[-1]


def _object(sentence: str, stem: str) -> str:
    """What stands between ``stem`` and the full stop."""
    return sentence[len(stem) :].rstrip().removesuffix(".")


def _names(answer: Record, where: str) -> list[str]:
    """An answer and its aliases; none where Wikidata has no label."""
    if "value" not in answer:
        raise InputError(f'{where}: no "value": add it')
    value = [] if answer["value"] is None else [answer["value"]]
    return [*names_of({"value": value}, "value", where), *names_of(answer, "aliases", where)]


def _queries(record: Record, where: str) -> Iterator[tuple[str, str, Record]]:
    """Criterion, place for messages, and test query."""
    for criterion in CRITERIA:
        for i, test in enumerate(objects_of(record, criterion, where)):
            place = f"{where}, {criterion} {i}"
            if "test_queries" not in test:
                raise InputError(f'{place}: no "test_queries": add it')
            for j, query in enumerate(objects_of(test, "test_queries", place)):
                yield criterion, f"{place}, query {j}", query


def _asks_for_the_subject(query: Record, edit: Record) -> bool:
    targets = query.get("target_ids")
    asked = isinstance(targets, list) and edit.get("subject_id") is not None and edit["subject_id"] in targets
    return asked and query.get("subject_id") == edit.get("target_id")


def mquake_objects(record: Record) -> Iterator[tuple[str, Record]]:
    """The record and the objects inside that are read, each with its place in ``MQUAKE_KEYS``."""
    yield "an MQuAKE record", record
    yield from (("requested_rewrite", each) for each in _inside(record, "requested_rewrite"))
    yield from (("a hop", each) for key in ("single_hops", "new_single_hops") for each in _inside(record, key))


def ripple_edits_objects(record: Record) -> Iterator[tuple[str, Record]]:
    """The same with its place in ``RIPPLE_EDITS_KEYS``."""
    yield "a RippleEdits record", record
    if isinstance(edit := record["edit"], dict):
        yield "edit", edit
    for test in (each for criterion in CRITERIA for each in _inside(record, criterion)):
        yield "a test", test
        yield from (("a query", query) for query in _inside(test, "test_queries"))


def _inside(holder: Record, key: str) -> list[Any]:
    values = holder.get(key)
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []
