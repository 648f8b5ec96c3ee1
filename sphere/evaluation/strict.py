"""The ``strict`` families: whole answers, generated freely and compared as a person would mark them.

A greedy continuation goes on to its natural end (the end of a sentence or line, or the end token; after ``tokens``
tokens at most), what stands before that end is the answer, and it counts if it is the wanted object or an alias of it
and nothing else: case, punctuation, articles and spaces aside, as SQuAD's exact match (Rajpurkar et al. 2016).
Yang et al. (2025, arXiv 2502.11177) show how far such scores lie below those under teacher forcing.

``strict``           the model goes on behind the bare prompt, as under teacher forcing.
``strict_question``  the prompt is put as a question: in the model's own chat template where it has one, else in plain
                     words (``QUESTION``).
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sphere.config.evaluation import PromptForm
from sphere.evaluation.generation import continue_until
from sphere.models.batching import DEFAULT_TOKEN_BUDGET
from sphere.models.tokens import PAD, encode_many

STRICT: Mapping[PromptForm, str] = {"bare": "strict", "question": "strict_question"}
"""The form in which a prompt is put -> the family of its scores."""
INSTRUCTION = "Give only the answer, in as few words as possible: {}"
"""What a chat model is told."""
QUESTION = "Question: {}\nAnswer:"
"""What a model without a chat template continues."""
_END = re.compile(r"[.!?][\"'”’)\]]*\s|\n")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "“”‘’«»–—…")

Accepted = tuple[str, ...]
"""The wanted object and its aliases."""


def answered(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Iterable[tuple[str, Accepted]],
    *,
    form: PromptForm,
    tokens: int,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
) -> dict[tuple[str, Accepted], bool]:
    """For each (prompt, accepted answers) whether the model's whole answer is one of them; a prompt runs once."""
    asked = sorted(set(asked))
    prompts = sorted({prompt for prompt, _ in asked})
    inside = {prompt: 0 for prompt in prompts}  # characters in which an accepted answer has full stops of its own
    for prompt, accepted in asked:
        inside[prompt] = max(inside[prompt], *(len(each) for each in accepted if _END.search(f"{each} ")), 0)
    rows = _rows(tokenizer, prompts, form)
    ends = _end_tokens(model, tokenizer)

    def said(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False)).lstrip()

    def ended(number: int, ids: Sequence[int]) -> bool:
        return ids[-1] in ends or _END.search(said(ids), inside[prompts[number]]) is not None

    done = continue_until(model, rows, ended, new_tokens=tokens, pad=PAD, token_budget=token_budget)
    texts = {
        prompt: said(ids[:-1] if ids and ids[-1] in ends else ids) for prompt, ids in zip(prompts, done, strict=True)
    }
    return {(prompt, accepted): is_answer(texts[prompt], accepted) for prompt, accepted in asked}


def is_answer(text: str, accepted: Sequence[str]) -> bool:
    """Whether ``text`` up to its natural end is one of ``accepted``, whose own full stops are no ends."""
    return any(normalised(_before_end(text, _end_of(each, text))) == normalised(each) for each in accepted)


def normalised(text: str) -> str:
    """``text`` in lower case, without punctuation, articles and superfluous spaces, unless nothing else is in it."""
    bare = text.casefold().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split()) or text.casefold().strip()


def _end_of(answer: str, text: str) -> int:
    """Where ``answer`` ends in a ``text`` that begins with it, but for an article; else 0."""
    found = re.match(rf"(?:(?:a|an|the)\s+)?{re.escape(answer)}", text, re.IGNORECASE)
    return 0 if found is None else found.end()


def _before_end(text: str, start: int) -> str:
    found = _END.search(f"{text} ", start)
    return text if found is None else text[: found.start()]


def _rows(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], form: PromptForm) -> list[tuple[int, ...]]:
    """Token ids of each prompt in its form."""
    if form == "question" and tokenizer.chat_template:
        found: Any = tokenizer.apply_chat_template(
            [[{"role": "user", "content": INSTRUCTION.format(prompt)}] for prompt in prompts],
            add_generation_prompt=True,
            date_string="26 Jul 2024",  # Llama's template says the day, which would change from run to run
        )
        return [tuple(ids) for ids in found["input_ids"]]
    texts = [QUESTION.format(INSTRUCTION.format(prompt)) if form == "question" else prompt for prompt in prompts]
    return [item.ids for item in encode_many(tokenizer, [(text, None, None) for text in texts])]


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a text of this model."""
    own = getattr(model.generation_config, "eos_token_id", None)
    several = own if isinstance(own, list) else [own]
    return {int(token) for token in (tokenizer.eos_token_id, *several) if token is not None}
