"""Get the real records that some tests read: python tests/samples.py FOLDER, then SPHERE_SAMPLE_DATA=FOLDER pytest ...

Downloads multi-CounterFact and zsRE (config/sources.tsv, about 60 MB) and keeps the first 1,000 records of each.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from sphere.config.sources import load_sources
from sphere.data.download import fetch

CONFIG = Path(__file__).resolve().parents[1] / "config"
SAMPLES = {"counterfact_sample.json": "multi_counterfact", "zsre_sample.json": "zsre_mend_eval"}
RECORDS = 1000


def main(folder: Path) -> None:
    """Write the two samples into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = load_sources(CONFIG / "sources.tsv")
    with tempfile.TemporaryDirectory() as scratch:
        for name, row in SAMPLES.items():
            fetch(sources[row], Path(scratch) / name, Path(scratch) / "locks")
            records = json.loads((Path(scratch) / name).read_text(encoding="utf-8"))[:RECORDS]
            (folder / name).write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
            print(f"{folder / name}: {len(records)} records")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
