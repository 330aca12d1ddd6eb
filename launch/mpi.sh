#!/usr/bin/env bash
# Runs one experiment as N processes under Open MPI (4 or 5), on this machine or on those of a hostfile.
#   launch/mpi.sh N EXPERIMENT [--flag=value ...]             launch/mpi.sh 2 lenet_vs_dense --seeds=4
# MPIRUN_OPTIONS are passed on: MPIRUN_OPTIONS="--hostfile hosts --map-by ppr:4:node". With Open MPI 5 on several machines give
# --coordinator=HOST:PORT of the first. .venv must be on a disk that all machines see; so must --workdir for a resume elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { sed -n '2,5s/^# *//p' launch/mpi.sh >&2; exit 2; }
# shellcheck source=launch/setup.sh
. launch/setup.sh
# shellcheck disable=SC2086  # EXTRAS is a list of words
setup ${EXTRAS:-}
processes=$1 experiment=$2
shift 2
# Not bound to cores: XLA's threads would share one.
# shellcheck disable=SC2086  # a list of words
exec mpirun -n "$processes" --bind-to none ${MPIRUN_OPTIONS:-} "${VENV:-.venv}/bin/python" -m "experiments.$experiment" "$@"
