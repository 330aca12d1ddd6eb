# shellcheck shell=bash
# Sourced by the scripts beside it: makes .venv with the pinned set when it is missing or out of date, and says so.
#   setup [EXTRA ...]     extras of pyproject.toml, such as test or cuda12
# PYTHON names the interpreter (3.11 or later; default python3), VENV another folder than .venv.
setup() {
  local extras="" stamp venv=${VENV:-.venv} started=$SECONDS
  [ $# -eq 0 ] || extras="[$(IFS=,; echo "$*")]"
  stamp="$venv/installed-$(cat pyproject.toml constraints.txt <(echo "$extras") | { sha256sum 2> /dev/null || shasum -a 256; } | cut -c1-16)"
  if [ ! -e "$stamp" ]; then
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
      { echo "error: Python 3.11 or later is needed; set PYTHON to one" >&2; return 2; }
    echo "installing mnistlab$extras and the pinned packages into $venv: once, a minute or a few by the connection" >&2
    "${PYTHON:-python3}" -m venv "$venv" || return
    rm -f "$venv"/installed-*  # with what they say it will be no more
    # Compiling all modules takes half of the time; those that are imported are compiled then.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable ".$extras" || return
    touch "$stamp"
    echo "installed in $((SECONDS - started)) s, $(du -sh "$venv" | cut -f1) on disk" >&2
  fi
}
