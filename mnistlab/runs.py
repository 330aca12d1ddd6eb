"""Runs read back from their folders, and compared with one another.

>>> from pathlib import Path
>>> a, b = read_run(Path("results/a")), read_run(Path("results/b"))  # doctest: +SKIP
>>> compare_runs(a, b, "test_accuracy").verdict  # doctest: +SKIP
'holds'
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistlab import claims, config, history, stats
from mnistlab.config import TrainConfig
from mnistlab.errors import UserError
from mnistlab.train import Record, Result, Run


class RunFolder(NamedTuple):
    """What a training experiment left in a folder."""

    path: Path
    seeds: tuple[int, ...]
    variants: dict[str, Result]  # as history.metric and claims.check take them; without weights and wall times
    config: dict[str, Any]  # config.json
    summary: dict[str, Any]  # summary.json


def read_run(path: Path) -> RunFolder:
    """The run that an experiment left in the folder `path`: config.json, summary.json and history.csv.

    Raises:
      UserError: no run, none that trained, one that has not come to its end, or a damaged file.
    """
    settings = _read_json(path, "config.json", "give the folder of a run")
    if not isinstance(settings.get("run"), dict) or not isinstance(settings["run"].get("variants"), dict):
        raise UserError(f"{path} holds no run of training: its config.json names no variants; give another folder")
    summary = _read_json(path, "summary.json", "its run has not come to its end; repeat its command, which resumes it")
    curves = history.from_csv(path / "history.csv")
    try:
        seeds = tuple(int(seed) for seed in settings["run"]["seeds"])
        variants = {
            label: _result(label, entry, settings["run"]["variants"], seeds, curves[label])
            for label, entry in summary["variants"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the files in {path} do not belong together ({error!r}); repeat the run with --noresume"
        ) from error
    return RunFolder(path, seeds, variants, settings, summary)


def choose_variant(run: RunFolder, name: str | None) -> str:
    """`name`, or the only variant of the run.

    Raises:
      UserError: no such variant, or several and none named.
    """
    if name in run.variants:
        return str(name)
    if name is None and len(run.variants) == 1:
        return next(iter(run.variants))
    wrong = "has several variants; say which of" if name is None else f"has no variant {name!r}; expected one of"
    raise UserError(f"{run.path} {wrong} {', '.join(run.variants)}")


def compare_runs(
    a: RunFolder,
    b: RunFolder,
    metric: str = "test_accuracy",
    *,
    variant_a: str | None = None,
    variant_b: str | None = None,
    direction: str = ">",
) -> stats.Comparison:
    """Measures and judges the one claim "A > B" (or "A < B") on two runs, paired by seed.

    Args:
      metric: a name that history.metric knows.
      variant_a, variant_b: may be left out where a run has one variant.

    Raises:
      UserError: no such variant or metric, another direction, seeds that do not pair.
    """
    left = a.variants[choose_variant(a, variant_a)]
    right = b.variants[choose_variant(b, variant_b)]
    check_metric(left, metric)
    check_metric(right, metric)
    comparison = stats.compare(history.metric(left, metric), claims.paired(left, right, metric), direction=direction)
    return stats.judge([comparison])[0]


def pair_variants(
    a: RunFolder, b: RunFolder, variant_a: str | None = None, variant_b: str | None = None
) -> list[tuple[str, str]]:
    """Which variants of two runs are compared: those named, else all that both have, else the only one of each.

    Within one run, its two variants.

    Raises:
      UserError: no such variant, or it cannot be said which.
    """
    if variant_a is None and variant_b is None:
        if a.path.resolve() == b.path.resolve():
            if len(a.variants) == 2:
                first, second = a.variants
                return [(first, second)]
            raise UserError(f"{a.path} is given twice: say which of its variants are meant: {', '.join(a.variants)}")
        common = [(name, name) for name in a.variants if name in b.variants]
        if common:
            return common
    return [(choose_variant(a, variant_a), choose_variant(b, variant_b))]


def check_metric(result: Result, metric: str) -> None:
    """Makes sure that history.metric knows `metric` and that the runs were trained long enough to have it.

    Raises:
      UserError: no such metric, or one of an epoch that no run has reached.
    """
    values = history.metric(result, metric)
    if metric not in result.metrics and not np.isfinite(values).any():
        raise UserError(f"no run has a finite {metric}; trained epochs: {result.epoch_seconds.shape[1]}")


def differing_settings(a: RunFolder, variant_a: str, b: RunFolder, variant_b: str) -> list[tuple[str, Any, Any]]:
    """(setting, in A, in B) for all that differs between two variants: config, data, device, versions, code."""
    left, right = _settings(a, variant_a), _settings(b, variant_b)
    return [(name, left.get(name), right.get(name)) for name in {**left, **right} if left.get(name) != right.get(name)]


def _settings(run: RunFolder, variant: str) -> dict[str, Any]:
    base = variant.split(" ")[0]
    own = {**run.config["run"]["variants"][base]["config"], **run.variants[variant].runs[0].settings}
    names = ("data", "device", "matmul_precision", "xla_flags", "versions", "git_revision")
    about = {name: run.config.get(name) for name in names}
    return _flat({"experiment": run.summary.get("experiment"), "protocol": run.summary.get("protocol"), **own, **about})


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one, names joined by points.

    >>> _flat({"optim": {"name": "adam"}, "loss": "sum"})
    {'optim.name': 'adam', 'loss': 'sum'}
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _read_json(folder: Path, name: str, missing: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{folder} has no {name}: {missing}")
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:  # ValueError: no JSON, no UTF-8
        raise UserError(f"{path} is damaged ({error}); repeat the run with --noresume") from error
    return content


def _result(
    label: str,
    entry: Mapping[str, Any],
    configs: Mapping[str, Any],
    seeds: tuple[int, ...],
    curves: Mapping[str, np.ndarray],
) -> Result:
    """A variant's Result; `label` is its name, or "dense learning_rate=0.001" in a sweep."""
    base, *words = label.split(" ")
    settings = {name: float(value) for name, _, value in (word.partition("=") for word in words)}
    metrics = {name: np.array(summary["values"], np.float64) for name, summary in entry["metrics"].items()}
    wrong = [name for name, values in [*metrics.items(), *curves.items()] if len(values) != len(seeds)]
    if wrong:
        raise ValueError(f"{wrong[0]} of {label} has not one value for each of {len(seeds)} seeds")
    weights: Any = None
    return Result(
        config=config.from_dict(TrainConfig, configs[base]["config"]),
        runs=tuple(Run(seed, settings) for seed in seeds),
        state=weights,
        best=weights,
        history={name: curves[name] for name in Record._fields},
        metrics=metrics,
        seconds={},
        epoch_seconds=curves["seconds"],
    )
