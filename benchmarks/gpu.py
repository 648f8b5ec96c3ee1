"""What a GPU is to show, part by part within a time budget: figures as JSON, and the state that a stream ends with.

    sh benchmarks/gpu.sh                                   # what is there, and nothing more
    sh benchmarks/gpu.sh 8b tests --out gpu                # one GPU of 80 GB
    sh benchmarks/gpu.sh smollm2 stream --out gpu --model MODEL --records RECORDS.json --corpus TEXT.txt
    sh benchmarks/gpu.sh 8b --out gpu --only model moments # those of its steps that have one of these words
    sh benchmarks/gpu.sh 8b --out gpu --tiny               # the same steps in a minute, on a CPU too

8b: rows of run.py at Llama3-8B's shapes with random bfloat16 weights, and memory_8b.py. smollm2: target values and
metrics of a model (a folder or a .gguf file) on real records, against plain. stream: one method edits all the records
in batches of 100. tests: the tests that need CUDA. Nothing is installed; a step that the budget has no time for is
skipped, and one that fails does not stop the next. --out gets PARTS.json, renewed at every step.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import shlex
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import comparisons
import torch
from comparisons import Size
from measure import Row, machine, seconds
from run import GPU_GOALS, GPU_SIZE, said
from transformers import LlamaConfig
from workload import LLAMA3_8B, Workload, llama3_8b, real

from sphere.editing.loop import Editor
from sphere.editing.measurement import Record
from sphere.editing.methods import resolve
from sphere.editing.stats import collect_statistics
from sphere.errors import InputError
from sphere.evaluation.generation import evenly
from sphere.evaluation.metrics import evaluate_requests
from sphere.files import read_json, write_json
from sphere.models.loading import resolve_device

ROOT = Path(__file__).parents[1]
PARTS = ("8b", "smollm2", "stream", "tests")
WANTED = 15000
"""Edits that the stream's minutes are reckoned for."""
EVALUATED = 200
"""Edits that are evaluated after the stream, evenly spread."""
AFTERWARDS = 20
"""Seconds that the stream leaves for saving and evaluating."""
TINY_SHAPE = LlamaConfig(
    vocab_size=2048,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=10,
    num_attention_heads=4,
    num_key_value_heads=2,
)
TINY_SIZE = Size(1, 2, 1, 2, 2, 1, (8, 28), (8, 28), large=(8, 28))

Result = TypeVar("Result")


@dataclass
class Budget:
    """The steps so far, and the seconds left for more; ``only``: words of which a step to take has one (all: none)."""

    seconds: float
    file: Path
    only: tuple[str, ...] = ()
    steps: list[dict[str, Any]] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.start)

    def step(self, what: str, needs: float, run: Callable[[], Result]) -> Result | None:
        """What ``run`` gives; None if it is not asked for, lacks its ``needs`` seconds, or failed: the file says so."""
        if self.only and not any(word in what for word in self.only):
            return None
        done: dict[str, Any] = {"step": what}
        result = None
        if self.left < needs:
            done["skipped"] = f"{self.left:.0f} seconds are left, {needs:.0f} may be needed"
        else:
            start = self.left
            try:
                result = run()
                done |= {"seconds": start - self.left, "result": as_json(result)}
            except Exception as error:  # the next step may not share the reason
                traceback.print_exc()
                done["failed"] = f"{type(error).__name__}: {error}"
        self.steps.append(done)
        self.save()
        shown = done.get("skipped") or done.get("failed") or f"{done['seconds']:.1f} s"
        print(f"[{self.seconds - self.left:4.0f} s] {what}: {shown}", file=sys.stderr, flush=True)
        return result

    def save(self) -> None:
        spent = self.seconds - self.left
        command = shlex.join(["sh", "benchmarks/gpu.sh", *sys.argv[1:]])
        write_json({"machine": machine(), "command": command, "seconds": spent, "steps": self.steps}, self.file)


def as_json(result: object) -> Any:
    """A step's result as JSON values; None for what only later steps use."""
    if isinstance(result, list) and all(isinstance(row, Row) for row in result):
        return [dataclasses.asdict(row) | {"value": row.value} for row in result]
    return result if isinstance(result, dict | list | str) else None


