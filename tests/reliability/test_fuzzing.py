"""Whatever a file holds, its reader gives a result or one line: no traceback, nothing half written, no key ignored."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workplace import ROOT

from sphere.cli import _hyperparameters
from sphere.config.run import load_run
from sphere.data.records import load_requests
from sphere.data.streams import draw_stream
from sphere.editing.methods import method_names, resolve
from sphere.errors import InputError
from sphere.plain_yaml import read_yaml
from sphere.report.published import NUMBERS, WORDS, read_published
from sphere.study.configuration import load_study
from sphere.study.provenance import StaleArtifact, sidecar, verify

from .conftest import LONG

LEAN = settings(
    max_examples=300 if LONG else 30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
WORDS_OF_YAML = st.sampled_from(
    ["", "null", "yes", "-1", "0", "1", "1e400", ".inf", ".nan", "9" * 5000, "2001-99-99", "[", "{", "&a [*a]",
     "!!int x", "!!bool x", '!!float ""', "!!timestamp x", "~nobody/x", '"\\ud800"',
     "!!python/object/apply:os.system [echo]", "<<: 1", "- -", "---", "\t", "é", "\x00", "..", "../../etc",
     "a: b: c", "'", '"', "@", "{}", "[1, 2]", "{seed: 1}", "memit", "smoke", "?", "#", "|", "1.5", "[" * 2000]
)  # fmt: skip
SCALAR = (
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=12)
    | st.sampled_from(["..", "/", "a/b", "\x00", "\ud800", "smoke", "memit", "counterfact"])
)  # fmt: skip
SHORT = st.text(max_size=8)
JSON = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SHORT, inner, max_size=3))
HYPERPARAMETERS = st.sampled_from(["alpha", "eta", "ridge", "lr", "layer", "second_moment_weight"])
METHOD_KEYS = st.sampled_from(["solver", "postprocess", "hyperparameters"])


@contextmanager
def one_line() -> Iterator[None]:
    """What is read is well read, or refused by an InputError of one line."""
    said = ""
    try:
        yield
    except InputError as error:
        said = str(error) or "\n"
    assert "\n" not in said


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of config/ to be spoilt, one file at a time."""
    folder = Path(shutil.copytree(ROOT / "config", tmp_path_factory.mktemp("fuzz") / "config"))
    text = (folder / "config.yaml").read_text(encoding="utf-8").replace("study: smollm2", "study: smoke")
    place = f"sources: {{counterfact: {folder / 'sources.tsv'}}}"  # any file
    (folder / "config.yaml").write_text(text.replace("sources: {}", place), encoding="utf-8")
    return folder


FILES = {
    "run": "config.yaml", "study": "studies/smoke.yaml", "model": "models/smoke.yaml", "sources": "sources.tsv",
    **{name: f"published/{name}.csv" for name in WORDS},
}  # fmt: skip


def read(config: Path, kind: str) -> Any:
    if kind in WORDS:
        return read_published(config / "published", kind)
    settings = read_yaml(config / "config.yaml")
    run = load_run(settings if isinstance(settings, dict) else {})  # Snakemake refuses what is no mapping
    return run, load_study(run.study, root=config, places=run.sources)


@pytest.mark.parametrize("kind", FILES)
@LEAN
@given(data=st.data())
def test_a_file_with_any_passage_replaced(config: Path, kind: str, data: st.DataObject) -> None:
    path = config / FILES[kind]
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole)), label="start")
    end = data.draw(st.integers(start, min(len(whole), start + 40)), label="end")
    put = data.draw(st.binary(max_size=6) | WORDS_OF_YAML.map(str.encode), label="put")
    path.write_bytes(whole[:start] + put + whole[end:])
    try:
        with one_line():
            read(config, kind)
    finally:
        path.write_bytes(whole)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of everything in a tree of lists and dictionaries."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


@pytest.mark.parametrize("kind", ["run", "study", "model"])
@LEAN
@given(data=st.data())
def test_a_setting_of_any_value(config: Path, kind: str, data: st.DataObject) -> None:
    path = config / FILES[kind]
    whole = path.read_text(encoding="utf-8")
    content = yaml.safe_load(whole)
    holder, key = data.draw(st.sampled_from(list(places(content))), label="place")
    holder[key] = data.draw(JSON, label="value")
    try:
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        with one_line():
            read(config, kind)
    finally:
        path.write_text(whole, encoding="utf-8")


