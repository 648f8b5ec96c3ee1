"""What a stream of edits has come to: everything that a later segment needs, in one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sphere.editing.contexts import Contexts
from sphere.errors import InputError
from sphere.files import write_atomically

Matrices = dict[int, Tensor]
"""Layer -> matrix."""
Memories = dict[int, dict[str, Tensor]]
"""Layer -> what the solver remembers of it, by name."""
FORMAT = 2
"""Of the file. 1 had M as the only memory there was, under a name of its own."""


@dataclass(frozen=True)
class EditState:
    """Everything a later segment of the stream needs, and what is evaluated."""

    method: str
    seed: int
    position: int
    """Edits made."""
    batch: int
    """Batches made."""
    weights: Matrices
    """Layer -> (d_out, d_in): the edited weights, as they are evaluated."""
    carried: Matrices = field(default_factory=dict)
    """Layer -> the weight the next batch starts from, where that is another one (PRUNE)."""
    memory: Memories = field(default_factory=dict)
    """Layer -> what the solver remembers from batch to batch, by names of its own."""
    pretrained: Matrices = field(default_factory=dict, repr=False)
    """Layer -> the weight before any edit. Not saved: it is the model's own; ``base`` tells whether it is."""
    base: str = ""
    """Digest of the pretrained weights of the edited layers."""
    contexts: Contexts = field(default_factory=Contexts)
    """The context templates of all its edits."""
    anchors: dict[int, float] = field(default_factory=dict)
    """Layer -> the length that its target values are scaled to (``values.anchor``), once the first batch has told."""
    stopped: str = ""
    """Why the stream ended at ``position``, before all its edits were made; empty while it goes on."""

    def save(self, path: str | Path) -> None:
        """Write the state as one safetensors file; written whole or not at all."""
        tensors = {
            f"{kind}.{layer}": tensor.cpu().contiguous()
            for kind, matrices in (("weights", self.weights), ("carried", self.carried))
            for layer, tensor in matrices.items()
        }
        for layer, remembered in self.memory.items():
            tensors |= {f"memory.{layer}.{name}": tensor.cpu().contiguous() for name, tensor in remembered.items()}
        note = {key: getattr(self, key) for key in ("method", "seed", "position", "batch", "base", "stopped")}
        note |= {"contexts": self.contexts.types, "anchors": list(self.anchors.items()), "format": FORMAT}
        with write_atomically(path) as temporary:
            save_file(tensors, str(temporary), metadata={"sphere_state": json.dumps(note, sort_keys=True)})

    def sizes(self) -> tuple[int, int]:
        """Bytes of the edited weights, and of all that is kept beside them for the next batch."""
        kept = [*self.carried.values(), *(each for names in self.memory.values() for each in names.values())]
        return sum(each.nbytes for each in self.weights.values()), sum(each.nbytes for each in kept)

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu", continued: bool = True) -> EditState:
        """Read a saved state; InputError if the file is none.

        Without ``continued`` it comes without what only a later segment needs, which can be most of it.
        """
        try:
            with safe_open(str(path), framework="pt", device=str(device)) as file:
                note = (file.metadata() or {}).get("sphere_state")
                names = [name for name in file.keys() if continued or name.startswith("weights.")]  # noqa: SIM118
                tensors = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} is not an edit state: {error}") from error
        if note is None:
            raise InputError(f"{path} is not an edit state: it was not written by sphere")
        fields = json.loads(note)
        if fields.pop("format", 1) != FORMAT:
            raise InputError(f"{path} was written by an earlier version of sphere: make it again, or use that version")
        found: dict[str, Any] = {"weights": {}, "carried": {}, "memory": {}}
        for key, tensor in tensors.items():
            kind, layer, *name = key.split(".", 2)
            if name:
                found[kind].setdefault(int(layer), {})[name[0]] = tensor
            else:
                found[kind][int(layer)] = tensor
        plain = {"contexts": Contexts.of(fields.get("contexts", ())), "anchors": dict(fields.get("anchors", ()))}
        return cls(**fields | plain, **found)


def weights_digest(weights: Mapping[int, Tensor]) -> str:
    """sha256 over the layers' numbers and contents."""
    sha = hashlib.sha256()
    for layer in sorted(weights):
        sha.update(f"{layer}:{tuple(weights[layer].shape)}".encode())
        sha.update(weights[layer].detach().cpu().float().contiguous().numpy().tobytes())
    return sha.hexdigest()
