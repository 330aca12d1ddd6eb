"""A comparison that takes several rounds: `python tests/until_run.py FOLDER` runs it and says each epoch."""

import dataclasses
import sys
from pathlib import Path

import test_open

import mnistlab
from mnistlab import Claim
from mnistlab.comparison import run
from mnistlab.comparison.spec import Experiment, Options
from mnistlab.training.callbacks import OnEpoch

CLAIMS = (
    Claim("a", "wider is more accurate", "test_accuracy", "wide", ">", "narrow"),
    Claim("b", "so little matters", "test_accuracy", "wide", ">", "close", matters=0.0),
)


def experiment(claims=CLAIMS):
    close = dataclasses.replace(test_open.NARROW, model=test_open.Net(15))
    variants = {"narrow": test_open.NARROW, "wide": test_open.WIDE, "close": close}
    data = mnistlab.from_arrays(*(test_open.blobs(n, s) for n, s in ((300, 1), (200, 2), (100, 3))), name="blobs")
    variants = {name: dataclasses.replace(variant, dataset="blobs") for name, variant in variants.items()}
    return Experiment("own", controlled=variants, claims=claims, data=data)


def resolve(folder, log=lambda line: None, claims=CLAIMS, **options):
    """Runs it, one seed a program, so that a seed's bits do not depend on the round; returns the summary."""
    asked = {"until": "resolved", "max_seeds": 10, "population_size": 1} | options
    hooks = run.Hooks(log, lambda name, variant: [OnEpoch(lambda epoch: log(f"{name} epoch {epoch.number}"))])
    return run.run(experiment(claims), Options(Path(folder), protocol="controlled", **asked), hooks)


if __name__ == "__main__":
    resolve(sys.argv[1], lambda line: print(line, flush=True))
