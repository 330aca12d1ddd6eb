"""Run folders of made-up numbers, as an experiment would leave them."""

import dataclasses
import json

import numpy as np

from mnistlab.analysis import claims, history
from mnistlab.config import TrainConfig
from mnistlab.training.crowds import Run
from mnistlab.training.train import Record, Result


def result_of(test_accuracy, seeds, **curves):
    """A Result with these test accuracies; every curve that is not given says 0.5 in 3 epochs."""
    values = np.asarray(test_accuracy, np.float64)
    base = np.full((len(values), 3), 0.5, np.float32)
    every = {name: np.asarray(curves.get(name, base), np.float32) for name in Record._fields}
    metrics = {"test_accuracy": values, "overfitting_gap": values / 10}
    runs = tuple(Run(seed, {}) for seed in seeds)
    return Result(TrainConfig("dense"), runs, (), (), every, metrics, {}, np.ones(base.shape))


def write_run(folder, results, *, questions=(), **summary):
    """Writes `results` (variant -> Result) as a run of training; the configs are those of the results."""
    folder.mkdir()
    seeds = [run.seed for run in next(iter(results.values())).runs]
    configs = {
        label.split(" ")[0]: {"config": dataclasses.asdict(result.config), "learning_rates": []}
        for label, result in results.items()
    }
    content = {"run": {"seeds": seeds, "variants": configs}, "data": {"name": "mnist"}, "git_revision": "abc"}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "history.csv").write_text(history.to_csv(results))
    entries = {
        label: {"params": 1, "metrics": {name: history.summarize(values) for name, values in result.metrics.items()}}
        for label, result in results.items()
    }
    content = {
        "experiment": "made_up",
        "protocol": "controlled",
        "departures": [],
        "data": {"name": "mnist", "fingerprint": "0", "limit_examples": None},
        "device": "cpu: cpu",
        "n_seeds": len(seeds),
        "variants": entries,
        "claims": [item.to_dict() for item in claims.check(questions, results)],
        "seconds": {},
    }
    (folder / "summary.json").write_text(json.dumps(content | summary))
    return folder
