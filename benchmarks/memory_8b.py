"""Does the 8B study fit? Peak memory of a randomly initialised model of LLaMA3-8B's shape, beside what the plan says.

    python benchmarks/memory_8b.py                      # CUDA, bfloat16 with float32 edited layers: one GPU of 80 GB
    python benchmarks/memory_8b.py --dtype float32      # one GPU of 141 GB
    python benchmarks/memory_8b.py --tiny --device cpu  # the same steps in seconds, without a peak to show

Key statistics, null space, principal directions, one batch of 100 edits by SPHERE and its hyperspherical energy, on
records and text of a small fictional world. The weights are random, so nothing but memory and time means anything.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sphere.config.machine import MachineSettings
from sphere.config.model import ShapeSettings, StatisticsSettings
from sphere.config.world import WorldSettings
from sphere.data.records import load_requests
from sphere.data.world.build import build
from sphere.data.world.training import train_tokenizer
from sphere.editing.contexts import sample_contexts
from sphere.editing.loop import Editor
from sphere.editing.methods import resolve
from sphere.editing.spectra import Spectra, key_spectrum, principal_spectrum
from sphere.editing.stats import collect_statistics, read_documents
from sphere.files import write_json
from sphere.models.adapters import adapter
from sphere.models.loading import resolve_device
from sphere.study.configuration import load_study
from sphere.study.plan.costs import CONTEXT, FRAGMENTATION, GIB, Costs
from sphere.study.plan.shapes import shape_of

TINY = ShapeSettings(width=64, inner=224, depth=10, heads=4, kv_heads=1, vocabulary=2048)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="llama3-8b-instruct", help="a model of the study paper, for shape and layers"
    )
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", type=Path, help="file for the figures, renewed at every step")
    given = parser.parse_args()
    device = resolve_device(given.device)
    study = load_study("paper")
    settings = study.models[given.model]
    shape = TINY if given.tiny else shape_of(settings)
    settings = settings.model_copy(
        update={"shape": shape, "dtype": given.dtype, "statistics": StatisticsSettings(documents=given.documents)}
    )
    one = study.study.model_copy(update={"methods": ("sphere",)})
    costs = Costs(
        settings, study.model_copy(update={"study": one, "models": {given.model: settings}}), MachineSettings()
    )
    planned = {job.rule: job.gpu_most for job in costs.preparations()}
    method = resolve("sphere", hyperparameters={"nullspace_fraction": 0.8})
    planned["edit"] = CONTEXT + FRAGMENTATION * costs.bytes.edit_memory(method)[1]

    with tempfile.TemporaryDirectory() as folder:
        build(WorldSettings(people=100, tuning_people=0, qa_people=10, documents=given.documents), Path(folder))
        documents = read_documents(Path(folder) / "corpus.txt")
        requests = load_requests(Path(folder) / "counterfact.json").requests[: 10 if given.tiny else 100]
    tokenizer = train_tokenizer(documents, 2048)

    print(f"{given.model}'s shape, {given.dtype}, on {device}" + (" (tiny)" if given.tiny else ""))
    print("| step | seconds | peak GiB | of it held before | planned at most GiB |\n| --- | --- | --- | --- | --- |")

    steps: list[dict[str, Any]] = []

    @contextmanager
    def measured(step: str) -> Iterator[None]:
        found: dict[str, Any] = {"step": step}
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()  # what an earlier step had reserved is no part of this one's peak
            torch.cuda.reset_peak_memory_stats(device)
            # The model and what earlier steps made: a job null_space or directions has none of it.
            found["held_gib"] = torch.cuda.memory_allocated(device) / GIB
        start = time.perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            found["peak_gib"] = torch.cuda.max_memory_reserved(device) / GIB
            found |= {"planned_gib": planned[step] / GIB} if step in planned else {}
        found["seconds"] = time.perf_counter() - start
        sizes = (f"{found[key]:.1f}" if key in found else "–" for key in ("peak_gib", "held_gib", "planned_gib"))
        print(f"| {step} | {found['seconds']:.1f} | {' | '.join(sizes)} |", flush=True)
        steps.append(found)
        if given.json:
            write_json(steps, given.json)

    torch.manual_seed(0)
    with measured("model"), device:
        config: Any = LlamaConfig(
            vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.inner,
            num_hidden_layers=shape.depth, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
            max_position_embeddings=8192, tie_word_embeddings=shape.tied, dtype=getattr(torch, given.dtype),
        )  # fmt: skip
        model = LlamaForCausalLM(config).to(getattr(torch, given.dtype)).eval().requires_grad_(False)
    parts = adapter(model)
    with measured("contexts"):
        contexts = sample_contexts(parts, tokenizer, count=5, length=10, generator=torch.Generator().manual_seed(0))
    with measured("statistics"):
        statistics = collect_statistics(parts, tokenizer, documents, costs.layers)
    with measured("null_space"):
        keys = {i: key_spectrum(c) for i, c in statistics.second_moments.items()}
    with measured("directions"):
        principal = {i: principal_spectrum(parts.weight(i)) for i in costs.layers}
    statistics.second_moments.update({i: c.cpu() for i, c in statistics.second_moments.items()})
    for spectra in (keys, principal):  # a job has them in main memory, as it reads them from files
        for i, found in spectra.items():
            spectra[i] = type(found)(*(tensor.cpu() for tensor in vars(found).values()))
    with measured("edit"):
        editor = Editor(
            model,
            tokenizer,
            method,
            layers=settings.layers,
            values=settings.values,
            contexts=contexts,
            statistics=statistics,
            spectra=Spectra(keys, principal),
        )
        state = editor.run(requests, batch_size=100, on_batch=lambda record: print(_line(record.energy)))
    assert state.position == len(requests)


def _line(energy: list[dict[str, float]]) -> str:
    return "HE, mean over pairs, by layer: " + ", ".join(f"{row['layer']:g}: {row['he_mean']:.6f}" for row in energy)


if __name__ == "__main__":
    main()
