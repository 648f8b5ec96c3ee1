"""config.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from sphere.config.base import Settings, validated
from sphere.config.machine import MachineSettings


class RunSettings(Settings):
    """config.yaml: which study, and where its files come from and go."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    study: Annotated[str, Field(min_length=1)]
    """A file in studies/, or the path of a study file of your own."""
    results: Annotated[str, Field(min_length=1)] = "results"
    """Everything is made under here."""
    sources: dict[str, str] = {}
    """Files and folders of yours that are taken instead of downloads, by their name in sources.tsv."""
    machine: MachineSettings = MachineSettings()
    """What the plan reckons with, and so what jobs ask of a cluster. Rates are sustained ones."""


def load_run(settings: Mapping[str, Any]) -> RunSettings:
    """config.yaml and ``--config`` together; a key without value has its default."""
    given = {key: value for key, value in settings.items() if value is not None}
    return validated(RunSettings, given, "config.yaml or --config")
