#!/usr/bin/env bash
# On a machine with an NVIDIA GPU and torch for it, without internet: the GPU's tests, then benchmarks/gpu.py.
#     benchmarks/gpu.sh WHEELS [options of benchmarks.gpu]
# WHEELS is a folder with what the machine lacks, as `pip download --no-deps` gets it: trl, bitsandbytes, datasets, dill, multiprocess,
# pydantic, pydantic-core, annotated-types, jsonschema, jsonschema-specifications, referencing, rpds-py. No model is needed.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,5s/^# //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
wheels=$(cd "$1" && pwd)
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python3 -m pip install --quiet --no-index --no-deps "$wheels"/*.whl
# By their files, since pytest would import all others to look for more, with what only those need.
python3 -m pytest -m gpu tests/components/train/test_attention.py
python3 -m benchmarks.gpu "$@"
