"""results.parquet and the page to explore it on: the same numbers as the tables, whole and in order."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path

import made_up_study
import pandas as pd
import pytest
from scipy import stats

from sphere.report.explore import write_explorer
from sphere.report.results import COLUMNS, write_results
from sphere.report.tables import gather, load
from sphere.report.tables.cost import cost_by_stream


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = made_up_study.make_results(tmp_path_factory.mktemp("study"), made_up_study.study())
    gather(root, made_up_study.study(), root / "tables")
    write_results(root / "tables", root / "results.parquet", study="made <up>")
    write_explorer(root / "results.parquet", root / "explore.html")
    return root


@pytest.fixture(scope="module")
def results(study: Path) -> pd.DataFrame:
    return pd.read_parquet(study / "results.parquet")


def test_columns_have_their_types(results: pd.DataFrame) -> None:
    assert tuple(results.columns) == COLUMNS
    assert {name: str(results[name].dtype) for name in ("seed", "edits", "value", "stderr", "n")} == {
        "seed": "Int64", "edits": "int64", "value": "float64", "stderr": "float64", "n": "Int64",
    }  # fmt: skip
    assert results["value"].notna().all()
    assert results.loc[results["method"] == "pre-edited", "seed"].isna().all()
    assert set(results["study"]) == {"made <up>"}


def test_a_row_is_told_from_all_others_by_its_names(results: pd.DataFrame) -> None:
    assert not results.duplicated(["model", "dataset", "method", "seed", "edits", "metric", "family"]).any()


def test_everything_that_was_gathered_is_there(results: pd.DataFrame, study: Path) -> None:
    tables = study / "tables"
    own = results.query("method == 'memit' and seed == 1 and dataset == 'zsre' and edits == 60").set_index(
        ["family", "metric"]
    )
    editing = load(tables, "editing_summary")
    row = editing.query("method == 'memit' and seed == 1 and dataset == 'zsre' and edits == 60").iloc[0]
    found = own.loc[(row["metric_family"], row["metric"])]
    assert (found["value"], found["n"]) == (row["mean"], row["n"])
    assert found["stderr"] == pytest.approx((row["ci_high"] - row["mean"]) / stats.norm.ppf(0.975))
    ability = load(tables, "general_ability_summary")
    assert own.loc[("nli", "world_nli/acc"), "stderr"] == 0.02
    assert len(results[results["metric"].str.contains("/")]) == len(ability)
    assert own.loc[("neutral", "kl"), "n"] == 8
    assert {"he_mean", "he_change"} <= set(own.loc["energy"].index)
    last = results.query("method == 'memit' and seed == 1 and dataset == 'zsre' and family == 'cost'")
    assert set(last["edits"]) == {100}
    cost = cost_by_stream(load(tables, "timing_summary"), load(tables, "cost_summary"))
    cost = cost.query("method == 'memit' and seed == 1 and dataset == 'zsre'").iloc[0]
    assert last.set_index("metric")["value"].to_dict() == {
        key: pytest.approx(cost[key]) for key in ("edit_operations", "edit_s", "peak_memory", "weights", "kept")
    }


def test_the_file_is_the_same_on_every_run(study: Path, tmp_path: Path) -> None:
    write_results(study / "tables", tmp_path / "again.parquet", study="made <up>")
    assert (tmp_path / "again.parquet").read_bytes() == (study / "results.parquet").read_bytes()


def test_the_page_holds_every_point_with_its_interval_over_seeds(study: Path) -> None:
    page = (study / "explore.html").read_text(encoding="utf-8")
    assert "{{" not in page, "nothing is left to fill in"
    assert len(page) < 1_000_000, "a browser shows no data: address of more than 2 MB, and the report makes it one"
    (packed,) = re.findall(r'id="library">(.*?)</script>', page)
    assert b"Bokeh Contributors" in gzip.decompress(base64.b64decode(packed))
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    content = json.loads(data)
    assert content["study"] == "made <up>"
    by_method = load(study / "tables", "editing_by_method").query("metric_family == 'accuracy'")
    points = [each for each in content["points"] if each["family"] == "accuracy"]
    assert len(points) == len(by_method)
    cells = by_method.set_index(["model", "dataset", "metric", "method", "edits"])
    for point in points:
        cell = cells.loc[tuple(point[key] for key in ("model", "dataset", "metric", "method", "edits"))]
        assert point["value"] == pytest.approx(cell["mean"])
        assert point["half"] == pytest.approx((cell["ci_high"] - cell["ci_low"]) / 2)
        assert point["seeds"] == cell["n_seeds"] or point["method"] == "pre-edited"
    assert [each["label"] for each in content["methods"]] == ["Pre-edited", "MEMIT", "AlphaEdit", "SPHERE"]
