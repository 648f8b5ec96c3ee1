"""Target values of the unedited model, found once and kept: the protocol ``values.weights: pretrained``.

Under it z depends on neither the method nor the order of the edits, so that every method, order, tuning trial and cell
of the map over eta and alpha can read the same ones (NSE, arXiv 2410.04045, optimises on the original weights too).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sphere.config.values import ValueSettings
from sphere.data.records import EditRequest
from sphere.editing.construction import target_layers, targets_by_layer
from sphere.editing.contexts import Contexts
from sphere.editing.state import weights_digest
from sphere.errors import InputError
from sphere.files import config_digest, write_atomically
from sphere.models.adapters import Adapter
from sphere.progress import track


@dataclass(frozen=True)
class FrozenTargets:
    """Target values by case, all found with the same settings."""

    values: Mapping[int, Tensor] = field(default_factory=dict)
    """Case id -> z (layers, d) in float64: one row a layer that has target values of its own (``target_layers``)."""
    made_with: str = ""
    """``maker`` of what they were found with."""

    def of(self, requests: Sequence[EditRequest], made_with: str) -> dict[int, Tensor]:
        """Those of ``requests`` that are here and were found with the same; the others have to be found."""
        if made_with != self.made_with:
            return {}
        return {r.case_id: self.values[r.case_id] for r in requests if r.case_id in self.values}

    def save(self, path: Path) -> None:
        """Write them as one safetensors file."""
        cases = sorted(self.values)
        stacked = torch.stack([self.values[case].cpu() for case in cases]) if cases else torch.zeros(0, 0)
        note = {"sphere_targets": json.dumps({"cases": cases, "made_with": self.made_with})}
        with write_atomically(path) as temporary:
            save_file({"values": stacked.double().contiguous()}, str(temporary), metadata=note)

    @classmethod
    def load(cls, files: Iterable[str | Path]) -> FrozenTargets:
        """Read files that ``save`` wrote; InputError if one is none, or they were found with different settings."""
        found: dict[int, Tensor] = {}
        made = set[str]()
        for path in files:
            with safe_open(str(path), framework="pt") as file:
                note = json.loads((file.metadata() or {}).get("sphere_targets", "{}"))
                if not note:
                    raise InputError(f"{path} holds no target values: delete it and make it again")
                found |= dict(zip(note["cases"], file.get_tensor("values"), strict=True))
                made.add(note["made_with"])
        if len(made) > 1:
            raise InputError("target values were found with different settings: delete them and make them again")
        return cls(found, next(iter(made), ""))


def maker(settings: ValueSettings, contexts: Contexts, layers: Sequence[int], pretrained: Tensor) -> str:
    """A digest of all that target values depend on beside the request; ``pretrained``: the last layer's weight."""
    own = target_layers(layers, settings)
    return config_digest([settings.optimised_with(), contexts.types, own, weights_digest({own[-1]: pretrained})])


def find_frozen(
    adapter: Adapter,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EditRequest],
    contexts: Contexts,
    *,
    layers: Sequence[int],
    settings: ValueSettings,
    group: int = 10,
) -> FrozenTargets:
    """Target values of ``requests``, to edit ``layers`` towards, on the model as it stands, which must be unedited.

    ``group`` requests are optimised at once.
    """
    found: dict[int, Tensor] = {}
    starts = range(0, len(requests), group)
    for start in track(starts, f"target values of {len(requests)} requests"):
        some = requests[start : start + group]
        values = targets_by_layer(adapter, tokenizer, some, contexts, layers=layers, settings=settings)
        stacked = torch.stack(list(values.values()))  # (layers, d, n)
        found |= {request.case_id: stacked[:, :, n] for n, request in enumerate(some)}
    exact = torch.promote_types(adapter.dtype, torch.float32)
    return FrozenTargets(found, maker(settings, contexts, layers, adapter.weight(layers[-1]).to(exact)))
