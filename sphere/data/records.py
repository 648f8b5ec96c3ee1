"""Records -> ``EditRequest``: the one place that knows CounterFact's and zsRE's schemas; ``ripples`` knows the others.

CounterFact and multi-CounterFact (Meng et al. 2022, 2023) keep a rewrite template with ``{}`` for the subject; zsRE
(the evaluation split of Mitchell et al. 2022) keeps whole questions. The schema is told from a record's keys, never
from a file's name. No text is ever passed through ``str.format``: real prompts hold stray braces.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from sphere.data.fields import (
    Record,
    Unusable,
    checked,
    names_of,
    objects_of,
    read_json,
    read_records,
    records_in,
    text_of,
    texts_of,
)
from sphere.data.ripples import (
    MQUAKE_KEYS,
    RIPPLE_EDITS_KEYS,
    from_mquake,
    from_ripple_edits,
    mquake_objects,
    ripple_edits_objects,
)
from sphere.errors import InputError, nearest

KEYS = {
    "a CounterFact record": {
        *("case_id", "pararel_idx", "requested_rewrite", "paraphrase_prompts", "neighborhood_prompts"),
        *("neighborhood_samples", "attribute_prompts", "generation_prompts", "portability"),
    },
    "requested_rewrite": {"prompt", "relation_id", "target_new", "target_true", "subject"},
    "target_new or target_true": {"str", "id", "aliases"},
    "a portability question": {"kind", "prompt", "target", "aliases"},
    "a zsRE record": {
        *("case_id", "subject", "src", "pred", "rephrase", "alt", "answers", "loc", "loc_ans", "cond"),
        "neighborhood_samples",  # which copies of the file bring along
    },
}
"""Every key of the published records by the object it stands in, whether it is read here or not; ``aliases`` and
``portability`` are ours."""
PORTABILITY = ("subject_alias", "two_hop", "inverse", "unchanged")
"""Kinds of questions behind an edit: the new fact under another name of its subject, a fact that follows from it by one
that nobody edits, its inverse, and facts beside it that must stay."""

Key = tuple[str, str]


@dataclass(frozen=True)
class Probe:
    """A prompt with the answer it should keep giving."""

    prompt: str
    target: str
    aliases: tuple[str, ...] = ()
    """Other names of the target."""


@dataclass(frozen=True)
class EditRequest:
    """One fact to write into the model, with everything its evaluation asks."""

    case_id: int
    subject: str
    """As it stands in ``prompt``."""
    prompt: str
    """The rewrite prompt with its subject in place and no trailing space."""
    subject_start: int
    """Character offset of the subject in ``prompt``."""
    target_new: str
    """The new object, without surrounding space."""
    target_true: str | None
    """The old object; None where the dataset names none (zsRE)."""
    paraphrases: tuple[str, ...] = ()
    neighborhood: tuple[Probe, ...] = ()
    """CounterFact: prompts about other subjects that share the old object. zsRE: one unrelated question."""
    generation_prompts: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    """Texts about things that share the new object, for consistency; often empty."""
    relation: str | None = None
    portability: tuple[tuple[str, Probe], ...] = ()
    """Kind and question behind the edit, with the answer that it should give (``PORTABILITY``)."""
    aliases: tuple[str, ...] = ()
    """Other names of the new object: CounterFact's ``aliases`` (ours), zsRE's further answers."""

    def in_context(self) -> EditRequest:
        """The same with the new fact, as a sentence, before every prompt: what the unedited model is told of it."""
        told = f"{self.prompt} {self.target_new}. "
        return replace(
            self,
            prompt=told + self.prompt,
            subject_start=len(told) + self.subject_start,
            paraphrases=tuple(told + prompt for prompt in self.paraphrases),
            neighborhood=tuple(replace(probe, prompt=told + probe.prompt) for probe in self.neighborhood),
            portability=tuple((kind, replace(each, prompt=told + each.prompt)) for kind, each in self.portability),
        )

    @property
    def subject_end(self) -> int:
        """Character offset in ``prompt`` just past the subject."""
        return self.subject_start + len(self.subject)


@dataclass(frozen=True)
class Loaded:
    """The requests of a file in its order, and the records that cannot be used with the reason."""

    requests: tuple[EditRequest, ...]
    skipped: tuple[tuple[int, str], ...]

    def reasons(self) -> str:
        """How many records were skipped for which reason, as one line; empty if none was."""
        counts = Counter(reason for _, reason in self.skipped)
        return ", ".join(f"{count} because {reason}" for reason, count in counts.most_common())


def load_requests(path: str | Path, *, references: str | Path | None = None) -> Loaded:
    """Read a JSON list of CounterFact, multi-CounterFact, zsRE, MQuAKE or RippleEdits records.

    ``references`` is a file in the schema of ROME's ``attribute_snippets.json``: a list of
    ``{"relation_id", "target_id", "samples": [{"text"}, ...]}``, or the same nested as
    ``{relation: {object: samples}}``; it is matched on a record's relation and new object.
    Raises InputError, in one line that names file, record and fix, for what is not of the schema; a record that is, but
    cannot be edited (a text is empty, its subject is not in its prompt, its targets agree), is skipped with a reason.
    """
    records = read_records(path)
    texts = {} if references is None else _read_references(references)
    schemas = {_schema(record, _where(path, i, record)) for i, record in enumerate(records)}
    if len(schemas) > 1:
        mixed = " and ".join(sorted(schemas))
        raise InputError(f"{path}: {mixed} records are mixed: put each schema in a file of its own")
    schema = SCHEMAS[schemas.pop()]
    _check_keys(records, schema, path)
    requests: list[EditRequest] = []
    skipped: list[tuple[int, str]] = []
    for i, record in enumerate(records):
        case_id = _case_id(record, i, _where(path, i, record))
        try:
            _check_text(record)
            requests.append(schema.parse(record, case_id, _where(path, i, record), texts))
        except Unusable as reason:
            skipped.append((case_id, str(reason)))
    loaded = Loaded(tuple(requests), tuple(skipped))
    if not requests:
        raise InputError(f"{path}: none of its {len(records)} records is usable: {loaded.reasons()}")
    return loaded


def validate_case_ids(requests: Sequence[EditRequest]) -> None:
    """Refuse a stream in which a case id comes back, in whichever batch."""
    cases: set[int] = set()
    for request in requests:
        if request.case_id in cases:
            raise InputError(f"case {request.case_id} appears twice: give every record its own case_id")
        cases.add(request.case_id)


def validate_batch(requests: Sequence[EditRequest]) -> None:
    """Refuse a batch no single update can satisfy: one prompt with two new targets."""
    prompts: dict[str, EditRequest] = {}
    for request in requests:
        first = prompts.setdefault(request.prompt, request)
        if first.target_new != request.target_new:
            raise InputError(
                f"cases {first.case_id} and {request.case_id} contradict each other in one batch: {request.prompt!r} "
                f"is to be both {first.target_new!r} and {request.target_new!r}: drop one or put it in another batch"
            )


def _counterfact(record: Record, case_id: int, where: str, references: dict[Key, tuple[str, ...]]) -> EditRequest:
    rewrite = record["requested_rewrite"]
    if not isinstance(rewrite, dict):
        raise InputError(f'{where}: "requested_rewrite" is not an object: it must hold prompt, subject and target_new')
    inside = f"{where}, requested_rewrite"
    template = text_of(rewrite, "prompt", inside, strip=False).rstrip()
    subject = text_of(rewrite, "subject", inside)
    if template.count("{}") == 0 and template.count(subject) == 1:
        template = template.replace(subject, "{}")
    if template.count("{}") != 1:
        raise Unusable('its prompt does not hold "{}" exactly once')
    target_new = _object(rewrite, "target_new", inside)
    target_true = _object(rewrite, "target_true", inside) if rewrite.get("target_true") is not None else None
    if target_new == target_true:
        raise Unusable("the new target is the true one")
    near = texts_of(record, "neighborhood_prompts", where)
    if near and target_true is None:
        raise InputError(f'{inside}: no "target_true", which neighborhood_prompts need: add it or drop them')
    known_as = _aliases(rewrite, "target_true", inside) if near else ()
    start = template.index("{}")
    relation = rewrite.get("relation_id")
    return EditRequest(
        case_id=case_id,
        subject=subject,
        prompt=template[:start] + subject + template[start + 2 :],
        subject_start=start,
        target_new=target_new,
        target_true=target_true,
        paraphrases=texts_of(record, "paraphrase_prompts", where),
        neighborhood=tuple(Probe(prompt, target_true or "", known_as) for prompt in near),
        generation_prompts=texts_of(record, "generation_prompts", where),
        references=references.get((str(relation), str(rewrite["target_new"].get("id"))), ()),
        relation=None if relation is None else str(relation),
        portability=_portability(record, where),
        aliases=_aliases(rewrite, "target_new", inside),
    )


def _mquake(record: Record, case_id: int, where: str, references: dict[Key, tuple[str, ...]]) -> EditRequest:
    return _counterfact(from_mquake(record, where), case_id, where, references)


def _ripple_edits(record: Record, case_id: int, where: str, references: dict[Key, tuple[str, ...]]) -> EditRequest:
    return _counterfact(from_ripple_edits(record, where), case_id, where, references)


def _zsre(record: Record, case_id: int, where: str, _references: dict[Key, tuple[str, ...]]) -> EditRequest:
    prompt = text_of(record, "src", where, strip=False).rstrip()
    subject = text_of(record, "subject", where)
    answers = texts_of(record, "answers", where)
    if not answers:
        raise Unusable('its "answers" is empty')
    start = prompt.find(subject)
    if start < 0:
        found = re.search(re.escape(subject), prompt, re.IGNORECASE)
        if found is None:
            raise Unusable("its subject is not in its prompt")
        start, subject = found.start(), found.group()
    neighborhood: tuple[Probe, ...] = ()
    if "loc" in record or "loc_ans" in record:
        question = text_of(record, "loc", where)
        neighborhood = (
            Probe(question if question.endswith("?") else question + "?", text_of(record, "loc_ans", where)),
        )
    return EditRequest(
        case_id=case_id,
        subject=subject,
        prompt=prompt,
        subject_start=start,
        target_new=answers[0].strip(),
        target_true=None,
        paraphrases=(text_of(record, "rephrase", where, strip=False).rstrip(),) if "rephrase" in record else (),
        neighborhood=neighborhood,
        aliases=tuple(answer.strip() for answer in answers[1:]),
    )


def _check_keys(records: Sequence[Record], schema: Schema, path: str | Path) -> None:
    """Name the keys that nothing reads; InputError for one that belongs elsewhere or looks misspelt."""
    unread: list[str] = []
    for i, record in enumerate(records):
        for place, holder in schema.objects(record):
            for key in holder:
                if key not in schema.keys[place] and key not in unread:
                    _refuse_mistaken(key, place, schema.keys, _where(path, i, record))
                    unread.append(key)
    if unread:
        print(f"note: {path}: nothing reads {', '.join(map(repr, unread))}", file=sys.stderr)


def _objects(record: Record) -> Iterator[tuple[str, Record]]:
    """The record and those objects inside that are read, each with its place in ``KEYS``."""
    yield "a CounterFact record" if "requested_rewrite" in record else "a zsRE record", record
    if isinstance(rewrite := record.get("requested_rewrite"), dict):
        yield "requested_rewrite", rewrite
        targets = (rewrite.get(key) for key in ("target_new", "target_true"))
        yield from (("target_new or target_true", target) for target in targets if isinstance(target, dict))
    if isinstance(questions := record.get("portability"), list):
        yield from (("a portability question", each) for each in questions if isinstance(each, dict))


def _refuse_mistaken(key: str, place: str, keys: Mapping[str, set[str]], where: str) -> None:
    if key == "id":  # what many a file numbers its records by
        return
    if owners := [owner for owner, own in keys.items() if key in own]:
        raise InputError(f"{where}: {key!r} stands in {place} but belongs in {' or '.join(owners)}: move it or drop it")
    known = sorted({each for own in keys.values() for each in own})
    if meant := get_close_matches(key.lower(), known, n=1, cutoff=0.8):
        raise InputError(f"{where}: unknown key {key!r}: did you mean {meant[0]!r}?")


def _read_references(path: str | Path) -> dict[Key, tuple[str, ...]]:
    """Reference texts of every (relation, object id)."""
    content = read_json(path)
    if isinstance(content, dict) and all(isinstance(objects, dict) for objects in content.values()):
        content = [
            {"relation_id": relation, "target_id": target, "samples": samples}
            for relation, objects in content.items()
            for target, samples in objects.items()
        ]
    found: dict[Key, tuple[str, ...]] = {}
    for i, entry in enumerate(records_in(content, path)):
        where = f"{path}: record {i}"
        try:
            key = text_of(entry, "relation_id", where), text_of(entry, "target_id", where)
        except Unusable as reason:
            raise InputError(f"{where}: {reason}: give the one of a CounterFact record") from None
        samples = entry.get("samples")
        if not isinstance(samples, list) or not all(
            isinstance(sample, dict) and isinstance(sample.get("text"), str) for sample in samples
        ):
            raise InputError(f'{where}: "samples" must be a list of objects, each with a "text"')
        found[key] = found.get(key, ()) + tuple(text for sample in samples if (text := sample["text"].strip()))
    return found


def _schema(record: Record, where: str) -> str:
    """The name in ``SCHEMAS``."""
    if "requested_rewrite" in record:
        return "MQuAKE" if isinstance(record["requested_rewrite"], list) else "CounterFact"
    if "src" in record and "answers" in record:
        return "zsRE"
    if "edit" in record:
        return "RippleEdits"
    raise InputError(
        f'{where} is neither CounterFact or MQuAKE (no "requested_rewrite") nor zsRE (no "src" with "answers") nor '
        'RippleEdits (no "edit"): add a key'
    )


def _where(path: str | Path, index: int, record: Record) -> str:
    case = record.get("case_id")
    return f"{path}: record {index}" + ("" if case is None else f" (case {case!r})")


def _case_id(record: Record, index: int, where: str) -> int:
    """The record's own id, or its place in the file (zsRE has none)."""
    case = record.get("case_id", index)
    if not isinstance(case, int) or isinstance(case, bool):
        raise InputError(f"{where}: case_id {case!r} is not an integer: use one or leave the key out")
    return case


