"""A comparison that takes several rounds, as a file for `mnistlab run` too."""

import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # where this file is run rather than imported
import test_open

import mnistlab
from mnistlab import Claim, OptimConfig
from mnistlab.comparison import run
from mnistlab.comparison.spec import Experiment, Options
from mnistlab.training.callbacks import OnEpoch

CLAIMS = (
    Claim("a", "wider is more accurate", "test_accuracy", "wide", ">", "narrow"),
    Claim("b", "so little matters", "test_accuracy", "wide", ">", "close", matters=0.0),
)


def experiment(claims=CLAIMS):
    nets = {"narrow": test_open.Net(1), "wide": test_open.Net(16), "close": test_open.Net(15)}
    data = mnistlab.from_arrays(*(test_open.blobs(n, s) for n, s in ((300, 1), (200, 2), (100, 3))), name="blobs")
    sgd = OptimConfig("sgd", learning_rate=0.03)  # Lion would make other signs of other rounding
    base = dataclasses.replace(test_open.NARROW, dataset="blobs", optimizer=sgd)
    variants = {name: dataclasses.replace(base, model=net) for name, net in nets.items()}
    return Experiment("own", controlled=variants, claims=claims, data=data)


def resolve(folder, log=lambda line: None, claims=CLAIMS, **options):
    """Runs it, one seed a program, so that a seed's bits do not depend on the round; returns the summary."""
    asked = {"until": "resolved", "max_seeds": 10, "population_size": 1} | options
    hooks = run.Hooks(log, lambda name, variant: [OnEpoch(lambda epoch: log(f"{name} epoch {epoch.number}"))])
    return run.run(experiment(claims), Options(Path(folder), protocol="controlled", **asked), hooks)


EXPERIMENT = experiment()
