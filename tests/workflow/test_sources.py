"""A study that would download everything, run from files of one's own without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sphere.data.corpus import PASSAGES
from sphere.files import digest
from sphere.study.provenance import verify

from .conftest import Workplace

STUDY = {
    "name": "own",
    "models": ["own"],
    "datasets": {"zsre": {"source": "download", "item": "multi_counterfact"}},
    "methods": ["memit"],
    "batch_size": 2,
    "checkpoints": [2],
    "tasks": {"names": ["rte", "sphere_rte_zeroshot"]},
    "corpus": {"item": "attribute_snippets"},
}
MODEL = {
    "name": "own",
    "source": {"kind": "hub", "id": "Qwen/Qwen2.5-7B-Instruct"},
    "layers": [1],
    "statistics": {"documents": 2},
    "shape": {"width": 64, "inner": 128, "depth": 4, "heads": 2, "vocabulary": 512},
}
RECORDS = [
    {"src": f"Where does {name} live?", "subject": name, "answers": ["Rome"]} for name in ("Ada", "Ben", "", "Cleo")
]


def test_files_of_ones_own_stand_for_every_download(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workplace.folder
    for kind, content in (("studies", STUDY), ("models", MODEL)):
        (folder / "config" / kind / "own.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (folder / "records.json").write_text(json.dumps(RECORDS), encoding="utf-8")
    long = [f"Text {i} {'of many words ' * 20}" for i in range(PASSAGES)]
    (folder / "texts.txt").write_text("\n\n".join(["One.", "Two.", "Three.", *long]), encoding="utf-8")
    for file in ("model/config.json", "model/model.safetensors", "rte/README.md"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("{}", encoding="utf-8")
    places = {
        "multi_counterfact": "records.json",
        "attribute_snippets": "texts.txt",
        "qwen2.5-7b-instruct": "model",
        "rte": "rte",
    }
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("http_proxy", "https_proxy"):  # whoever asks for a network fails at once
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    targets = ["streams/zsre/seed0.json", "corpus.txt", "corpus/tasks", "own/model"]
    run = workplace.snakemake(
        *(f"results/own/{target}" for target in targets),
        "results/downloads/rte",
        config=["study=own", f"sources={json.dumps(places)}"],
    )
    assert run.status == 0, run.output[-4000:]
    once = ("extract_corpus", "held_out", "fetch_dataset", "fetch_model", "stream")
    assert run.jobs == {"download": 2, **dict.fromkeys(once, 1)}
    results = folder / "results"
    stream = json.loads((results / "own" / "streams" / "zsre" / "seed0.json").read_text(encoding="utf-8"))
    assert sorted(record["subject"] for record in stream) == ["Ada", "Ben"]
    skipped = (results / "own" / "streams" / "zsre" / "seed0_skipped.csv").read_text(encoding="utf-8")
    assert '"its ""subject"" is empty"' in skipped
    assert (results / "own" / "corpus.txt").read_text(encoding="utf-8") == "One.\n\nTwo.\n\n"
    assert (results / "own" / "corpus" / "tasks" / "corpus_perplexity.yaml").is_file()
    assert Path(results / "own" / "own" / "model" / "config.json").resolve() == folder / "model" / "config.json"
    assert verify(results / "downloads" / "multi_counterfact.json")["sha256"] == digest(folder / "records.json")
    assert not (folder / "config" / "sources.lock").exists(), "only downloads are recorded"
    texts = {"corpus": {"path": "texts.txt"}}
    (folder / "config" / "studies" / "own.yaml").write_text(yaml.safe_dump(STUDY | texts), encoding="utf-8")
    run = workplace.snakemake(
        *(f"results/own/{target}" for target in ("corpus.txt", "corpus/tasks")),
        config=["study=own", f"sources={json.dumps(places)}"],
    )
    assert run.status == 0, run.output[-4000:]
    assert run.jobs == {"extract_corpus": 1, "held_out": 1}, "a text of one's own goes the same way, without a download"
    assert verify(results / "own" / "corpus.txt")["ancestors"] == {"../../texts.txt": digest(folder / "texts.txt")}
