"""Downloads, the one module that uses a network: files by URL and checksum, models and text of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from sphere.artifacts import write_atomically
from sphere.config import CorpusSettings, Download, HubSource, PathSource
from sphere.errors import InputError


def fetch(source: Download, out: Path) -> None:
    """Download ``source.url`` to ``out``; InputError if its length or sha256 is not the one on record."""
    digest, length = hashlib.sha256(), 0
    with write_atomically(out) as temporary:
        try:
            with urllib.request.urlopen(source.url, timeout=60) as response, temporary.open("wb") as file:
                while block := response.read(1 << 20):
                    digest.update(block)
                    length += len(block)
                    file.write(block)
        except (urllib.error.URLError, TimeoutError) as error:
            raise InputError(
                f"{source.url} cannot be downloaded ({error}): check the network, or put the file at {out}"
            ) from None
        if source.bytes is not None and length != source.bytes:
            raise InputError(f"{source.url} has {length} bytes, sources.tsv has {source.bytes} for {source.name!r}")
        if source.sha256 is not None and digest.hexdigest() != source.sha256:
            raise InputError(
                f"{source.url} has sha256 {digest.hexdigest()}, sources.tsv has {source.sha256} for {source.name!r}"
            )
    print(f"{out}: {length} bytes, sha256 {digest.hexdigest()}")


def fetch_model(source: HubSource | PathSource, out: Path) -> None:
    """Put a model's configuration, tokenizer and safetensors into the folder ``out`` (links, for a folder of yours)."""
    if isinstance(source, PathSource):
        out.mkdir(parents=True, exist_ok=True)
        for file in source.path.iterdir():
            (out / file.name).symlink_to(file.resolve())
        return
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        snapshot_download(source.id, revision=source.revision, allow_patterns=wanted, local_dir=out)
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{source.id} at {source.revision} cannot be downloaded ({reason}): check HF_TOKEN and the licence"
        ) from None
    shutil.rmtree(out / ".cache", ignore_errors=True)


def fetch_corpus(source: CorpusSettings, out: Path, *, documents: int) -> None:
    """Write the first ``documents`` texts of a hub dataset separated by blank lines, those within a text removed."""
    from datasets import load_dataset

    try:
        rows = load_dataset(source.id, source.subset, revision=source.revision, split="train", streaming=True)
        with write_atomically(out) as temporary, temporary.open("w", encoding="utf-8") as file:
            for row in rows.take(documents):
                lines = [line for line in str(row[source.column]).splitlines() if line.strip()]
                file.write("\n".join(lines) + "\n\n")
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{source.id} at {source.revision} cannot be read ({reason}): check corpus in the study"
        ) from None
