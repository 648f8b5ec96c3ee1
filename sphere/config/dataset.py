"""The sections ``datasets`` and ``corpus`` of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from sphere.config.base import Settings

CORPUS_TASKS = ("corpus_perplexity",)
"""The general-ability task that a corpus comes with."""


class DatasetConfig(Settings):
    """Where a dataset's edit records come from; their schema is told from the records."""

    source: Literal["world", "facts", "download", "path"]
    """The study's own world, facts that its model knows, a row of config/sources.tsv, or a file of yours."""
    path: Path | None = None
    """The file (source: path)."""
    item: str | None = None
    """The row of config/sources.tsv (source: download)."""
    references: str | None = None
    """Reference texts for consistency: a row of sources.tsv or a file, as the source is; a world has its own."""
    word_weights: tuple[str, str] | None = None
    """Vocabulary (JSON) and inverse document frequencies (.npy) for consistency, named as ``references`` is; null takes
    them from the reference texts of the stream."""

    @model_validator(mode="after")
    def _complete(self) -> DatasetConfig:
        needed = {"download": "item", "path": "path"}.get(self.source)
        for key in ("item", "path"):
            if (getattr(self, key) is not None) != (key == needed):
                raise ValueError(f"source: {self.source} " + (f"needs {key}" if key == needed else f"takes no {key}"))
        if self.source == "facts" and self.references is not None:
            raise ValueError("references are of a download or a file: facts have none")
        if self.word_weights is not None and (self.source == "world" or self.references is None):
            raise ValueError("word_weights need references of a download or a file")
        return self

    @property
    def files(self) -> dict[str, str]:
        """Key -> row of sources.tsv, or path, of everything the dataset is made of."""
        named = {"item": self.item, "path": self.path, "references": self.references}
        named |= {f"word_weights.{i}": name for i, name in enumerate(self.word_weights or ())}
        return {key: str(name) for key, name in named.items() if name is not None}


class CorpusSettings(Settings):
    """Natural text for the key statistics of models that are not the world's."""

    item: str | None = None
    """The row of config/sources.tsv: a parquet file, or text in which blank lines separate documents."""
    path: Path | None = None
    """Or a file of yours of either kind."""
    column: str = "text"
    """The column of a parquet file that holds the text."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.item is None) == (self.path is None):
            raise ValueError("give item, a row of sources.tsv, or path, a file of yours")
        return self
