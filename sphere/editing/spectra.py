"""What a model's projections are decomposed into once: the key spectrum and the principal spectrum of every layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sphere.editing.stats import Statistics
from sphere.files import write_atomically
from sphere.geometry.directions import PrincipalSpectrum, principal_spectrum
from sphere.geometry.null_space import KeySpectrum, key_spectrum
from sphere.models.adapters import Adapter


@dataclass(frozen=True)
class Spectra:
    """Decompositions by layer; a layer that is missing is decomposed when it is needed."""

    keys: dict[int, KeySpectrum]
    """Of the key second moments: AlphaEdit's null space."""
    principal: dict[int, PrincipalSpectrum]
    """Of the pretrained weights: SPHERE's directions."""

    @classmethod
    def load(cls, files: Iterable[str | Path], *, device: torch.device | str = "cpu") -> Spectra:
        """Read files that ``save_null_space`` and ``save_directions`` wrote, whichever of them are there."""
        found = cls({}, {})
        for path in files:
            for i, parts in _read(path, device).items():
                if "vectors" in parts:
                    found.keys[i] = KeySpectrum(parts["values"], parts["vectors"])
                else:
                    found.principal[i] = PrincipalSpectrum(parts["shares"], parts["directions"])
        return found


def save_null_space(statistics: Statistics, path: Path) -> None:
    """Decompose every layer's key second moment and write all of them to one safetensors file."""
    found = {i: key_spectrum(c) for i, c in statistics.second_moments.items()}
    _write(path, {i: {"values": s.values, "vectors": s.vectors} for i, s in found.items()})


def save_directions(adapter: Adapter, layers: Iterable[int], path: Path) -> None:
    """Decompose the pretrained weight of every layer and write all of them to one safetensors file."""
    found = {i: principal_spectrum(adapter.weight(i)) for i in layers}
    _write(path, {i: {"shares": s.shares, "directions": s.directions} for i, s in found.items()})


def _write(path: Path, layers: dict[int, dict[str, Tensor]]) -> None:
    tensors = {f"{name}.{i}": t.cpu().contiguous() for i, parts in layers.items() for name, t in parts.items()}
    with write_atomically(path) as temporary:
        save_file(tensors, str(temporary))


def _read(path: str | Path, device: torch.device | str) -> dict[int, dict[str, Tensor]]:
    layers: dict[int, dict[str, Tensor]] = {}
    with safe_open(str(path), framework="pt", device=str(device)) as file:
        for key in file.keys():  # noqa: SIM118 (not a dict)
            name, layer = key.rsplit(".", 1)
            layers.setdefault(int(layer), {})[name] = file.get_tensor(key)
    return layers
