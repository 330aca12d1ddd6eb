"""`python -m experiments` lists the entry points; `python -m experiments NAME --flag=value ...` runs one."""

import runpy
import sys

from experiments import common


def main(arguments: list[str]) -> None:
    """Lists what there is, or runs what is named."""
    if not arguments or arguments[0] in ("--help", "-h"):
        for heading, names in (("Experiments", common.names()), ("Tools", common.tools())):
            print(f"{heading}\n" + "\n".join(f"  {name:28} {common.summary_line(name)}" for name in names))
        return
    name, *rest = arguments
    known = common.names() + common.tools()
    if name not in known:
        near = common.nearest(name, known)
        advice = f"did you mean {near}? " if near else ""
        print(f"error: unknown experiment {name!r:.80}; {advice}python -m experiments lists them", file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = rest
    runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
