#!/usr/bin/env bash
# Lint, types and tests; installs what they need into .venv first.
#   launch/test.sh [pytest arguments]
# The tests that compare with PyTorch and Keras are skipped where these are not installed. In a folder of their own, since
# the others are to pass without TensorFlow:
#   EXTRAS=bench VENV=.venv-bench REQUIRE_PEERS=1 launch/test.sh -m peers
# REQUIRE_PEERS makes a missing peer a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/setup.sh
. launch/setup.sh
# shellcheck disable=SC2086  # EXTRAS is a list of words
setup test ${EXTRAS:-}
bin=${VENV:-.venv}/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/pytest" --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder "$@"
