"""Edit streams: which records of a dataset are edited, and in which order."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from sphere.data.fields import read_records
from sphere.data.records import load_requests
from sphere.errors import InputError
from sphere.files import write_json


def draw_stream(dataset: Path, out: Path, *, edits: int, rng: np.random.Generator) -> list[tuple[int, str]]:
    """Write the stream: the first ``edits`` usable records of ``dataset``, in an order drawn from ``rng``, schema kept.

    The set is the same for every seed, only its order differs. A subject comes back only when every other one has had
    its turn: two facts of one subject share their key, so a batch that holds both can have neither. A record is passed
    over if ``load_requests`` cannot use it, or if it repeats an earlier record's prompt with another target: no model
    can hold both. Returns what was passed over, as (case id, reason); InputError where too few records are left.
    """
    records = read_records(dataset)
    loaded = load_requests(dataset)
    passed = dict(loaded.skipped)
    by_case = {record.get("case_id", index): record for index, record in enumerate(records)}
    if len(by_case) < len(records):
        raise InputError(f"{dataset}: {len(records) - len(by_case)} records share a case_id: give every record its own")
    targets: dict[str, str] = {}
    chosen: list[int] = []
    for request in loaded.requests:
        if len(chosen) == edits:
            break
        if targets.setdefault(request.prompt, request.target_new) != request.target_new:
            passed[request.case_id] = "its prompt has another target in an earlier record"
        else:
            chosen.append(request.case_id)
    if len(chosen) < edits:
        raise InputError(f"{dataset} has {len(chosen)} usable records, the study edits {edits}: lower its checkpoints")
    subjects = {request.case_id: request.subject for request in loaded.requests}
    order = [chosen[i] for i in rng.permutation(edits)]
    met: Counter[str] = Counter()
    turn: dict[int, int] = {}
    for case in order:
        turn[case] = met[subjects[case]]
        met[subjects[case]] += 1
    order.sort(key=turn.__getitem__)  # stable: the drawn order within each turn
    write_json([{"case_id": case, **by_case[case]} for case in order], out)
    return sorted(passed.items())
