"""Runs many command lines as `python -m` does, each in a forked child of one process: JAX is imported once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

SCRIPT = """
import json, os, runpy, sys, tempfile, traceback
import mnistlab.comparison.run, mnistlab.comparison.saved, absl.app

def run(module, arguments):
    sys.argv[1:] = arguments
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

results = []
for module, arguments in json.load(sys.stdin):
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = run(module, arguments)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [file.seek(0) or file.read().decode(errors="replace") for file in (out, err)]
        results.append([status, *texts])
json.dump(results, sys.stdout)
"""


class Ended(NamedTuple):
    """How a command line ended."""

    status: int
    out: str
    err: str


def run_all(command_lines: list[tuple[str, list[str]]], folder: Path) -> list[Ended]:
    """Runs (module, arguments) one after another in `folder`, which is their home too."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        input=json.dumps(command_lines),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [Ended(*result) for result in json.loads(done.stdout)]
