"""Context templates: prefixes sampled once from the unedited model, so that keys and targets are averaged over them.

Every method and every rerun uses the same stored contexts (MEMIT, Meng et al. 2023, section 4.3.1; ROME, section 3.1).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from sphere.errors import InputError
from sphere.models.adapters import Adapter
from sphere.models.precision import finite
from sphere.models.tokens import encode_many, right_pad

STARTERS = ("The", "Therefore", "Because", "I", "You")


@dataclass(frozen=True)
class Contexts:
    """Prefixes by type: the first type is the bare prompt, ``("",)``; the second holds sampled prefixes."""

    types: tuple[tuple[str, ...], ...] = (("",),)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """All prefixes in order, the bare one first."""
        return tuple(prefix for kind in self.types for prefix in kind)

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each prefix in the mean over types of the mean within a type; they sum to 1."""
        return tuple(1 / len(self.types) / len(kind) for kind in self.types for _ in kind)

    def to_json(self) -> str:
        return json.dumps(self.types, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> Contexts:
        found = cls.of(json.loads(Path(path).read_text(encoding="utf-8")))
        if not found.types or found.types[0] != ("",):
            raise InputError(f'{path}: the first context type must be the bare prompt, [""]')
        return found

    @classmethod
    def of(cls, types: Sequence[Sequence[str]]) -> Contexts:
        """From lists, as JSON gives them."""
        return cls(tuple(tuple(kind) for kind in types))


@torch.no_grad()
def sample_contexts(
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    *,
    count: int,
    length: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    top_k: int = 5,
) -> Contexts:
    """Sample ``count`` continuations of ``length`` tokens; ``generator`` lives on the CPU whatever the device."""
    if count == 0:
        return Contexts()
    starters = [STARTERS[i % len(STARTERS)] for i in range(count)]
    prefixes = []
    known = range(adapter.vocabulary)
    banned = [i for i in tokenizer.all_special_ids if i in known]  # a tokenizer may have more than the model
    for starter in starters:
        ids = list(encode_many(tokenizer, [(starter, None, None)])[0].ids)
        begin = len(ids)
        for _ in range(length):
            inputs, mask = right_pad([ids], 0, adapter.device)
            states = adapter.backbone(input_ids=inputs, attention_mask=mask, use_cache=False).last_hidden_state
            logits = finite(adapter.logits(states[0, -1])).double().cpu() / temperature  # (V,)
            logits[banned] = -torch.inf
            top = logits.topk(min(top_k, logits.numel()))
            choice = torch.multinomial(top.values.softmax(0), 1, generator=generator)
            ids.append(int(top.indices[choice]))
        text = starter + str(tokenizer.decode(ids[begin:], skip_special_tokens=True))
        prefixes.append(" ".join(text.split()) + ". ")
    return Contexts((("",), tuple(prefixes)))