@pytest.mark.parametrize("kind", ["run", "study", "model"])
@LEAN
@given(data=st.data(), name=st.from_regex(r"[a-z_]{1,12}", fullmatch=True))
def test_no_unknown_key_is_ignored(config: Path, kind: str, data: st.DataObject, name: str) -> None:
    path = config / FILES[kind]
    whole = path.read_text(encoding="utf-8")
    content = yaml.safe_load(whole)
    holders = [content, *(holder[key] for holder, key in places(content) if isinstance(holder[key], dict))]
    holder = data.draw(st.sampled_from(holders), label="holder")
    before = read(config, kind)
    if name in holder:
        return
    holder[name] = 1
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    try:
        with one_line():
            assert read(config, kind) != before, f"{name} was ignored"
    finally:
        path.write_text(whole, encoding="utf-8")


@pytest.mark.parametrize("kind", ["run", "study", "model"])
def test_no_key_that_stands_twice_is_ignored(config: Path, kind: str) -> None:
    path = config / FILES[kind]
    whole = path.read_text(encoding="utf-8")
    for line in [line for line in whole.splitlines() if line and line[0].isalpha()]:
        path.write_text(f"{whole}\n{line}\n", encoding="utf-8")
        try:
            with pytest.raises(InputError, match=r"(stands twice|is not YAML)"):
                read(config, kind)
        finally:
            path.write_text(whole, encoding="utf-8")


COUNTERFACT = {
    "case_id": 1,
    "requested_rewrite": {
        "prompt": "{} is a", "relation_id": "P1", "subject": "Ada",
        "target_new": {"str": "nurse", "id": "Q1"}, "target_true": {"str": "pilot", "id": "Q2"},
    },
    "paraphrase_prompts": ["Ada works as a"], "neighborhood_prompts": ["Bob is a"], "generation_prompts": ["Ada"],
    "pararel_idx": 3,
}  # fmt: skip
ZSRE = {
    "subject": "Ada", "src": "What is Ada?", "rephrase": "Ada is what?", "answers": ["nurse"],
    "loc": "who", "loc_ans": "me", "pred": "Ada",
}  # fmt: skip


@pytest.mark.parametrize("record", [COUNTERFACT, ZSRE], ids=["counterfact", "zsre"])
@LEAN
@given(data=st.data())
def test_requests_with_any_value_anywhere(record: dict[str, Any], data: st.DataObject, tmp_path: Path) -> None:
    content = [copy.deepcopy(record), {**copy.deepcopy(record), "case_id": 2}]
    for _ in range(data.draw(st.integers(1, 2))):
        holder, key = data.draw(st.sampled_from(list(places(content))), label="place")
        if isinstance(holder, dict) and data.draw(st.booleans(), label="drop"):
            holder.pop(key, None)
        elif isinstance(holder, dict) or key < len(holder):
            holder[key] = data.draw(JSON, label="value")
    path, out = tmp_path / "requests.json", tmp_path / "stream.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    out.unlink(missing_ok=True)
    with one_line():
        load_requests(path)
    with one_line():
        draw_stream(path, out, edits=1, rng=np.random.default_rng(0))
    assert {each.name for each in tmp_path.iterdir()} <= {"requests.json", "stream.json"}
    if out.exists():
        assert load_requests(out).requests


@LEAN
@given(put=st.binary(max_size=40) | WORDS_OF_YAML.map(str.encode), at=st.integers(0, 500))
def test_requests_and_provenance_of_any_bytes(put: bytes, at: int, tmp_path: Path) -> None:
    whole = json.dumps([COUNTERFACT]).encode()
    path = tmp_path / "requests.json"
    path.write_bytes(whole[:at] + put + whole[at:])
    with one_line():
        load_requests(path)
    sidecar(path).parent.mkdir(exist_ok=True)
    sidecar(path).write_bytes(put)
    with pytest.raises(StaleArtifact, match="provenance"):
        verify(path)


