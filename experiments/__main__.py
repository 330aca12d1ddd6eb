"""`python -m experiments` lists the entry points, one line each: the experiments, then the tools."""

from experiments import common

if __name__ == "__main__":
    for heading, names in (("Experiments", common.names()), ("Tools", common.tools())):
        print(f"{heading}\n" + "\n".join(f"  {name:28} {common.summary_line(name)}" for name in names))
