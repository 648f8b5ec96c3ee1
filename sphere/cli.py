"""The command line, ``sphere energy | edit | evaluate | plan | interim``; cli_own_model has the rest (docs/cli.md)."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field
from rich.console import Console
from rich.table import Table

import sphere
from sphere.cli_common import (
    AsJson,
    Corpus,
    Device,
    Dtype,
    Limit,
    ModelDir,
    Requests,
    json_text,
    layer_numbers,
    load_quietly,
    print_rows,
    say_skipped,
)
from sphere.cli_own_model import check, locate, tune
from sphere.config.base import Count, Settings, validated
from sphere.config.machine import load_machine
from sphere.config.values import ValueSettings
from sphere.errors import InputError, NumericalError, refused_by_machine
from sphere.files import write_folder_atomically
from sphere.plain_yaml import parse_yaml, read_yaml
from sphere.study.configuration import load_study

if TYPE_CHECKING:
    from sphere.editing.measurement import Record
    from sphere.models.loading import LoadedModel

app = typer.Typer(
    add_completion=False,
    help="Edit facts in language models, and measure what it does. --debug, anywhere, shows tracebacks.",
)

for _command in (check, locate, tune):
    app.command()(_command)


@app.command()
def energy(
    model_dir: ModelDir,
    layers: Annotated[str | None, typer.Option(help="Such as 4,5,6; all layers by default.")] = None,
    s: Annotated[float, typer.Option(help="Exponent of the energy; 0 is logarithmic.")] = 1.0,
    as_json: AsJson = False,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Hyperspherical energy of each layer's MLP output projection (rows are neurons).

    It is infinite, in JSON null, where two rows point the same way: coincident_pairs counts them.
    """
    chosen = None if layers is None else layer_numbers(layers)
    from sphere.geometry.energy import measure_energy
    from sphere.models.adapters import adapter

    parts = adapter(load_quietly(model_dir, device, dtype).model)
    rows = []
    for layer in range(parts.n_layers) if chosen is None else chosen:
        found = measure_energy(parts.weight(layer), s=s)
        rows.append(
            {
                "layer": layer,
                "he_sum": found.sum,
                "he_mean": found.mean,
                "zero_rows": found.zero_rows,
                "coincident_pairs": found.coincident_pairs,
            }
        )
    print_rows(rows, as_json, f"Hyperspherical energy, s = {s:g}")


