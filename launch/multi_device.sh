#!/usr/bin/env bash
# Runs one experiment on several devices of this machine: N GPUs where there are some, else a CPU divided by N.
#   launch/multi_device.sh N EXPERIMENT [--flag=value ...]    launch/multi_device.sh 4 lenet_vs_dense --seeds=8
# N is a number, or all (GPUs, TPU cores). EXTRAS as for launch/local.sh.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,4s/^# *//p' "$0" >&2; exit 2; }
devices=$1
shift
if [ "$devices" = all ]; then
  exec "$(dirname "$0")/local.sh" "$@"
fi
# The flag makes devices of a CPU; it changes nothing where JAX finds accelerators.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
exec "$(dirname "$0")/local.sh" "$@" "--devices=$devices"
