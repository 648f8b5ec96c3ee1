"""``sphere energy | edit | evaluate``: the library on any local Hugging Face model, without a workflow."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

import sphere
from sphere.config import EditSettings
from sphere.errors import InputError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Edit facts in language models, and measure what it does.")

ModelDir = Annotated[Path, typer.Argument(help="Folder of a Hugging Face causal language model.")]
Requests = Annotated[Path, typer.Argument(help="Records in CounterFact's or zsRE's own schema (JSON).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16, ...; the checkpoint's own by default.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first N usable records.")]


@app.command()
def energy(
    model_dir: ModelDir,
    layers: Annotated[str | None, typer.Option(help="Such as 4,5,6; all layers by default.")] = None,
    s: Annotated[float, typer.Option(help="Exponent of the energy; 0 is logarithmic.")] = 1.0,
    as_json: AsJson = False,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Hyperspherical energy of each layer's MLP output projection (rows are neurons)."""
    from sphere.energy import measure_energy
    from sphere.models import adapter, load

    chosen = None if layers is None else _layers(layers)
    parts = adapter(load(model_dir, device=device, dtype=dtype).model)
    rows = []
    for layer in chosen if chosen is not None else range(parts.n_layers):
        found = measure_energy(parts.weight(layer), s=s)
        rows.append({"layer": layer, "he_sum": found.sum, "he_mean": found.mean, "zero_rows": found.zero_rows})
    _print(rows, as_json, f"Hyperspherical energy, s = {s:g}")


@app.command("edit")
def edit_model(
    model_dir: ModelDir,
    requests: Requests,
    method: Annotated[str, typer.Option(help="Such as memit, alphaedit, sphere or memit+sphere.")],
    out: Annotated[Path, typer.Option(help="New folder for the edited model.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Edits made at once.")] = 100,
    corpus: Annotated[Path | None, typer.Option(help="Text for the key statistics; blank lines separate documents.")] = None,
    hyperparameters: Annotated[Path | None, typer.Option(help="YAML: the method's settings; layers and values too.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampled contexts.")] = 0,
    limit: Limit = None,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Edit the facts of REQUESTS into a model, batch after batch, and write the edited model to --out."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out} exists already: name a new folder")
    settings, own = _hyperparameters(hyperparameters)

    from sphere.data import load_requests
    from sphere.methods import resolve
    from sphere.models import load
    from sphere.sequential import Record, default_layers, edit
    from sphere.stats import read_documents

    resolve(method, hyperparameters=own)  # a wrong name or value is answered before anything is loaded
    documents = read_documents(corpus) if corpus is not None else None
    loaded_requests = load_requests(requests)
    chosen = loaded_requests.requests[:limit]
    loaded = load(model_dir, device=device, dtype=dtype)
    layers = settings.layers if settings else default_layers(loaded.model.config.num_hidden_layers)
    records: list[Record] = []

    def done(record: Record) -> None:
        records.append(record)
        print(f"{record.edits}/{len(chosen)} edits", file=sys.stderr, flush=True)

    edit(
        loaded.model,
        loaded.tokenizer,
        chosen,
        method=method,
        layers=layers,
        values=settings.values if settings else None,
        corpus=documents,
        hyperparameters=own,
        batch_size=batch_size,
        seed=seed,
        on_batch=done,
    )
    note = {
        "method": method,
        "hyperparameters": resolve(method, hyperparameters=own).hyperparameters,
        "layers": list(layers),
        "requests": str(requests),
        "edits": len(chosen),
        "skipped": [{"case_id": case, "reason": reason} for case, reason in loaded_requests.skipped],
        "seed": seed,
        "sphere": sphere.__version__,
        "energy": [row for record in records for row in record.energy],
    }
    _save(loaded, out, note)
    skipped = f" ({len(loaded_requests.skipped)} records skipped, see {out / 'sphere.json'})" if loaded_requests.skipped else ""
    print(f"{len(chosen)} edits by {method} written to {out}{skipped}")


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
    from sphere.data import load_requests
    from sphere.metrics import evaluate_requests
    from sphere.models import load

    found = load_requests(requests)
    loaded = load(edited_dir, device=device, dtype=dtype)
    frame = evaluate_requests(loaded.model, loaded.tokenizer, found.requests[:limit])
    rows = []
    for column in frame.columns.drop("case_id"):
        values = frame[column].dropna()
        if len(values):
            stderr = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
            rows.append({"metric": column, "mean": float(values.mean()), "stderr": stderr, "n": len(values)})
    if found.skipped:
        print(f"{len(found.skipped)} records skipped; the first: {found.skipped[0][1]}", file=sys.stderr)
    _print(rows, as_json, f"{edited_dir} on {requests}")


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--layers {text!r}: give numbers separated by commas, such as 4,5,6") from None


def _hyperparameters(path: Path | None) -> tuple[EditSettings | None, dict[str, Any]]:
    """The file's ``layers`` and ``values``, if it has them, and the method's own settings."""
    if path is None:
        return None, {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--hyperparameters {path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"--hyperparameters {path} holds no settings: write lines of 'name: value'")
    own = {str(key): value for key, value in content.items() if key not in ("layers", "values")}
    if not content.keys() & {"layers", "values"}:
        return None, own
    if "layers" not in content:
        raise InputError(f"--hyperparameters {path}: values without layers; name the layers to edit too")
    try:
        return EditSettings(layers=content["layers"], values=content.get("values", {})), own
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise InputError(f"--hyperparameters {path}: {where}: {problem['msg']}") from error


def _save(loaded: Any, out: Path, note: Mapping[str, Any]) -> None:
    """Write model, tokenizer and what was done to ``out``, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        whole = Path(folder) / "model"
        loaded.model.save_pretrained(whole)
        loaded.tokenizer.save_pretrained(whole)
        (whole / "sphere.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        shutil.move(whole, out)


def _print(rows: list[dict[str, Any]], as_json: bool, title: str) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(f"{v:.6g}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values()))
    Console().print(table)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit code 0, 2 for bad input, 1 for anything else; ``--debug`` shows tracebacks."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    try:
        code = typer.main.get_command(app).main([a for a in given if a != "--debug"], "sphere", standalone_mode=False)
    except Exception as error:
        if debug:
            raise
        bad_input = isinstance(error, InputError) or hasattr(error, "exit_code")
        message = error.format_message() if hasattr(error, "format_message") else str(error) or type(error).__name__
        print(f"sphere: {' '.join(message.split())}", file=sys.stderr)
        raise SystemExit(2 if bad_input else 1) from None
    raise SystemExit(code or 0)
