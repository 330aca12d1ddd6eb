"""The command `mnistlab`: comparisons of the sources, those of one's own, and what works on their runs."""

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from absl import flags

import mnistlab

from .. import common

flags.disclaim_key_flags()  # those of a comparison are the command's
PACKAGE = __package__.rpartition(".")[0] if __package__ else ""
USAGE = """usage: mnistlab run NAME|FILE.py [--flags]   runs a comparison; `mnistlab run NAME --help` lists its flags
       mnistlab list                       what can be run
       mnistlab TOOL [arguments]           works on the folders of runs
       mnistlab --version"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line names; bad input is one line and exit status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command, rest = (given[0], given[1:]) if given else ("--help", [])
    if command in ("--help", "-h", "help"):
        print(f"{USAGE}\n\n{listing()}")
    elif command == "list":
        print(listing())
    elif command == "--version":
        print(mnistlab.__version__)
    elif command == "run":
        if not rest:
            _fail("which comparison? expected mnistlab run NAME or FILE.py; mnistlab list shows the names")
        run(rest[0], rest[1:], f"mnistlab run {rest[0]}")
    elif command in common.tools():
        run(command, rest, f"mnistlab {command}")
    else:
        near = common.nearest(command, ["run", "list", *common.tools(), *common.names()])
        advice = f"did you mean {'run ' if near in common.names() else ''}{near}? " if near else ""
        _fail(f"unknown command {command!r:.80}; {advice}mnistlab --help lists them")


def run(name: str, arguments: Sequence[str], program: str) -> None:
    """Runs a named comparison or tool, or the EXPERIMENT of a file, as `program`."""
    sys.argv = [program, *arguments]
    if name.endswith(".py"):
        common.main(_experiment_of(Path(name)))
        return
    known = common.names() + common.tools()
    if name not in known:
        near = common.nearest(name, known)
        lists = "mnistlab list" if program.startswith("mnistlab") else "python -m experiments"
        _fail(f"unknown experiment {name!r:.80}; {f'did you mean {near}? ' if near else ''}{lists} lists them")
    runpy.run_module(f"{PACKAGE}.{name}", run_name="__main__")


def listing() -> str:
    """The comparisons and the tools, one line each."""
    groups = (("Experiments", common.names()), ("Tools", common.tools()))
    return "\n".join(
        f"{heading}\n" + "\n".join(f"  {name:28} {common.summary_line(name)}" for name in names)
        for heading, names in groups
    )


def _experiment_of(path: Path) -> mnistlab.Experiment:
    if not path.is_file():
        _fail(f"there is no file {path}; expected a Python file that defines EXPERIMENT = mnistlab.Experiment(...)")
    found = runpy.run_path(str(path), run_name="mnistlab_comparison").get("EXPERIMENT")
    if not isinstance(found, mnistlab.Experiment):
        _fail(f"{path} defines no EXPERIMENT; expected EXPERIMENT = mnistlab.Experiment(name=..., controlled={{...}})")
    return found


def _fail(text: str) -> NoReturn:
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
