"""The job that writes a GGUF file out as a model folder."""

from __future__ import annotations

from pathlib import Path

from sphere.errors import InputError
from sphere.files import write_folder_atomically
from sphere.models.adapters import adapter
from sphere.models.loading import is_gguf, load


def convert_gguf(file: Path, out: Path) -> None:
    """Write the GGUF ``file`` out as a folder in Hugging Face's layout, in float32.

    Raises InputError, in one line, on a file that is none, or whose architecture or quantisation cannot be read.
    """
    if not is_gguf(file):
        raise InputError(f"{file} is no GGUF file: check it, or where it came from")
    loaded = load(file, device="cpu")
    adapter(loaded.model)  # InputError on an architecture that cannot be edited
    with write_folder_atomically(out) as folder:
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    size = sum(parameter.numel() for parameter in loaded.model.parameters())
    print(f"{out}: {size:,} parameters of {file.name} in float32")
