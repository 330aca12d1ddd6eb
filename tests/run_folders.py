"""Run folders of made-up numbers, as an experiment would leave them."""

import dataclasses
import json
import re

import numpy as np

from mnistlab import sealed
from mnistlab.analysis import claims, history
from mnistlab.comparison import workdirs
from mnistlab.config import TrainConfig
from mnistlab.training.result import Record, Result, Run


def result_of(test_accuracy, seeds, **curves):
    """A Result with these test accuracies; every curve that is not given says 0.5 in 3 epochs."""
    values = np.asarray(test_accuracy, np.float64)
    base = np.full((len(values), 3), 0.5, np.float32)
    every = {name: np.asarray(curves.get(name, base), np.float32) for name in Record._fields}
    metrics = {"test_accuracy": values, "overfitting_gap": values / 10}
    runs = tuple(Run(seed, {}) for seed in seeds)
    return Result(TrainConfig("dense"), runs, every, metrics, {}, np.ones(base.shape))


def write_run(folder, results, *, questions=(), digests=True, **summary):
    """Writes `results` (variant -> Result) as a run of training; the configs are those of the results.

    Without `digests` as runs were written before there were any: what is changed in it shows only where nothing fits.
    """
    folder.mkdir()
    seeds_of = {
        re.sub(r"( \w+=\S+)+$", "", label): [run.seed for run in result.runs] for label, result in results.items()
    }
    seeds = max(seeds_of.values(), key=len)
    configs = {
        re.sub(r"( \w+=\S+)+$", "", label): {"config": dataclasses.asdict(result.config), "learning_rates": []}
        for label, result in results.items()
    }
    run = {"seeds": seeds, "variants": configs}
    if fewer := {name: own for name, own in seeds_of.items() if own != seeds}:
        run["seeds_of"] = fewer
    content = {"run": run, "data": {"name": "mnist"}, "git_revision": "abc"}
    write_json(folder / "config.json", content, digests)
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
    write_json(folder / "summary.json", content | summary, digests)
    return folder


def write_json(path, content, digests):
    if digests:
        sealed.write(path, content, workdirs.digests_beside(path.parent) if path.name == "summary.json" else None)
    else:
        path.write_text(json.dumps(content))
