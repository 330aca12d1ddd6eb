"""Folders and files of a run that cannot be read or written: one line each, and nothing is called damaged."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WITHOUT_ROOTS_RIGHTS = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")

# One process for all cases: starting JAX takes longer than they do.
SCRIPT = """
import shutil, sys, warnings
from pathlib import Path
from absl import logging
from layouts import synthetic
from mnistlab.comparison import run as runs
from mnistlab.comparison.spec import Experiment, Options, Variant
from mnistlab.errors import UserError

logging.set_verbosity(logging.FATAL)
root = Path(sys.argv[1])
dataset = synthetic()
variant = Variant("dense", batch_size=50, num_epochs=2)
asked = Experiment("lenet_vs_dense", reported={"dense": variant}, data=dataset)

def run(folder, resume=True):
    try:
        runs.run(asked, Options(folder, resume=resume))
    except UserError as error:
        return str(error)
    return "ran"

assert run(root / "whole") == "ran"
warnings.simplefilter("error")  # where a checkpoint is called damaged
for number, case in enumerate(sys.argv[2:]):
    name, mode, resume = case.split()
    folder = shutil.copytree(root / "whole", root / str(number), symlinks=True)
    (folder / name).chmod(int(mode, 8))
    print(repr(run(folder, resume == "resume")))
    (folder / name).chmod(0o755)
"""

CASES = {
    ". 000 resume": "cannot write to",
    ". 555 resume": "cannot write",
    ". 555 noresume": "cannot remove",
    "checkpoints 000 resume": "cannot read",
    "checkpoints/dense 000 noresume": "cannot read",
    "checkpoints/dense/training 000 resume": "cannot clean",
    "checkpoints/dense/training/parts.json 000 resume": "cannot read",
    "checkpoints/dense/training/seeds_0-0 000 resume": "cannot write checkpoints to",
    "checkpoints/dense/training/seeds_0-0/2 000 resume": "cannot read the checkpoint",
    "checkpoints/dense/training/seeds_0-0/2/state/d 000 resume": "cannot read the checkpoint",
    "checkpoints/dense/training/seeds_0-0/2 555 noresume": "cannot remove",
    "checkpoints/dense/last 555 resume": "cannot replace",
    "checkpoints/dense/best 000 resume": "cannot replace",
    "figures 555 resume": "cannot write",
    "config.json 000 resume": "cannot read",
    ".lock 444 resume": "cannot write to",
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """What each of CASES ended with."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root may write everything, and there is no setpriv to give that up")
    done = subprocess.run(
        [
            *(WITHOUT_ROOTS_RIGHTS if os.geteuid() == 0 else ()),
            *(sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path_factory.mktemp("runs")), *CASES),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_it_is_one_line(lines, case):
    assert lines[case].startswith(f"'{CASES[case]} ") and "ermission denied" in lines[case]
