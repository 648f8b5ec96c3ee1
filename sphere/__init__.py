"""Energy-regularised sequential model editing on hyperspheres."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["edit", "hyperspherical_energy", "principal_directions", "sparse_projection"]

if TYPE_CHECKING:
    from sphere.directions import principal_directions, sparse_projection
    from sphere.energy import hyperspherical_energy
    from sphere.sequential import edit

_HOMES = {
    "edit": "sphere.sequential",
    "hyperspherical_energy": "sphere.energy",
    "principal_directions": "sphere.directions",
    "sparse_projection": "sphere.directions",
}


def __getattr__(name: str) -> Any:
    """Import the public functions on first use, so that parsing a study never pays for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sphere' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
