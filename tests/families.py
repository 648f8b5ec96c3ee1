"""The table of families in docs/adding-a-model.md: what was checked of each, on a tiny random model of it.

`python tests/families.py` prints it; tests/unit/test_docs.py holds the page to it.
"""

from __future__ import annotations

import torch
from conftest import FAMILIES, WINDOWED, ModelMaker, TokenizerMaker, new_model, new_tokenizer

from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing.contexts import Contexts
from sphere.editing.edit import edit
from sphere.editing.inspection import inspect
from sphere.editing.keys import keys_and_outputs
from sphere.editing.values import target_values
from sphere.errors import InputError
from sphere.models.adapters import Adapter
from sphere.models.checks import check_arrival
from sphere.models.loading import LoadedModel
from sphere.models.tokens import encode

REQUEST = EditRequest(1, "Ada Lovelace", "The mother tongue of Ada Lovelace is", 21, "French", "English")
VALUES = ValueSettings(lr=0.3, steps=8, clamp_norm_factor=1.0, weight_decay=0.01)
HEAD = ("`model_type`", "the residual stream", "known change arrives", "ROME reaches z", "windows of its layers")


def table() -> str:
    """One row a family, as Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *(row(family, new_model, new_tokenizer) for family in FAMILIES)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def row(family: str, model_of: ModelMaker, tokenizer_of: TokenizerMaker) -> tuple[str, ...]:
    tokenizer = tokenizer_of(True)
    model = model_of(family, len(tokenizer)).double()
    stream = next(each.found for each in inspect(LoadedModel(model, tokenizer)) if each.what == "residual stream")
    try:
        check_arrival(Adapter(model), 1)
        arrives = "yes"
    except InputError:
        arrives = "no"
    reaches = "yes" if left_by_rome(model, tokenizer) < 1e-5 else "no"
    seen = "none"
    if family in WINDOWED:
        seen = "kept" if loss_in_a_window(family, model_of, tokenizer) < 1e-5 else "not kept"
    return f"`{family}`", stream.split(":")[0], arrives, reaches, seen


def left_by_rome(model: torch.nn.Module, tokenizer: object) -> float:
    """The share of the residual that an edit leaves."""
    parts, given = Adapter(model), {"layers": [1], "last": 1}
    wanted = target_values(parts, tokenizer, [REQUEST], Contexts(), layer=1, settings=VALUES).values
    before = keys_and_outputs(parts, tokenizer, [REQUEST], Contexts(), **given).outputs
    own = {"values": VALUES.plain()}
    edit(model, tokenizer, [REQUEST], method="rome", layers=[1], contexts=Contexts(), hyperparameters=own)
    after = keys_and_outputs(parts, tokenizer, [REQUEST], Contexts(), **given).outputs
    return float((wanted - after).norm() / (wanted - before).norm())


def loss_in_a_window(family: str, model_of: ModelMaker, tokenizer: object) -> float:
    """How far the loss of target values is from the model's own, in windows of two tokens."""
    sliding = {"use_sliding_window": True, "max_window_layers": 0} if family in ("qwen2", "qwen3", "smollm3") else {}
    model = model_of(family, len(tokenizer), sliding_window=2, **sliding).double()
    still = ValueSettings(lr=1e-300, steps=2, kl_factor=0, weight_decay=0, stop_loss=0)
    found = target_values(Adapter(model), tokenizer, [REQUEST], Contexts(), layer=1, settings=still).losses
    text = encode(tokenizer, REQUEST.prompt, target=REQUEST.target_new)
    logits = model(torch.tensor([text.ids])).logits[0]
    start = text.target_start or 0
    targets = torch.tensor(text.ids[start:])
    own = torch.nn.functional.cross_entropy(logits[start - 1 : len(text.ids) - 1], targets)
    return abs(float(found[0] - own) / float(own))


if __name__ == "__main__":
    print(table())
