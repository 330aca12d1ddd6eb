"""`python -m experiments` lists the entry points, one line each."""

from experiments import common

if __name__ == "__main__":
    for name in common.names():
        print(f"{name:28} {common.summary_line(name)}")
