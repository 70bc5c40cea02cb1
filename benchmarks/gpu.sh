#!/usr/bin/env bash
# usage: benchmarks/gpu.sh OUT.json [FOLDER_WITH_WHEELS] [-- arguments of gpu.py]
# In at most eight minutes: an environment (what is installed, or the wheels that were brought along), then gpu.py.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:?usage: benchmarks/gpu.sh OUT.json [FOLDER_WITH_WHEELS] [-- arguments]}")
shift
wheels=
if [ $# -gt 0 ] && [ "$1" != -- ]; then wheels=$1; shift; fi
if [ "${1:-}" = -- ]; then shift; fi
python=${PYTHON:-python3}
needed='import torch, transformers, peft, safetensors, numba, scipy, pydantic, typer, datasets, pyarrow, filelock, gguf'
if ! PYTHONPATH=src "$python" -c "$needed" 2> /dev/null; then
  [ -n "$wheels" ] || { echo "gpu.sh: $python lacks packages; name a folder with their wheels" >&2; exit 1; }
  "$python" -m venv --system-site-packages build/gpu
  build/gpu/bin/python -m pip install --quiet --no-index --find-links "$wheels" --editable . --no-build-isolation
  python=build/gpu/bin/python
fi
export PYTHONPATH=src:benchmarks
timeout --kill-after=5 420 "$python" benchmarks/gpu.py --out "$out" "$@"