def main() -> int:
    given = arguments()
    try:
        check(given)
        if not given.parts:
            return 0
        given.out.mkdir(parents=True, exist_ok=True)
        budget = Budget(given.seconds, given.out / f"{'-'.join(given.parts)}.json", tuple(given.only))
        device = resolve_device(given.device)
        if "8b" in given.parts:
            large_shapes(budget, given, device)
        if {"smollm2", "stream"} & {*given.parts}:
            real_model(budget, given, device)
        if "tests" in given.parts:
            budget.step("tests: those that need CUDA", 30, lambda: cuda_tests(budget, given.out / "tests.txt"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(any("failed" in step for step in budget.steps))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; none: what is there")
    parser.add_argument("--out", type=Path, help="folder for the figures and the state")
    parser.add_argument("--seconds", type=float, default=440, help="time budget (default: 440, under eight minutes)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="steps with one of these words, no others"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny shapes and few records, on any device")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--model", type=Path, help="smollm2, stream: a model's folder or .gguf file")
    parser.add_argument("--records", type=Path, nargs="+", default=[], help="smollm2, stream: CounterFact's schema")
    parser.add_argument("--corpus", type=Path, help="stream: text for key statistics")
    parser.add_argument("--study", default="smollm2", help="whose first model's settings are taken")
    parser.add_argument("--method", default="alphaedit", help="stream: the method")
    parser.add_argument("--targets", choices=["current", "pretrained"], help="stream: weights that target values see")
    parser.add_argument("--batch-size", type=int, default=100, help="stream: edits made at once")
    parser.add_argument("--edits", type=int, help="stream: edits at most (default: all the records)")
    return parser.parse_args()


def check(given: argparse.Namespace) -> None:
    """Say what is there; InputError, before anything is computed, if a chosen part lacks something."""
    print(", ".join(f"{key} {value}" for key, value in machine().items()), file=sys.stderr)
    if unknown := [part for part in given.parts if part not in PARTS]:
        raise InputError(f"there is no part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    if given.parts and given.out is None:
        raise InputError("the figures have no place: name a folder with --out")
    if {"8b", "tests"} & {*given.parts} and not given.tiny and not torch.cuda.is_available():
        raise InputError("torch sees no GPU: leave 8b and tests out, or take their steps in small with --tiny")
    for part, names in {"smollm2": ("model", "records"), "stream": ("model", "records", "corpus")}.items():
        for name in names if part in given.parts else ():
            if not getattr(given, name):
                raise InputError(f"{part} needs --{name}")
    for path in filter(None, (given.model, given.corpus, *given.records)):
        if not path.exists():
            raise InputError(f"{path} is not there: check --model, --records and --corpus")


# ------------------------------------------------------------------------------------------------ Llama3-8B's shapes


def large_shapes(budget: Budget, given: argparse.Namespace, device: torch.device) -> None:
    """The rows of run.py that need a GPU; then, with the memory free again, memory_8b.py in a process of its own."""
    shape, size = (TINY_SHAPE, TINY_SIZE) if given.tiny else (LLAMA3_8B, GPU_SIZE)
    workload = budget.step("8b: model", 60, lambda: llama3_8b(shape, str(device)))
    if workload is not None:
        for what, (compare, goal) in GPU_GOALS.items():
            budget.step(f"8b: {what}", 60, lambda c=compare, g=goal: [said(c(workload, size, g))])
        budget.step("8b: energy", 15, lambda: [*map(said, comparisons.energy(size, device))])
        budget.step("8b: projection", 15, lambda: [*map(said, comparisons.projection(size, device))])
        budget.step("8b: shares", 30, lambda: [*map(said, comparisons.shares(workload, size, device)[0])])
    workload = None
    if device.type == "cuda":
        torch.cuda.empty_cache()
    budget.step("8b: memory", 60, lambda: memory(budget, given, device))


def memory(budget: Budget, given: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """The table of memory_8b.py: what it got done, where the time runs out."""
    script, found = Path(__file__).with_name("memory_8b.py"), given.out / "memory_8b.json"
    small = ["--tiny", "--documents", "200", "--dtype", "float32"] if given.tiny else []
    command = [sys.executable, str(script), "--device", str(device), "--json", str(found), *small]
    found.unlink(missing_ok=True)
    try:
        subprocess.run(command, cwd=ROOT, check=True, timeout=max(1, budget.left))
    except subprocess.TimeoutExpired:
        print("memory_8b.py was stopped: no time is left", file=sys.stderr)
    return list(read_json(found))


# ---------------------------------------------------------------------------------------------- a real model, records


def real_model(budget: Budget, given: argparse.Namespace, device: torch.device) -> None:
    """Target values and metrics against plain, and the stream."""

    def found() -> Workload:
        return real(given.model, given.records, given.study, given.corpus, str(device))

    workload = budget.step("smollm2: model and records", 30, found)
    if workload is None:
        return
    if "smollm2" in given.parts:
        size = TINY_SIZE if given.tiny else GPU_SIZE
        budget.step("smollm2: target values", 60, lambda: [said(comparisons.values(workload, size, 10))])
        budget.step("smollm2: metrics", 30, lambda: [said(comparisons.metrics(workload, size, 3))])
    if "stream" in given.parts:
        budget.step(f"stream: {given.method}", 2 * AFTERWARDS, lambda: stream(budget, workload, given))


def stream(budget: Budget, workload: Workload, given: argparse.Namespace) -> dict[str, Any]:
    """Edit the records one batch after the other, until they or the time end, and say what an edit took where."""
    editor = new_editor(workload, given)
    requests = workload.texts.requests[: given.edits]
    batches: list[dict[str, Any]] = []
    records: list[Record] = []
    for start in range(0, len(requests), given.batch_size):
        if batches and budget.left < AFTERWARDS + 2 * batches[-1]["seconds"]:
            break
        batch = requests[start : start + given.batch_size]
        spent, _ = seconds(lambda b=batch: editor.run(b, batch_size=len(b), on_batch=records.append))
        batches.append({"edits": start + len(batch), "seconds": spent, "phases": records[-1].seconds} | held())
        if len(batches) % 10 == 1:
            print(f"{start + len(batch)} edits: {spent / len(batch):.4f} s an edit", file=sys.stderr, flush=True)
    editor.state.save(given.out / f"{given.method}.safetensors")
    done = batches[-1]["edits"]
    some = [requests[i] for i in evenly(done, EVALUATED)]
    frame = evaluate_requests(editor.adapter.model, workload.tokenizer, some).drop(columns="case_id")
    total = sum(batch["seconds"] for batch in batches)
    said_for = f"minutes for {WANTED} edits" + (f", extrapolated from {done}" if done < WANTED else "")
    found = {
        "method": given.method,
        "targets": editor.values.weights,
        "edits": done,
        "stopped": done < len(requests),
        "seconds": total,
        "edits a second": done / total,
        said_for: WANTED * total / done / 60,
        "growth": growth([batch["seconds"] / given.batch_size for batch in batches]),
    }
    print("; ".join(f"{key} {value}" for key, value in found.items()), file=sys.stderr, flush=True)
    return found | {"metrics": frame.mean().dropna().to_dict(), "batches": batches}


def new_editor(workload: Workload, given: argparse.Namespace) -> Editor:
    """An editor of the unedited model, with key statistics where the method needs them."""
    settings = workload.settings
    values = settings.values.model_copy(update={"weights": given.targets} if given.targets else {})
    method = resolve(given.method, hyperparameters=settings.hyperparameters(given.method))
    found = None
    if method.needs_statistics:
        found = collect_statistics(
            workload.parts,
            workload.tokenizer,
            workload.texts.documents,
            method.edited_layers(settings.layers, values),
            max_length=settings.statistics.max_length,
            gradients=method.needs_gradients,
        )
    return Editor(
        workload.parts.model,
        workload.tokenizer,
        method,
        layers=settings.layers,
        values=values,
        contexts=workload.contexts,
        statistics=found,
    )


def held() -> dict[str, int]:
    """MiB: the most that this process has held, and what tensors hold of the GPU now."""
    found = {"most main memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    if torch.cuda.is_available():
        found["GPU memory, MiB"] = torch.cuda.memory_allocated() // 2**20
    return found


def growth(costs: list[float]) -> float | None:
    """The last quarter's median seconds an edit over the second's: the first, where a process is slow, is left out."""
    quarter = len(costs) // 4
    if not quarter:
        return None
    return statistics.median(costs[-quarter:]) / statistics.median(costs[quarter : 2 * quarter])


# ----------------------------------------------------------------------------------------------------------- tests


def cuda_tests(budget: Budget, log: Path) -> dict[str, str]:
    """The last line that pytest prints, with all of them in ``log``; a failing test fails the step.

    A machine may have other versions of packages than the pinned ones, so that their warnings are no failures here.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-k", "cuda", "tests/parity/test_sequential.py"]
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=max(1, budget.left))
    last = log.read_text(encoding="utf-8").strip().splitlines()[-1]
    if done.returncode:
        raise RuntimeError(f"pytest: {last} ({log})")
    return {"pytest": last}


if __name__ == "__main__":
    sys.exit(main())