@app.command("edit")
def edit_model(
    model_dir: ModelDir,
    requests: Requests,
    method: Annotated[str, typer.Option(help="Such as memit, alphaedit, sphere or memit+sphere.")],
    out: Annotated[Path, typer.Option(help="New folder for the edited model.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Edits made at once.")] = 100,
    corpus: Corpus = None,
    hyperparameters: Annotated[
        Path | None, typer.Option(help="YAML: the method's settings, and layers and values.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampled contexts.")] = 0,
    limit: Limit = None,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Edit the facts of REQUESTS into a model, batch after batch, and write the edited model to --out."""
    _check_out(out)
    where, own = _hyperparameters(hyperparameters)

    from sphere.data.records import load_requests
    from sphere.editing.edit import edit
    from sphere.editing.methods import resolve
    from sphere.editing.stats import collect_statistics, read_documents
    from sphere.models.adapters import adapter
    from sphere.models.loading import default_layers
    from sphere.models.precision import dtype_name

    try:  # what is wrong is said before anything is loaded
        chosen = resolve(method, hyperparameters=own)
    except InputError as error:
        raise InputError(f"--hyperparameters {hyperparameters}: {error}" if own else str(error)) from error
    if chosen.needs_statistics and corpus is None:
        raise InputError(f"{method} needs key statistics: give the text to take them from with --corpus FILE.txt")
    documents = None if corpus is None else read_documents(corpus)
    found = load_requests(requests)
    facts = found.requests[:limit]
    loaded = load_quietly(model_dir, device, dtype)
    parts = adapter(loaded.model)
    layers = default_layers(parts.n_layers) if where.layers is None else where.layers
    edited = chosen.edited_layers(layers, ValueSettings())
    statistics = None
    if chosen.needs_statistics and documents is not None:
        statistics = collect_statistics(parts, loaded.tokenizer, documents, edited, gradients=chosen.needs_gradients)
    records: list[Record] = []

    def done(record: Record) -> None:
        records.append(record)
        print(f"{record.edits}/{len(facts)} edits", flush=True)

    edit(
        loaded.model,
        loaded.tokenizer,
        facts,
        method=method,
        layers=layers,
        statistics=statistics,
        hyperparameters=own,
        batch_size=batch_size,
        seed=seed,
        on_batch=done,
    )
    note = {
        "method": method,
        "hyperparameters": chosen.hyperparameters,
        "layers": list(edited),
        "dtype": dtype_name(parts.dtype),
        "corpus": None if statistics is None else {"tokens": statistics.tokens, "held_out": statistics.held_out},
        "values": chosen.value_settings(ValueSettings()).plain(),
        "requests": str(requests),
        "edits": len(facts),
        "batch_size": batch_size,
        "skipped": [{"case_id": case, "reason": reason} for case, reason in found.skipped],
        "seed": seed,
        "sphere": sphere.__version__,
        "energy": [row for record in records for row in record.energy],
    }
    _save(loaded, model_dir, out, note)
    print(f"{len(facts)} edits by {method} written to {out}")
    if statistics is not None:
        print(statistics.summary)
    say_skipped(found)


@app.command()
def evaluate(
    edited_dir: ModelDir,
    requests: Requests,
    as_json: AsJson = False,
    limit: Limit = None,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Editing metrics of a model on REQUESTS: success, accuracy and token accuracy, each with its standard error."""
    from sphere.data.records import load_requests
    from sphere.evaluation.metrics import evaluate_requests

    found = load_requests(requests)
    loaded = load_quietly(edited_dir, device, dtype)
    frame = evaluate_requests(loaded.model, loaded.tokenizer, found.requests[:limit])
    rows = []
    for column in frame.columns.drop("case_id"):
        values = frame[column].dropna()
        if len(values):
            stderr = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
            rows.append({"metric": column, "mean": float(values.mean()), "stderr": stderr, "n": len(values)})
    print_rows(rows, as_json, f"{edited_dir} on {requests}")
    say_skipped(found)


@app.command()
def plan(
    study: Annotated[str, typer.Argument(help="A file in config/studies/, or the path of a study file of your own.")],
    machine: Annotated[str, typer.Option(help="YAML: keys of config.yaml's machine: '{gpu_memory: 141}'.")] = "{}",
    csv: Annotated[Path | None, typer.Option(help="Write the table here too.")] = None,
) -> None:
    """What a study takes, job by job, before it runs; an error if it cannot fit the machine. Times are estimates."""
    from sphere.files import write_csv
    from sphere.study.plan import plan as plan_of

    found = plan_of(load_study(study), load_machine(parse_yaml(machine, "--machine")))
    frame = found.table()
    if csv is not None:
        write_csv(frame, csv)
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title=f"The study {found.study.study.name}, before it runs: estimates", title_justify="left")
    for head in ("job", "jobs", "GPU GiB", "RAM GiB", "hours, longest", "hours, all", "disk GiB"):
        table.add_column(head, justify="left" if head == "job" else "right", no_wrap=True)
    for model, rows in frame.groupby("model", sort=False):
        table.add_section()
        table.add_row("[bold]" + (str(model) or "all models"))
        for row in rows.to_dict("records"):
            table.add_row(*_planned({str(key): value for key, value in row.items()}))
    console.print(table)
    problems = found.problems()
    lines = [*found.summary().splitlines(), *found.notes(), *problems[1:]]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if problems:
        raise InputError(problems[0])


@app.command()
def interim(
    study: Annotated[str, typer.Argument(help="A file in config/studies/, or the path of a study file of your own.")],
    out: Annotated[Path, typer.Option(help="New folder for tables, figures and claims.")],
    results: Annotated[Path, typer.Option(help="The folder that the workflow writes to.")] = Path("results"),
) -> None:
    """Tables, figures and claims of what a study has measured so far, by jobs that were cut off too."""
    _check_out(out)
    from sphere.report import figures, tables
    from sphere.report.claims import check_claims

    whole = load_study(study)
    published = whole.root / "published"
    with write_folder_atomically(out) as folder:
        missing = tables.gather(results / whole.study.name, whole.study.scope(whole.models), folder / "tables")
        neurons = results / whole.study.name / "tables" / "neuron_cosine.csv"
        if neurons.exists():  # a job's own, not gathered
            shutil.copy(neurons, folder / "tables")
        tables.write_all(folder / "tables", folder / "tables", published=published)
        figures.write_all(folder / "tables", folder / "figures", published=published)
        check_claims(folder / "tables", published, folder / "claims")
    print(f"{out} has what is measured so far of {whole.study.name}")
    if missing:
        print(f"not there yet: {len(missing)} files ({out / 'tables' / 'missing.csv'})")


