#!/usr/bin/env bash
# Every comparison under both protocols until every claim is answered, then the tables: hours. Started again, it goes on.
#   launch/results.sh [--flag=value ...]        launch/results.sh --max_minutes=120
# The flags go to each training. RESULTS is the folder of the runs (default results). The numbers of each run that ended
# are copied to PUBLISHED (default docs/data/runs), and TABLES and LEARNED, the Markdown files (default docs/results.md,
# docs/learned.md), are made of all that lies there. BENCH is a summary.json of `python -m experiments.bench` on the
# same device, for what PyTorch would have taken (default: that is left out).
# What fails is said at the end, with status 1; the others are run all the same.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
case ${1:-} in -h | --help) sed -n '2,8s/^# *//p' launch/results.sh; exit ;; esac
# shellcheck source=launch/setup.sh
. launch/setup.sh
# shellcheck disable=SC2086  # EXTRAS is a list of words
[ -n "${PYTHON_OF_RUNS:-}" ] || setup ${EXTRAS:-} || exit
python=${PYTHON_OF_RUNS:-${VENV:-.venv}/bin/python} results=${RESULTS:-results} failed=()
published=${PUBLISHED:-docs/data/runs}
mkdir -p "$published" || exit 2  # before hours of training, not after

# publish FOLDER: copies what the tables are made of, each file whole or not at all.
publish() {
  local file
  mkdir -p "$published/$1" || return
  for file in config.json summary.json history.csv; do
    [ -e "$results/$1/$file" ] || continue
    cp "$results/$1/$file" "$published/$1/.$file" && mv "$published/$1/.$file" "$published/$1/$file" || return
  done
}

# run FOLDER EXPERIMENT [--flag=value ...]: one comparison; says how long it took this time.
run() {
  local started=$SECONDS folder=$1 status=0
  shift
  echo "== $folder: $*"
  "$python" -m "experiments.$1" "--workdir=$results/$folder" "${@:2}" || status=$?
  case $status in 130 | 143 | 75) exit "$status" ;; esac  # stopped, not failed
  [ "$status" -ne 0 ] || publish "$folder" || status=$?
  [ "$status" -eq 0 ] || failed+=("$folder (status $status)")
  printf '== %s: %s h\n' "$folder" "$(awk "BEGIN { printf \"%.2f\", ($SECONDS - $started) / 3600 }")"
}

for name in backprop_by_hand jacobian_eigen matmul_devices; do
  for protocol in reported controlled; do
    folder=$name
    [ $protocol = reported ] || folder+=_controlled
    run "$folder" "$name" --protocol=$protocol
  done
done
for name in lenet_vs_dense lenet5_adadelta fashion_mlp fashion_lenet_regularizers keras_vs_scratch cnn_variants; do
  for protocol in reported controlled; do
    folder=$name
    [ $protocol = reported ] || folder+=_controlled
    run "$folder" "$name" --protocol=$protocol --variants=all --until=resolved "$@"
  done
done
for name in lenet5_at_its_best small_budgets small_budgets_fashion; do
  run "${name}_controlled" "$name" --protocol=controlled --seeds=16 --until=resolved "$@"
done
"$python" -m experiments.scoreboard --norun "--workdir=$results/scoreboard" "--runs=$published" \
  "--results=${TABLES:-docs/results.md}" "--learned=${LEARNED:-docs/learned.md}" ${BENCH:+"--bench=$BENCH"} ||
  failed+=("scoreboard (status $?)")
[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[@]}" >&2; exit 1; }
