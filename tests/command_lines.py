"""Runs many command lines as `python -m` does, in a folder that is their home too."""

import os
from pathlib import Path
from typing import NamedTuple

import forks

ROOT = Path(__file__).parents[1]


class Ended(NamedTuple):
    """How a command line ended."""

    status: int
    out: str
    err: str


def run_all(
    command_lines: list[tuple[str, list[str]]], folder: Path, *, pictures: bool = True, **more: str
) -> list[Ended]:
    """Runs (module, arguments) one after another in `folder`, with `more` in their environment."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | more
    ended = (
        forks.run(module, arguments, folder=folder, environ=environ, pictures=pictures)
        for module, arguments in command_lines
    )
    return [Ended(done.returncode, done.stdout, done.stderr) for done in ended]


def run_all_with_data(
    command_lines: list[tuple[str, list[str]]], folder: Path, *, pictures: bool = True
) -> list[Ended]:
    """As `run_all`, but with the session's data and programs."""
    return run_all(command_lines, folder, pictures=pictures, XDG_CACHE_HOME=os.environ["XDG_CACHE_HOME"])