def _check_text(record: Record) -> None:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Unusable("it holds half of a surrogate pair") from None


def _object(rewrite: Record, key: str, where: str) -> str:
    """CounterFact's ``{"str": ..., "id": ...}``, without surrounding space."""
    value = rewrite.get(key)
    if not isinstance(value, dict) or "str" not in value:
        raise InputError(f'{where}: no "{key}" object with a "str": write it as {{"str": "...", "id": "..."}}')
    return checked(value["str"], f'"{key}"', where).strip()


def _aliases(rewrite: Record, key: str, where: str) -> tuple[str, ...]:
    """Other names of an object, which may be missing."""
    return names_of(rewrite[key], "aliases", f"{where}, {key}")


def _portability(record: Record, where: str) -> tuple[tuple[str, Probe], ...]:
    """The questions behind an edit, which may be missing."""
    found = []
    for i, question in enumerate(objects_of(record, "portability", where)):
        inside = f"{where}, portability {i}"
        kind = text_of(question, "kind", inside)
        if kind not in PORTABILITY:
            raise InputError(f"{inside}: kind {kind!r} is none of {', '.join(PORTABILITY)}{nearest(kind, PORTABILITY)}")
        prompt = text_of(question, "prompt", inside, strip=False).rstrip()
        target = text_of(question, "target", inside)
        found.append((kind, Probe(prompt, target, names_of(question, "aliases", inside))))
    return tuple(found)


@dataclass(frozen=True)
class Schema:
    """How the records of one dataset are read."""

    keys: Mapping[str, set[str]]
    """Every key by the object it stands in."""
    objects: Callable[[Record], Iterator[tuple[str, Record]]]
    """A record and the objects inside that are read, each with its place in ``keys``."""
    parse: Callable[[Record, int, str, dict[Key, tuple[str, ...]]], EditRequest]


SCHEMAS = {
    "CounterFact": Schema(KEYS, _objects, _counterfact),
    "zsRE": Schema(KEYS, _objects, _zsre),
    "MQuAKE": Schema(MQUAKE_KEYS, mquake_objects, _mquake),
    "RippleEdits": Schema(RIPPLE_EDITS_KEYS, ripple_edits_objects, _ripple_edits),
}