def _planned(row: Mapping[str, Any]) -> list[str]:
    """A row of plan.csv as it is printed; sizes range from small to full micro-batches."""

    def number(key: str, decimals: int = 1) -> str:
        return f"{row[key]:.{decimals}f}" if row[key] else "–"

    gpu = number("gpu_gib_least")
    if number("gpu_gib_most") != gpu:
        gpu += f" to {number('gpu_gib_most')}"
    disk = number("disk_gib") + (" *" if row["temporary"] else "")
    hours = [number("longest_hours", 2), number("hours", 2)]
    return [f"  {row['rule']} {row['method']}".rstrip(), str(row["jobs"]), gpu, number("host_gib"), *hours, disk]


class EditFile(Settings):
    """What a hyperparameters file may say beside the method's own settings and ``values``."""

    layers: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    """Edited layers, ascending; null: MEMIT's, scaled to the model's depth."""


def _hyperparameters(path: Path | None) -> tuple[EditFile, dict[str, Any]]:
    """The file's ``layers``, and the method's own settings, its target values' among them."""
    if path is None:
        return EditFile(), {}
    content = read_yaml(path)
    if not isinstance(content, Mapping | None):
        raise InputError(f"--hyperparameters {path} holds no settings: write lines of 'name: value'")
    given = {str(key): value for key, value in (content or {}).items()}
    if "source" in given and "methods" in given:
        raise InputError(
            f"--hyperparameters {path} is a model's file: give a file with its layers and one method's own settings"
        )
    where = {key: given.pop(key) for key in EditFile.model_fields if key in given}
    return validated(EditFile, where, f"--hyperparameters {path}"), given


def _check_out(out: Path) -> None:
    """Refuse a folder that cannot be written, before hours of editing."""
    if os.path.lexists(out):  # a link to nowhere too
        raise InputError(f"--out {out} exists already: name a new folder")
    above = next(parent for parent in out.absolute().parents if os.path.lexists(parent))
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"--out {out}: {above} is not a folder you may write to: name another")


OWN_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.tiktoken"),
    *("chat_template*", "LICEN[CS]E*", "NOTICE*", "USE_POLICY*"),
)
"""Files of a model's folder that an edit does not touch: its tokenizer and its licence."""


def _save(loaded: LoadedModel, source: Path, out: Path, note: Mapping[str, Any]) -> None:
    """Write model, tokenizer and what was done to ``out``, whole or not at all; ``source``'s own files as they are."""
    with write_folder_atomically(out) as folder:
        loaded.model.save_pretrained(folder)
        own = source if source.is_dir() else source.parent
        kept = sorted({file for pattern in OWN_FILES for file in own.glob(pattern) if file.is_file()})
        if not source.is_dir() or not any(file.name.startswith("tokenizer") for file in kept):  # GGUF has it inside
            loaded.tokenizer.save_pretrained(folder)
            kept = [file for file in kept if re.match("LICEN|NOTICE|USE", file.name)]
        for file in kept:
            shutil.copyfile(file, folder / file.name)
        (folder / "sphere.json").write_text(json_text(note) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit code 0, 2 for bad input, 1 for anything else; ``--debug`` shows tracebacks."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"] or ["--help"]
    try:
        code = typer.main.get_command(app).main(given, "sphere", standalone_mode=False)
    except Exception as error:
        if debug:
            raise
        explain = getattr(error, "format_message", None)  # the option parser's errors have it
        message = explain() if explain else str(error)
        if not explain and not isinstance(error, InputError | NumericalError):
            message = refused_by_machine(error) or f"{type(error).__name__}: {message} (--debug shows where)"
        print(f"sphere: {' '.join(message.split())}", file=sys.stderr)
        raise SystemExit(2 if explain or isinstance(error, InputError) else 1) from None
    raise SystemExit(code or 0)


if __name__ == "__main__":
    main()
