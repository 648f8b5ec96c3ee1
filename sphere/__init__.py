"""Energy-regularised sequential model editing on hyperspheres."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["edit", "hyperspherical_energy", "principal_directions", "sparse_projection"]

if TYPE_CHECKING:
    from sphere.editing.edit import edit
    from sphere.geometry.directions import principal_directions, sparse_projection
    from sphere.geometry.energy import hyperspherical_energy

_HOMES = {
    "edit": "sphere.editing.edit",
    "hyperspherical_energy": "sphere.geometry.energy",
    "principal_directions": "sphere.geometry.directions",
    "sparse_projection": "sphere.geometry.directions",
}


def __getattr__(name: str) -> Any:
    """Import the public functions on first use, so that parsing a study never pays for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sphere' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
