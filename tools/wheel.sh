#!/usr/bin/env bash
# The Python wheel: built as pip builds it, made fit for other machines by auditwheel, installed into a fresh environment, and tested there.
# Needs tools/setup.sh --tests. The wheel lands in out/wheel.
#
#   PYTHON=python3.12   the Python that it is for, instead of that of .venv
#   TORCH=2.12.1        the PyTorch that it is for, instead of that of .venv
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly OUT=out/wheel FRESH=build/wheel-test
readonly PYTHON=${PYTHON:-.venv/bin/python} TORCH=${TORCH:-$(.venv/bin/python -c 'import torch; print(torch.__version__)')}
# What comes with PyTorch and must not be there twice.
readonly OF_TORCH=(libtorch.so libtorch_cpu.so libtorch_python.so libc10.so libgomp.so.1)

pip_of() { "$1/bin/python" -m pip --quiet --disable-pip-version-check --no-input "${@:2}"; }

# As a user has it: PyTorch, then the wheel, and no sources in sight.
"$PYTHON" -m venv --clear "$FRESH"
grep -v '^-c' python/tests/requirements.txt >build/wheel-tests.txt  # without the pin of the PyTorch in .venv
pip_of "$FRESH" install "torch==$TORCH" -r build/wheel-tests.txt

rm -rf "$OUT" build/wheel-raw
pip_of "$FRESH" wheel . --no-deps --wheel-dir build/wheel-raw
pip_of .venv install -r tools/wheel-requirements.txt
exclude=()
for library in "${OF_TORCH[@]}"; do exclude+=(--exclude "$library"); done
PATH=$PWD/.venv/bin:$PATH .venv/bin/auditwheel repair "${exclude[@]}" --wheel-dir "$OUT" build/wheel-raw/*.whl

pip_of "$FRESH" install "$OUT"/*.whl
(cd python/tests && HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 "$OLDPWD/$FRESH/bin/python" -m pytest -p no:cacheprovider .)
"$FRESH/bin/bitlab" --version
ls -l "$OUT"