def test_no_key_of_a_request_is_silently_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "requests.json"
    for wrong in ("paraphrase_prompt", "neighbourhood_prompts", "generation_promps"):
        path.write_text(json.dumps([{**COUNTERFACT, wrong: ["x"]}]))
        with pytest.raises(InputError, match=f"record 0 .*: unknown key '{wrong}': did you mean '.*_prompts'"):
            load_requests(path)
    path.write_text('[{"subject": "Ada", "src": "Ada is", "src": "Bob is", "answers": ["x"]}]')
    with pytest.raises(InputError, match="has the key 'src' twice"):
        load_requests(path)
    path.write_text(json.dumps([{**COUNTERFACT, "comment": "mine"}]))
    load_requests(path)
    assert "nothing reads 'comment'" in capsys.readouterr().err


def test_no_key_of_a_request_is_ignored_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "requests.json"
    moved = [(holder, key) for record in (COUNTERFACT, ZSRE) for holder, key in places(record) if isinstance(key, str)]
    for holder, key in moved:
        for record in (COUNTERFACT, ZSRE):
            changed = copy.deepcopy(record)
            for there in (changed, *(each[name] for each, name in places(changed) if isinstance(each[name], dict))):
                if key in there or key == "id" or (key, record) == ("case_id", ZSRE):  # an id is anyone's
                    continue
                there[key] = holder[key]
                path.write_text(json.dumps([changed]))
                with pytest.raises(InputError, match=r"record 0.* belongs in "):
                    load_requests(path)
                del there[key]


FIXED = st.builds(
    "@{}={}".format, HYPERPARAMETERS | SHORT, st.sampled_from(["0.3", "1", "null"]) | SHORT | WORDS_OF_YAML
)


@LEAN
@given(
    name=st.sampled_from(method_names()) | st.text(max_size=8),
    suffix=st.sampled_from(["", "+sphere", "+sphere+sphere", "+", "+rect"]) | FIXED | FIXED.map(lambda each: 2 * each),
    given_=st.dictionaries(HYPERPARAMETERS | SHORT, JSON, max_size=3),
)
def test_methods_of_any_hyperparameters(name: str, suffix: str, given_: dict[str, Any]) -> None:
    with one_line():
        found = resolve(name + suffix, hyperparameters=given_)
        assert given_.keys() <= found.hyperparameters.keys(), "a key was ignored"
        assert (Path("x") / found.name).name == found.name, "its folder would lie elsewhere"


@LEAN
@given(row=st.dictionaries(METHOD_KEYS | SHORT, JSON, max_size=3))
def test_method_rows_of_any_content(row: dict[str, Any]) -> None:
    with one_line():
        resolve("mine", rows={"mine": row})


@LEAN
@given(content=st.binary(max_size=60) | (WORDS_OF_YAML | JSON.map(json.dumps)).map(str.encode))
def test_hyperparameter_files_of_any_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with one_line():
        _hyperparameters(path)


PUBLISHED: list[tuple[str, Callable[[str], str], str]] = [
    ("sensitivity", lambda text: text.replace("eta,", "eta,eta,", 1), "column 'eta' stands twice"),
    ("sensitivity", lambda text: text.replace("eta,", "etta,", 1), "column 'etta' is unknown: did you mean 'eta'"),
    ("sensitivity", lambda text: text.replace("10.63", "10,63", 1), "row 2 has 4 cells, the header 3"),
    ("sensitivity", lambda text: text.replace("10.63", "ten", 1), "row 2, efficacy: 'ten' is not a number"),
    ("spearman", lambda text: text.replace("efficacy_r,", "", 1), "has 7 cells|no column"),
    ("claims", lambda text: "", "no column 'id'"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), PUBLISHED, ids=[message for *_, message in PUBLISHED])
def test_a_published_figure_that_would_be_misread(
    name: str, spoil: Callable[[str], str], message: str, config: Path
) -> None:
    path = config / "published" / f"{name}.csv"
    whole = path.read_text(encoding="utf-8")
    path.write_text(spoil(whole), encoding="utf-8")
    try:
        with pytest.raises(InputError, match=message) as caught:
            read_published(config / "published", name)
        assert str(path) in str(caught.value)
    finally:
        path.write_text(whole, encoding="utf-8")


def test_published_columns_are_all_known() -> None:
    for name in WORDS:
        frame = read_published(ROOT / "config" / "published", name)
        assert set(frame.columns) == {*WORDS[name], *NUMBERS[name]}
        assert all(frame[column].dtype == float for column in NUMBERS[name])
