#!/bin/sh
# What needs a CUDA card: its tests, steps and memory, and a short training. Nothing is downloaded.
#
#     sh benchmarks/gpu.sh [FOLDER]    FOLDER: for the figures and the run, gpu_check if not given
#
# Needs the package with its extra dev: `pip install -e '.[dev]'`, or PYTHON=.venv/bin/python.
set -eu
cd "$(dirname "$0")/.."
out=${1:-gpu_check}
python=${PYTHON:-python3}
export HF_HUB_OFFLINE=1

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "error: torch finds no CUDA card here; on a CPU run \`make bench\`" >&2
    exit 1
fi
if [ -e "$out" ]; then
    echo "error: $out exists: give another folder, or remove it" >&2
    exit 1
fi
mkdir -p "$out"

echo "== tests"
"$python" -m pytest -m gpu -q
echo "== benchmarks"
"$python" benchmarks/run.py step memory --device cuda --json "$out/bench.json"
echo "== training"
"$python" -m causalseg train src/causalseg/jobs/quickstart.yaml \
    backbone.weights=random run.out="$out/run"
echo "all passed: figures in $out/bench.json, run in $out/run"
