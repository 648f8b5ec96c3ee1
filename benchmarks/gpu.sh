#!/bin/sh
# What a GPU is to show, in one run that installs nothing: benchmarks/gpu.py says which parts there are.
#
#     sh benchmarks/gpu.sh                              # what is there, and nothing more
#     sh benchmarks/gpu.sh 8b tests --out gpu           # PYTHON=/path/to/python3 takes another one
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    if [ -x "$root/.venv/bin/python" ]; then PYTHON=$root/.venv/bin/python; fi
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
"$PYTHON" - <<'END'
import sys
from importlib.metadata import PackageNotFoundError, version

found, missing = [], []
for name in "torch transformers tokenizers safetensors numpy pandas pydantic pyyaml rich scikit-learn gguf pytest".split():
    try:
        found.append(f"{name} {version(name)}")
    except PackageNotFoundError:
        missing.append(name)
print(f"Python {sys.version.split()[0]} at {sys.executable}: {', '.join(found)}", file=sys.stderr)
for name in missing:  # gguf and pytest are asked for by one part each
    print(f"{name} is not there: pip install -c constraints.txt {name}", file=sys.stderr)
sys.exit(bool(set(missing) - {"gguf", "pytest"}))
END
exec "$PYTHON" "$root/benchmarks/gpu.py" "$@"
