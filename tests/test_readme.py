"""What the README shows runs: its script, and its commands in their order, as typed, with small settings after them."""

import hashlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import forks
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import common
from mnistlab.comparison import spec

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands(text):
    """The lines of indented blocks that start something, without what is said of them."""
    starts = ("bash launch/", "launch/", "sbatch ", "python -m ", "mnistlab ")
    lines = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    return [line.split(" #")[0].strip() for line in lines if line.startswith(starts)]


RESULTS = (ROOT / "docs" / "results.md").read_text()
TYPED, after = map(commands, README.split("## Results"))
MEASURED = [
    command
    for command in commands(RESULTS) + after
    if command.startswith("python -m ") and not command.startswith("python -m experiments.scoreboard ")
]
"""What a reader types; and what gave the results, in hours, of which only the flags are resolved."""

NOT_RUN = {
    "mnistlab predict": "it needs pictures; tests/test_nets.py runs it",
    "mnistlab export": "it needs a package of its own; tests/test_nets.py runs it",
    "mnistlab judge": "it needs a table; tests/test_tables.py runs it",
    "launch/mpi.sh": "it needs Open MPI; tests/test_launch.py runs it where it is installed",
    "sbatch": "it needs Slurm",
    "launch/sweep.sh": "16 runs; two of its parts stand in for it",
}
SMALL = "--variants=dense --epochs=1 --limit_examples=200 --batch_size=100 --progress=none {little}"
SETTINGS = (
    ("lenet_vs_dense --seeds=8 --epochs=2 --limit_examples=2000", f"{SMALL} --seeds=2"),
    (
        "--until=resolved",
        f"{SMALL} --variants=dense,lenet5 --max_seeds=8 --population_size=2 --workdir=results/lenet_vs_dense",
    ),
    ("--protocol=controlled", f"{SMALL} --variants=dense,lenet5 --seeds=2 --workdir=results/lenet_vs_dense_controlled"),
    ("scoreboard", "--norun"),
    ("launch/multi_device.sh", f"{SMALL} --seeds=2 --workdir=results/several"),
)
"""What stands after a command that holds the first text; the first that fits."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder like a fresh checkout whose .venv has this interpreter, forked already, and a home with nothing in it.

    The data are the session's, which another empty home began with.
    """
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("experiments", "mnistlab", "launch", "pyproject.toml", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "home").mkdir()
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    start, fork = shlex.quote(sys.executable), f"{shlex.quote(sys.executable)} -S {shlex.quote(forks.__file__)}"
    python.write_text(f'#!/bin/sh\n[ "$1" != -m ] || exec {fork} "$@"\nexec {start} "$@"\n')
    command = python.with_name("mnistlab")
    command.write_text(f'#!/bin/sh\nexec {fork} -m experiments.cli.main "$@"\n')
    for path in (python, command):
        path.chmod(0o755)
    pinned = (ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes() + b"\n"
    (folder / ".venv" / f"installed-{hashlib.sha256(pinned).hexdigest()[:16]}").touch()  # launch/setup.sh's stamp
    return folder


def run_in(checkout, command):
    environ = {"PATH": f"{checkout}/.venv/bin:{os.environ['PATH']}", "HOME": str(checkout / "home")}
    environ |= {"PYTHONPATH": str(checkout), "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]}
    parent = forks.socket_of_parent()
    environ |= {forks.SOCKET: str(parent)}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=checkout,
        env=environ,
        capture_output=True,
        text=True,
        timeout=600,
        pass_fds=[parent],
    )


def test_the_commands_run_in_their_order(checkout, little_flags):
    little = shlex.join(little_flags)
    ran = [command for command in TYPED if not command.startswith(tuple(NOT_RUN))]
    assert len(ran) >= 9
    for command in ran:
        if "gather" in command:
            for seed in (0, 1):
                part = f"--seed={seed} --workdir=results/sweep/lenet_vs_dense/seeds_{seed}"
                part = f"{SMALL.format(little=little)} {part}"
                done = run_in(checkout, f"python -m experiments.lenet_vs_dense {part}")
                assert done.returncode == 0, done.stderr
        added = next((settings for text, settings in SETTINGS if text in command), "").format(little=little)
        done = run_in(checkout, f"{command} {added}")
        assert done.returncode == 0, f"{command} {added}\n{done.stderr}"
    left = {str(path.parent.relative_to(checkout / "results")) for path in checkout.glob("results/**/report.html")}
    assert left >= {"lenet_vs_dense", "lenet_vs_dense_controlled", "quick/lenet_vs_dense", "scoreboard", "compare"}
    assert len(README.splitlines()) < 150


@pytest.mark.parametrize("start", NOT_RUN)
def test_what_is_not_run_is_in_the_readme(start):
    assert any(command.startswith(start) for command in TYPED)


@pytest.mark.parametrize("command", dict.fromkeys(MEASURED))
def test_the_commands_of_the_results_are_possible(training_flags, command):
    module, *arguments = shlex.split(command)[2:]
    name = module.removeprefix("experiments.")
    with flagsaver.flagsaver():
        flags.FLAGS(["prog", *arguments])
        asked = getattr(__import__(module, fromlist=["EXPERIMENT"]), "EXPERIMENT", None)
        if asked is not None:
            spec.resolve(asked, common.options(name))


def test_the_research_script_runs_and_gives_arrays(tmp_path):
    (script,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in script.splitlines() if line.strip()]) <= 20
    (tmp_path / "shown.py").write_text(script)
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = forks.run("shown", [], folder=tmp_path, environ=environ, pictures=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("holds [") and done.stdout.endswith("(3, 10)\n")


def test_every_command_names_what_exists():
    for name in re.findall(r"(?:experiments\.|mnistlab (?!run )|mnistlab run )(\w+)", "\n".join(TYPED)):
        assert name in common.names() + common.TOOLS, name
    for path in re.findall(r"launch/[\w.]+", README):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"local\.sh (\w+)", README):
        assert name in common.names() + common.TOOLS, name
