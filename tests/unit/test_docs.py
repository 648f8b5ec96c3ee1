"""The documents say what the code does: examples are run, tables are held against the code's own constants."""

from __future__ import annotations

import importlib.util
import json
import pydoc
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import families
import pandas as pd
import pytest
import torch
import yaml
from conftest import TEXTS, ModelMaker, TokenizerMaker
from keep import MARKED, RESULTS, cells, kept, renewed, shown
from pydantic import BaseModel
from transformers import PhiConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

import sphere
from sphere import cli
from sphere.config.values import ValueSettings
from sphere.data.facts import build
from sphere.data.records import EditRequest
from sphere.editing.edit import edit
from sphere.editing.methods import method_names, resolve
from sphere.editing.postprocess.base import POSTPROCESSES, PostContext
from sphere.editing.replay import Row, record
from sphere.editing.solvers.base import SOLVERS, LayerProblem
from sphere.errors import InputError
from sphere.evaluation import general_ability, knowledge, metrics, neutral
from sphere.evaluation.neurons import COLUMNS as NEURON_COLUMNS
from sphere.models import adapters
from sphere.models.adapters import Family, adapter
from sphere.models.hooks import capture_output
from sphere.report import claims, results
from sphere.report.tables import summaries
from sphere.study import locate, plan, stages, tune

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
REQUESTS = (
    EditRequest(1, "Ada Lovelace", "The mother tongue of Ada Lovelace is", 21, "French", "English"),
    EditRequest(2, "Emil Zátopek", "Emil Zátopek lives in the city of", 0, "New York City", "Prague"),
)
CORPUS = [text[start:] for text in TEXTS for start in range(0, len(text), 3)]


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def sections(text: str, level: int) -> dict[str, str]:
    """Heading -> what stands under it, up to the next heading of that level or above."""
    parts = re.split(rf"^(#{{1,{level}}}) (.+)$", text, flags=re.MULTILINE)[1:]
    found = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    return {title: body for marks, title, body in found if len(marks) == level}


def rows(text: str) -> list[list[str]]:
    """The cells of the first table's rows, without its header."""
    table = re.search(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert table, f"no table in {text[:80]!r}"
    lines = table.group().splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# ------------------------------------------------------------------------------------------------ every page


OTHERS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "config/README.md", "config/published/README.md")
PAGES = [*DOCS.glob("*.md"), *(ROOT / name for name in OTHERS)]


def place(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_named_files_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"`((?:tests|sphere|config|docs|workflow)/[\w./-]+\.\w+)`", text):
        assert (ROOT / target).exists() or "NAME" in target, target


def test_no_documented_command_has_a_target_behind_its_configuration() -> None:
    """Snakemake takes every word behind ``--config``, up to the next option, for a setting."""
    found = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"snakemake [^`#\n]*--config [^`#\n]*", text):
            words = re.sub(r"(['\"]).*?\1", lambda quoted: quoted[0].replace(" ", ""), line).split()
            behind = words[words.index("--config") + 1 :]
            end = next((i for i, word in enumerate(behind) if word.startswith("-")), len(behind))
            assert all("=" in word for word in behind[:end]), f"{page.name}: {line}"
            found += 1
    assert found > 20


def test_every_footgun_names_a_test_that_is_there() -> None:
    tables = [row for body in sections(read("footguns.md"), 2).values() if "| test |" in body for row in rows(body)]
    assert len(tables) > 20
    for *_, named in tables:
        (file, test) = names(named)[0].split("::")
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), named


