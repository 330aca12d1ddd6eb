#!/usr/bin/env bash
# Runs one experiment on every host of a Cloud TPU VM; from a machine with gcloud. Not run by the authors, who have no TPU.
#   TPU=name ZONE=us-central2-b launch/tpu_vm.sh EXPERIMENT [--flag=value ...]
# REPOSITORY is what the hosts clone (default: this checkout's origin), FOLDER where to. The first host has the results.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { sed -n '2,4s/^# *//p' launch/tpu_vm.sh >&2; exit 2; }
: "${TPU:?TPU must name the TPU VM}" "${ZONE:?ZONE must name its zone}"
repository=${REPOSITORY:-$(git remote get-url origin)}
folder=${FOLDER:-mnistlab}
printf -v arguments ' %q' "$@"
# On hosts of one slice JAX asks the TPU's metadata who the others are; --distributed=on makes it ask.
gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="
  set -e
  [ -d $folder ] || git clone --quiet $repository $folder
  cd $folder
  EXTRAS=tpu exec bash launch/local.sh$arguments --distributed=on"
