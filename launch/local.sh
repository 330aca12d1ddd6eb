#!/usr/bin/env bash
# Runs one experiment on this machine; installs what it needs into .venv first, and says so.
#   launch/local.sh [EXPERIMENT [--flag=value ...]]    launch/local.sh lenet_vs_dense --seeds=8
# EXTRAS names accelerators: EXTRAS=cuda12 launch/local.sh ...
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/setup.sh
. launch/setup.sh
# shellcheck disable=SC2086  # EXTRAS is a list of words
setup ${EXTRAS:-}
MNISTLAB_CALLED="bash launch/local.sh" exec "${VENV:-.venv}/bin/python" -m experiments "$@"
