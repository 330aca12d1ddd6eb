"""The command `mnistlab`: comparisons of the sources, those of one's own, and what works on their runs."""

import runpy
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

import mnistlab
from mnistlab.errors import UserError, meant

from .. import common
from . import process, settings

if __name__ != "__main__":  # the flags of a comparison are the command's
    flags.disclaim_key_flags()
PACKAGE = __package__.rpartition(".")[0] if __package__ else ""
USAGE = """usage: mnistlab run NAME|FILE.py [--flags]   runs a comparison; `mnistlab run NAME --help` lists its flags
       mnistlab list [FOLDER]              what can be run, and the runs under results or FOLDER
       mnistlab TOOL [arguments]           works on the folders of runs; `mnistlab TOOL --help` says how
       mnistlab --version"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line names; bad input is one line and exit status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (given[0], given[1:]) if given else ("--help", [])
    if command in ("--help", "-h", "help"):
        print(f"{USAGE}\n\n{common.listing()}")
    elif command == "--version":
        print(mnistlab.__version__)
    elif command == "run" and rest in (["--help"], ["-h"]):
        print(USAGE)
    elif command == "run":
        name, flags_of_it = (rest[0], rest[1:]) if rest and not rest[0].startswith("-") else (_named_in(rest), rest)
        run(name, flags_of_it, f"mnistlab run {shlex.quote(name)}")
    elif command in common.TOOLS:
        run(command, rest, f"mnistlab {command}")
    else:
        near = meant(command, ["run", *common.TOOLS]) or meant(command, common.names()).replace("mean ", "mean run ")
        process.fail(f"unknown command {command!r:.80}; {near}mnistlab --help lists them")


def run(name: str, arguments: Sequence[str], program: str) -> None:
    """Runs a named comparison or tool, or the EXPERIMENT of a file, as `program`."""
    sys.argv = [program, *arguments]
    if name.endswith(".py"):
        experiment = _experiment_of(Path(name))
        sys.modules["__main__"].__doc__ = f"{experiment.title or experiment.name}\n\n{program} [--seeds=8]\n"
        common.main(experiment)
        return
    known = common.names() + common.TOOLS
    if name not in known:
        lists = "mnistlab list" if program.startswith("mnistlab") else "python -m experiments"
        process.fail(f"unknown experiment {name!r:.80}; {meant(name, known)}{lists} lists them")
    text = common.docstring(name).replace(f"python -m experiments.{name}", program)
    sys.modules["__main__"].__doc__ = f"{text}\n"  # which --help begins with
    runpy.run_module(f"{PACKAGE}.{name}", run_name="__main__")


def _named_in(arguments: Sequence[str]) -> str:
    """The comparison of which only a --config speaks."""
    try:
        name = settings.experiment_in(arguments)
    except UserError as error:
        process.fail(str(error))
    if name is None:
        process.fail("which comparison? expected mnistlab run NAME or FILE.py; mnistlab list shows the names")
    return name


def _experiment_of(path: Path) -> mnistlab.Experiment:
    if not path.is_file():
        process.fail(
            f"there is no file {path}; expected a Python file that defines EXPERIMENT = mnistlab.Experiment(...)"
        )
    sys.path.insert(0, str(path.resolve().parent))  # as of `python FILE.py`
    try:
        found = runpy.run_path(str(path), run_name="mnistlab_comparison").get("EXPERIMENT")
    except UserError as error:
        process.fail(f"{path}: {error}")
    if not isinstance(found, mnistlab.Experiment):
        process.fail(
            f"{path} defines no EXPERIMENT; expected EXPERIMENT = mnistlab.Experiment(name=..., controlled={{...}})"
        )
    return found


if __name__ == "__main__":
    main()
