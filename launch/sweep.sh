#!/usr/bin/env bash
# Many runs of several experiments, each a part of the seeds: as a Slurm job array where there is sbatch, else one by one.
#   launch/sweep.sh SEEDS SEEDS_A_JOB EXPERIMENT[,EXPERIMENT...] [--flag=value ...]
#   launch/sweep.sh 64 8 lenet_vs_dense,lenet5_adadelta --protocol=controlled     16 jobs
# Results: SWEEP/EXPERIMENT/seeds_FIRST (SWEEP, default results/sweep). SBATCH_OPTIONS are passed on, such as
# SBATCH_OPTIONS="--gres=gpu:1 --array=0-15%4"; a job that is stopped and started again goes on where it was.
set -euo pipefail
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  cd "$SLURM_SUBMIT_DIR"  # Slurm runs a copy of this script, which lies elsewhere
else
  cd "$(dirname "$0")/.."
fi
[ $# -ge 3 ] || { sed -n '2,6s/^# *//p' launch/sweep.sh >&2; exit 2; }
seeds=$1 each=$2
IFS=, read -ra experiments <<< "$3"
parts=$(((seeds + each - 1) / each))
jobs=$((parts * ${#experiments[@]}))

# job NUMBER [COMMAND ...]: one part of one experiment, started by the command.
job() {
  local experiment=${experiments[$(($1 / parts))]} first=$((each * ($1 % parts)))
  local count=$((seeds - first < each ? seeds - first : each))
  "${@:2}" "${VENV:-.venv}/bin/python" -m "experiments.$experiment" "--seed=$first" "--seeds=$count" \
    "--workdir=${SWEEP:-results/sweep}/$experiment/seeds_$first" "${flags[@]}"
}

flags=("${@:4}")
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  status=0
  trap : TERM  # meant for the step, which ends its epoch, keeps it and returns 75
  job "$SLURM_ARRAY_TASK_ID" srun --ntasks=1 || status=$?
  [ "$status" -ne 75 ] || scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" || true
  exit "$status"
fi
# shellcheck source=launch/setup.sh
. launch/setup.sh
# shellcheck disable=SC2086  # EXTRAS is a list of words
setup ${EXTRAS:-}
if command -v sbatch > /dev/null; then
  # shellcheck disable=SC2086  # a list of words; what stands later goes before
  exec sbatch --job-name=mnistlab-sweep --array="0-$((jobs - 1))" --requeue --signal=TERM@60 --open-mode=append \
    --output=slurm-%A_%a.out ${SBATCH_OPTIONS:-} launch/sweep.sh "$@"
fi
for ((number = 0; number < jobs; number++)); do
  job "$number"
done
