"""`python -m experiments` lists the entry points; `python -m experiments NAME --flag=value ...` runs one."""

import os
import sys

from . import common
from .cli import main as cli

if __name__ == "__main__":
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(common.listing())
    else:
        called = os.environ.get("MNISTLAB_CALLED")  # launch/local.sh says how a user calls it
        cli.run(name, rest, f"{called} {name}" if called else f"python -m experiments.{name}")
