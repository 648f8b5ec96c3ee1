"""The batches of a stream, refused as a whole before the first of them is edited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from sphere.data.records import EditRequest, validate_batch, validate_case_ids
from sphere.editing.contexts import Contexts
from sphere.errors import InputError
from sphere.models.adapters import Adapter
from sphere.models.tokens import encode_many


def batches_of(
    requests: Sequence[EditRequest],
    size: int,
    parts: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    contexts: Contexts,
) -> Iterator[Sequence[EditRequest]]:
    """The batches of a stream; InputError on a request, or a batch, that cannot be edited."""
    if size < 1:
        raise InputError(f"batch_size is {size}: give at least 1")
    for r in requests:
        if not r.subject.strip() or r.prompt[r.subject_start : r.subject_end] != r.subject:
            raise InputError(
                f"case {r.case_id}: subject {r.subject!r} is not at character {r.subject_start} of {r.prompt!r}: "
                "give a subject of its prompt and where it starts"
            )
    longest = max((tokenizer(prefix)["input_ids"] for prefix in contexts.prefixes), key=len)
    encoded = encode_many(tokenizer, [(r.prompt, r.target_new, r.subject_end) for r in requests])
    for r, item in zip(requests, encoded, strict=True):
        parts.check_row([*item.ids, *longest], r.prompt, tokenizer)
    validate_case_ids(requests)
    for start in range(0, len(requests), size):
        batch = requests[start : start + size]
        validate_batch(batch)
        yield batch