def test_every_page_is_in_the_readme() -> None:
    linked = re.findall(r"\]\((docs/[^)#]+\.md)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert sorted(set(linked)) == sorted(f"docs/{page.name}" for page in DOCS.glob("*.md"))


def test_every_page_is_in_the_site_once() -> None:
    """What `make docs` would find out in half a minute."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = [page for section in site["nav"] for pages in section.values() for page in pages]
    assert sorted(named) == sorted(place(page) for page in [*PAGES, DOCS / "site" / "api.md"])
    (copied,) = re.findall(r"cp --parents -r (.+) \.site/pages", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert {page for page in named if not page.startswith("docs/")} < {*copied.split()}
    assert "docs" in copied.split()
    for page in PAGES:
        for target in re.findall(r"\]\((?!https:)([^)#]+)", page.read_text(encoding="utf-8")):
            there = place((page.parent / target).resolve())
            assert there.startswith("docs/") or there in copied.split(), f"{page.name}: {there} is not in the site"


def test_what_the_site_documents_is_there() -> None:
    wanted = re.findall(r"^::: ([\w.]+)$", read("site/api.md"), re.MULTILINE)
    assert {f"{home}.{name}" for name, home in sphere._HOMES.items()} <= set(wanted)
    for name in wanted:
        assert pydoc.locate(name).__doc__, name


def test_version_and_licence_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == sphere.__version__
    assert f"## {sphere.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["license"] == "Apache-2.0"
    assert "Apache License\n" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_map_of_the_house_is_right() -> None:
    """The same in both pages, short, and every folder and file of sphere/ is on it."""
    maps = []
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        (found,) = re.findall(r"(?m)^    cli\.py .+\n(?:    .+\n)+", text)
        maps.append(found)
    assert maps[0] == maps[1]
    assert len(maps[0].splitlines()) <= 20
    named = {name.rstrip("/") for name in re.findall(r"(?m)(?:^    |, )(\w+(?:/|\.py))(?=[ ,]|$)", maps[0])}
    there = {path.name for path in (ROOT / "sphere").iterdir() if path.name not in ("__init__.py", "__pycache__")}
    assert there <= named


# ------------------------------------------------------------------------------------------------ results in documents


def marked_tables() -> list[Any]:
    return [
        pytest.param(found[1].split(), found[2], id=f"{page.name}:{found[1]}")
        for page in PAGES
        for found in MARKED.finditer(page.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(("files", "table"), marked_tables())
def test_a_table_says_what_its_results_say(files: list[str], table: str) -> None:
    """Every cell is in the files, and as `python benchmarks/keep.py` writes it."""
    header, _, *lines = map(cells, table.splitlines())
    for label, *own in lines:
        for name, cell in zip(header[1:], own, strict=True):
            value, spread = kept(files, label, name)
            assert value is not None or not cell, (label, name)
            written, _, half = cell.partition(" ± ")
            assert shown(value, written) == written, (label, name, cell, value)
            assert not half or shown(spread, half) == half, (label, name, cell, spread)


def test_a_wrong_digit_in_a_table_is_found() -> None:
    assert shown(1234.567, "1,234.5") == "1,234.6"
    assert shown(-0.5, "0.40") == "−0.50"
    assert shown(float("nan"), "0.1") == shown(None, "") == ""
    table = pd.read_csv(RESULTS / "smollm2" / "energy.csv").set_index("method")
    assert kept(["smollm2/energy.csv"], "MEMIT", "HE change (%)")[0] == table.loc["MEMIT", "he_change"]
    page = (
        "<!-- results: smollm2/energy.csv -->\n\n| method | HE change (%) |\n| --- | ---: |\n| MEMIT | 7.000 ± 1.0 |\n"
    )
    value, spread = table.loc["MEMIT", "he_change"], table.loc["MEMIT", "he_change_pm"]
    assert renewed(page).splitlines()[-1] == f"| MEMIT | {value:.3f} ± {spread:.1f} |"
    assert renewed(renewed(page)) == renewed(page)


def test_every_kept_result_stands_behind_a_table() -> None:
    """Nothing is kept that no document shows, and all of it is small."""
    files = {str(path.relative_to(RESULTS)): path for path in RESULTS.rglob("*") if path.is_file()}
    assert set(files) == {file for found in marked_tables() for file in found.values[0]}
    assert all(path.stat().st_size < 20_000 for path in files.values())


# ------------------------------------------------------------------------------------------------ methods.md


COMPONENTS: dict[str, type[BaseModel]] = {**SOLVERS, **POSTPROCESSES}


def defaults(kind: type[BaseModel]) -> dict[str, str]:
    found = {name: field.default for name, field in kind.model_fields.items()}
    return {name: "null" if value is None else str(value) for name, value in found.items()}


def documented(text: str) -> dict[str, str]:
    return {names(name)[0]: names(default)[0] for name, default, _ in rows(text)}


def test_every_component_is_documented_once() -> None:
    page = read("methods.md")
    assert re.findall(r"^### (.+)$", page, re.MULTILINE) == list(dict.fromkeys(sections(page, 3)))
    assert set(sections(page, 3)) == set(COMPONENTS)


@pytest.mark.parametrize("name", COMPONENTS)
def test_settings_and_their_defaults(name: str) -> None:
    section, kind = sections(read("methods.md"), 3)[name], COMPONENTS[name]
    assert documented(section) == defaults(kind)
    for source in re.findall(r"arXiv (\d{4}\.\d{5})", kind.__doc__ or ""):
        assert source in section, "its source"


def test_settings_of_the_values() -> None:
    assert documented(sections(read("methods.md"), 2)["One batch"]) == defaults(ValueSettings)


def test_rows_of_methods() -> None:
    shown = {names(row[0])[0]: row[1:] for row in rows(sections(read("methods.md"), 2)["Rows"])}
    assert set(shown) == {*method_names(), "alphaedit+sphere"}
    for name, (solver, later, settings) in shown.items():
        method = resolve(name)
        assert method.solver.name == solver
        assert [process.name for process in method.postprocess] == later.split()
        plain: dict[str, Any] = {}
        for component in (method.solver, *method.postprocess):
            plain |= type(component)().model_dump()
        changed = yaml.safe_load(f"{{{settings}}}")
        assert method.hyperparameters == plain | changed
        assert all(key in plain for key in changed if key != "values")


# ----------------------------------------------------------------------------------------- results-schema.md

SCHEMA: dict[str, tuple[str, ...]] = {
    "energy.csv": stages.ENERGY_COLUMNS,
    "timing.csv": summaries.COLUMNS["timing_summary"][4:],
    "incidents.csv": stages.INCIDENT_COLUMNS,
    "cost.csv": stages.COST_COLUMNS,
    "editing.csv": metrics.COLUMNS,
    "general_ability.csv": general_ability.COLUMNS,
    "neutral.csv": neutral.COLUMNS,
    "training.csv": summaries.COLUMNS["training"][1:],
    "locate/effects.csv": locate.EFFECTS,
    "locate/sets.csv": locate.SETS_TRIED,
    "tuning/METHOD.csv": ("trial", *tune.METRICS, "score"),
    "sensitivity/METHOD.csv": ("trial", "eta", "alpha", *tune.METRICS, "score"),
    "streams/DATASET/seedS_skipped.csv": ("case_id", "reason"),
    "facts/known.csv": knowledge.COLUMNS,
    "facts/relations.csv": build.COLUMNS,
    **{f"tables/{name}.csv": columns for name, columns in summaries.COLUMNS.items()},
    "tables/neuron_cosine.csv": NEURON_COLUMNS,
    "plan.csv": plan.COLUMNS,
    "claims/claims.csv": claims.COLUMNS,
    "claims/claims_detail.csv": claims.DETAIL,
}


def test_every_csv_is_documented_once() -> None:
    headings = re.findall(r"^### (.+)$", read("results-schema.md"), re.MULTILINE)
    assert sorted(headings) == sorted(SCHEMA)


def test_columns_of_the_one_table() -> None:
    section = sections(read("results-schema.md"), 2)["results.parquet"]
    assert [column for cells in rows(section) for column in names(cells[0])] == list(results.COLUMNS)


@pytest.mark.parametrize("name", SCHEMA)
def test_columns(name: str) -> None:
    table = rows(sections(read("results-schema.md"), 3)[name])
    assert [column for cells in table for column in names(cells[0])] == list(SCHEMA[name])
    assert all(cells[1] for cells in table), "every column has a meaning"


# ---------------------------------------------------------------------------------------------- downloads.md


def test_columns_of_the_sources() -> None:
    header, *_ = (ROOT / "config" / "sources.tsv").read_text(encoding="utf-8").splitlines()
    assert [column for cells in rows(read("downloads.md")) for column in names(cells[0])] == header.split("\t")


def test_tasks_of_ours() -> None:
    section = sections(read("downloads.md"), 2)["General-ability tasks"]
    assert {name for name in names(section) if name.startswith("sphere_")} == {
        path.stem for path in (ROOT / "config" / "tasks").glob("*.yaml")
    }


# --------------------------------------------------------------------------------------------- paper-study.md


def test_the_plan_is_what_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        cli.main(["plan", "paper"])
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    (shown,) = blocks(read("paper-study.md"), "text")
    assert shown.strip() == printed.strip(), "paste what `sphere plan paper` prints"


# ---------------------------------------------------------------------------------------------------- cli.md


@pytest.fixture
def workplace(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: ModelMaker,
    tiny_tokenizer: TokenizerMaker,
    own_records: list[Any],
) -> Path:
    """The folder that the page's examples are run in: ``model``, ``requests.json`` and ``corpus.txt``."""
    tokenizer = tiny_tokenizer(True)
    tiny_model("llama", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "requests.json").write_text(json.dumps(own_records[:10]), encoding="utf-8")
    (tmp_path / "corpus.txt").write_text("\n\n".join(CORPUS), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


PRINTED = {"edit": (), "energy": ("he_mean", "coincident_pairs"), "evaluate": ("mean", "stderr", "n")}


def test_commands_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = read("cli.md")
    (settings,) = blocks(page, "yaml")
    (workplace / "memit.yaml").write_text(settings, encoding="utf-8")
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    used = set()
    for line in lines:
        prompt, program, *arguments = shlex.split(line)
        assert (prompt, program) == ("$", "sphere")
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        printed = capsys.readouterr()
        assert caught.value.code == 0, f"{line}: {printed.err}"
        used.add(arguments[0])
        for column in PRINTED[arguments[0]]:
            assert f"`{column}`" in page
            assert column in printed.out
    assert used == set(PRINTED)


def test_python_example_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks(read("cli.md"), "python")
    exec(example, {})
    edits, energy = capsys.readouterr().out.split()
    assert int(edits) == 10
    assert float(energy) > 0


# ------------------------------------------------------------------------------------------ your-own-model.md


def test_the_commands_for_your_own_model_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a tiny model, which knows nothing: probabilities are scored, and fewer settings tried."""
    page = read("your-own-model.md")
    (workplace / "requests.json").rename(workplace / "held-out.json")
    (workplace / "config" / "models").mkdir(parents=True)
    own = {"check": (), "locate": ("--family", "success", "--edits", "3"),
           "tune": ("--family", "success", "--trials", "2", "--edits", "4")}  # fmt: skip
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    assert [line.split()[2] for line in lines] == list(own)
    for line in lines:
        _, _, command, *arguments = shlex.split(line)
        with pytest.raises(SystemExit) as caught:
            cli.main([command, *arguments, *own[command]])
        assert caught.value.code == 0, f"{line}: {capsys.readouterr().err}"
    made = {path.name for path in workplace.rglob("*") if path.is_file()}
    assert {"layers.csv", "layers.sets.csv", "layers.png", "mine.yaml", "mine.memit.trials.csv"} <= made
    for name in ("layers.csv", "layers.sets.csv", "config/models/mine.memit.trials.csv"):
        columns = pd.read_csv(workplace / name).columns
        assert {f"`{column}`" for column in columns if "." not in column and "_" not in column} <= set(page.split()) | {
            word.strip(",:;.()") for word in page.split()
        }


# ------------------------------------------------------------------------------------------ adding-a-model.md


def test_the_table_of_families_is_what_the_command_makes() -> None:
    assert families.table() in read("adding-a-model.md"), "paste what `python tests/families.py` prints"


def test_the_row_of_the_example_makes_the_model_editable(
    tiny_tokenizer: TokenizerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = read("adding-a-model.md")
    tokenizer = tiny_tokenizer(True)
    config = PhiConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    with pytest.raises(InputError) as caught:
        adapter(model)
    (message,) = blocks(page, "text")
    assert str(caught.value).startswith(message.split("...")[0].strip())

    (row,) = blocks(page, "python")
    monkeypatch.setattr(adapters, "FAMILIES", adapters.FAMILIES | eval(f"{{{row}}}", {"Family": Family}))
    parts = adapter(model)
    inputs = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(parts.projection(1)(inputs), inputs @ parts.weight(1).T + parts.projection(1).bias)

    texts = [Row((3, 4, 5, 6, 7), 2), Row((9, 8, 7), 0)]
    replay = record(parts, texts, layer=1)
    everywhere = torch.arange(len(replay.tail))
    again = replay.run(replay.tail[replay.pivots], everywhere).split(replay.layout.lengths.tolist())
    for got, text in zip(again, texts, strict=True):
        with capture_output(parts.layer(3)) as seen:
            logits = model(torch.tensor([text.ids])).logits
        torch.testing.assert_close(got, seen[0][0, text.pivot :])
        torch.testing.assert_close(parts.head(parts.final_norm(seen[0])), logits)

    before = {name: value.clone() for name, value in model.state_dict().items()}
    edit(model, tokenizer, REQUESTS, method="memit+sphere", layers=(0, 1), values=ValueSettings(steps=2), corpus=CORPUS)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {parts.weight_name(0), parts.weight_name(1)}


# ----------------------------------------------------------------------------------------- adding-a-method.md


def example_files() -> dict[str, str]:
    """Path -> content of the page's Python blocks that name a file; the rest, its test, is under ""."""
    found = {}
    for block in blocks(read("adding-a-method.md"), "python"):
        path = re.match(r"# (\w+(?:/\w+)*\.py)\n", block)
        found[path[1] if path else ""] = block
    return found


@pytest.fixture
def example(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The names of the page's files and of its test; solver and post-process are registered while a test lasts."""
    known = dict(SOLVERS), dict(POSTPROCESSES)
    namespace: dict[str, Any] = {}
    modules = []
    for number, code in enumerate(example_files().values()):
        file = tmp_path / f"part{number}.py"
        file.write_text(code, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"example{number}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        modules.append(module)
        sys.modules[spec.name] = module  # pydantic looks annotations up there
        module.__dict__.update(namespace)
        spec.loader.exec_module(module)
        namespace |= {name: value for name, value in vars(module).items() if not name.startswith("__")}
    yield namespace
    for module in modules:
        del sys.modules[module.__name__]
    for registry, before in zip((SOLVERS, POSTPROCESSES), known, strict=True):
        for name in registry.keys() - before.keys():
            del registry[name]


def test_the_example_s_files_are_found_by_being_there(tmp_path: Path) -> None:
    """In a copy of the package with the page's two files and rows, the page's methods are there, and torch is not."""
    shutil.copytree(ROOT / "sphere", tmp_path / "sphere", ignore=shutil.ignore_patterns("__pycache__"))
    for path, code in example_files().items():
        if path.startswith("sphere/"):
            (tmp_path / path).write_text(code, encoding="utf-8")
    (rows_,) = blocks(read("adding-a-method.md"), "yaml")
    with (tmp_path / "sphere" / "editing" / "methods.yaml").open("a", encoding="utf-8") as file:
        file.write(rows_)
    program = f"""
import sys
from sphere.editing.methods import resolve
assert sys.modules["sphere"].__file__.startswith({str(tmp_path)!r})
assert [resolve(name).name for name in {example_methods()!r}] == {example_methods()!r}
assert resolve("ridge-limit").hyperparameters == {{"penalty": 0.5, "scope": "batch", "largest_ratio": 0.01}}
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=tmp_path)


def example_methods() -> list[str]:
    """The methods that the page promises."""
    return names(read("adding-a-method.md").split("That is all:")[1].split(" are methods now")[0])


def test_the_example_s_own_tests_pass(example: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    update, weight = draw(6, 9), draw(6, 9)
    example["test_ridge_is_a_minimum"](LayerProblem(weight, draw(9, 4), draw(6, 4), weight))
    example["test_limit_keeps_direction_and_bounds_size"](update, PostContext(weight, weight))
    small = example["Limit"](largest_ratio=10).apply(update, PostContext(weight, weight))
    torch.testing.assert_close(small, update)


def test_the_example_s_methods_edit(
    example: dict[str, Any], tiny_model: ModelMaker, tiny_tokenizer: TokenizerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = blocks(read("adding-a-method.md"), "yaml")
    added = yaml.safe_load(text)
    monkeypatch.setattr("sphere.editing.edit.resolve", lambda name, **given: resolve(name, rows=added, **given))
    assert {*added} < {*example_methods()}
    tokenizer, values = tiny_tokenizer(True), ValueSettings(steps=2)
    for method in example_methods():
        model = tiny_model("llama", len(tokenizer))
        state = edit(model, tokenizer, REQUESTS, method=method, layers=(1,), values=values, corpus=CORPUS)
        change, weight = state.weights[1] - state.pretrained[1], state.pretrained[1]
        assert change.norm() > 0
        if method == "ridge-limit":
            assert change.norm() <= 0.01 * weight.norm() * 1.001
