"""Runs read back from their folders, and what of them can be joined or compared."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mnistlab import config, sealed
from mnistlab.analysis import history
from mnistlab.comparison import identity, notebook, schema, workdirs
from mnistlab.config import TrainConfig
from mnistlab.errors import UserError, file_errors, meant
from mnistlab.training.result import Record, Result, Run, concatenate, padded, select

if TYPE_CHECKING:
    import pandas


class RunFolder(NamedTuple):
    """What a training experiment left in a folder."""

    path: Path
    seeds: tuple[int, ...]  # a variant may have fewer: its Result says which
    variants: dict[str, Result]  # as history.metric and claims.check take them; without weights and wall times
    config: dict[str, Any]  # config.json
    summary: dict[str, Any]  # summary.json

    def to_dataframe(self, rows: str = "epoch") -> "pandas.DataFrame":
        """The run in long form, with pandas.

        Args:
          rows: "epoch": as history.csv, a row for each variant, seed and epoch, but for the seconds; "seed": a row for
            each variant and seed with its final metrics.

        Raises:
          UserError: pandas is not installed, or other rows are asked for.
        """
        return notebook.to_dataframe(self.variants, rows)

    def __repr__(self) -> str:
        return f"RunFolder({self.path}: {', '.join(self.variants)}; {len(self.seeds)} seed(s))"

    def _repr_html_(self) -> str:
        return notebook.html_of(self.summary)

    def seeds_of(self, label: str) -> list[int]:
        """The seeds of one variant."""
        return [run.seed for run in self.variants[label].runs]

    def known_of(self, label: str) -> dict[str, Any]:
        """What config.json says of the variant of a label: its config, and the digest of a program without a name."""
        variants = self.config["run"]["variants"]
        return variants[history.variant_of(label, variants)]

    def settings_of(self, label: str) -> dict[str, Any]:
        """The config of one variant, at its point of a grid and at the learning rate that was chosen."""
        entry = self.summary["variants"][label]
        own = dict(self.known_of(label)["config"])
        own = {"optimizer" if name == "optim" else name: value for name, value in own.items()}  # of format 1
        optimizer = dict(own["optimizer"]) if isinstance(own["optimizer"], dict) else {}
        chosen = {"learning_rate": entry["learning_rate"]} if "learning_rate" in entry else {}
        settings = chosen | self.variants[label].runs[0].settings
        changed = optimizer | {name: value for name, value in settings.items() if name in optimizer}
        rest = {name: value for name, value in settings.items() if name not in optimizer}
        return own | rest | ({"optimizer": changed} if optimizer else {})


def read_run(path: Path | str) -> RunFolder:
    """The run that an experiment left in the folder `path`: config.json, summary.json and history.csv.

    Raises:
      UserError: no run, none that trained, one that has not come to its end, a damaged file, or files of several runs.
    """
    path = Path(path)
    settings = _read_json(path, "config.json", "give the folder of a run", COPY)
    wrong = schema.misfit(settings, "config.json")
    if wrong:
        raise UserError(f"{path} holds no run of training: in its config.json {wrong}; give another folder")
    summary = read_summary(path)
    wrong = schema.misfit(summary, "of training")
    if wrong:
        raise UserError(f"{path / 'summary.json'} is of no run of training ({wrong}); give another folder")
    curves = history.from_csv(path / "history.csv")
    try:
        seeds = tuple(settings["run"]["seeds"])
        if not seeds or not summary["variants"]:
            raise ValueError("no seeds, or no variants")
        variants = {
            label: _result(label, entry, settings["run"], curves[label]) for label, entry in summary["variants"].items()
        }
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"the files in {path} do not belong together ({error!r:.200}); {REPEAT}") from error
    return RunFolder(path, seeds, variants, settings, summary)


def read_summary(path: Path, part: str | None = None) -> dict[str, Any]:
    """The summary.json that any experiment or tool left in the folder `path`.

    Args:
      part: of the schema, which it must fit: "of an experiment" is what ran on one device.

    Raises:
      UserError: there is none, it is damaged or lacks what every summary has, or what lies beside it is of another run.
    """
    unfinished = "its run has not come to its end; repeat its command, which resumes it"
    summary = _read_json(path, "summary.json", unfinished, REPEAT)
    wrong = schema.misfit(summary, part)
    if wrong:
        raise UserError(f"{path / 'summary.json'} is damaged ({wrong}); {REPEAT}")
    if "digests" in summary:
        for name, digest in workdirs.digests_beside(path).items():
            if summary["digests"].get(name) != digest:
                raise UserError(f"{name} in {path} is not what its summary.json was made of; {REPEAT}")
    return summary


REPEAT = "repeat its run's command, which keeps the checkpoints and writes history.csv and summary.json again"
COPY = "put back a copy of it, or repeat the run in another --workdir"


def join_runs(runs: Sequence[RunFolder]) -> dict[str, Result]:
    """The variants of runs that differ in their seeds alone, with all their seeds in increasing order.

    Raises:
      UserError: nothing to join, another experiment or configuration among them, or a seed that two hold.
    """
    if not runs:
        raise UserError("no runs to join; expected at least one folder of a run")
    first = runs[0]
    for run in runs[1:]:
        for what in ("experiment", "protocol", "variants", "sweep", "data", "matmul_precision"):
            if run.config["run"].get(what) != first.config["run"].get(what):
                raise UserError(f"{run.path} and {first.path} differ in their {what}; only seeds may differ")
        if _chosen(run) != _chosen(first):
            raise UserError(
                f"{run.path} and {first.path} hold other variants, metrics or chosen rates; only seeds may differ"
            )
    ordered = sorted(runs, key=lambda run: run.seeds)
    seeds = [seed for run in ordered for seed in run.seeds]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise UserError(f"seed {twice[0]} is in two of the runs; give each seed once")
    return {name: _join([run.variants[name] for run in ordered]) for name in first.variants}


def _chosen(run: RunFolder) -> dict[str, Any]:
    """What each variant was trained at and measured by."""
    entries = run.summary["variants"]
    return {name: (entry.get("learning_rate"), sorted(entry["metrics"])) for name, entry in entries.items()}


def _join(results: Sequence[Result]) -> Result:
    """All runs in the order of their seeds, the histories as long as the longest."""
    num_epochs = max(result.epoch_seconds.shape[1] for result in results)

    whole = concatenate(
        [
            result._replace(
                history={name: padded(curve, num_epochs) for name, curve in result.history.items()},
                epoch_seconds=padded(result.epoch_seconds, num_epochs),
            )
            for result in results
        ]
    )
    return select(whole, np.argsort([run.seed for run in whole.runs]).tolist())


def choose_variant(run: RunFolder, name: str | None) -> str:
    """`name`, or the only variant of the run.

    Raises:
      UserError: no such variant, or several and none named.
    """
    if name in run.variants:
        return str(name)
    if name is None and len(run.variants) == 1:
        return next(iter(run.variants))
    if name is None:
        raise UserError(f"{run.path} has several variants; say which of {', '.join(run.variants)}")
    near = meant(name, run.variants)
    raise UserError(f"{run.path} has no variant {name!r}; {near}expected one of {', '.join(run.variants)}")


def pair_variants(
    a: RunFolder, b: RunFolder, variant_a: str | None = None, variant_b: str | None = None
) -> list[tuple[str, str]]:
    """Which variants of two runs are compared: those named, else all that both have, else the only one of each.

    Raises:
      UserError: no such variant, or it cannot be said which.
    """
    common = [(name, name) for name in a.variants if name in b.variants]
    if common and variant_a is None and variant_b is None:
        return common
    return [(choose_variant(a, variant_a), choose_variant(b, variant_b))]


def check_metric(result: Result, metric: str) -> None:
    """Makes sure that history.metric knows `metric` and that the runs were trained long enough to have it.

    Raises:
      UserError: no such metric, or one of an epoch that a run which did not diverge has not reached.
    """
    values = history.metric(result, metric)
    if metric in result.metrics:
        return
    if not np.isfinite(values).any():
        raise UserError(f"no run has a finite {metric}; trained epochs: {result.epoch_seconds.shape[1]}")
    stopped = ~np.isfinite(values) & ~history.diverged(result)
    if stopped.any():
        raise UserError(f"{stopped.sum()} of {len(values)} runs stopped before {metric}; take one that all have")


def differing_settings(a: RunFolder, variant_a: str, b: RunFolder, variant_b: str) -> list[tuple[str, Any, Any]]:
    """(setting, in A, in B) for all that differs between two variants: config, data, device, versions, code."""
    left, right = _settings(a, variant_a), _settings(b, variant_b)
    return [(name, left.get(name), right.get(name)) for name in {**left, **right} if left.get(name) != right.get(name)]


def _settings(run: RunFolder, variant: str) -> dict[str, Any]:
    names = ("data", "device", "matmul_precision", "xla_flags", "versions", "git_revision", "code_digest")
    about = {name: run.config.get(name) for name in names}
    named = {name: run.summary.get(name) for name in ("experiment", "protocol")}
    own = {"program": run.known_of(variant).get("program", "")[:12] or None}
    return config.flat({**named, **run.settings_of(variant), **own, **about})


def _read_json(folder: Path, name: str, missing: str, advice: str) -> dict[str, Any]:
    path = folder / name
    with file_errors(f"cannot read {path}", missing):  # the name is too long, or a folder on the way is closed
        there = path.is_file()
    if not there:
        raise UserError(f"{folder} has no {name}: {missing}")
    content = sealed.read(path, advice)
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (it is no object); {advice}")
    return content


def _result(label: str, entry: Mapping[str, Any], run: Mapping[str, Any], curves: history.Curves) -> Result:
    """A variant's Result; `label` is its name, or "dense learning_rate=0.001" in a sweep.

    Raises:
      ValueError: summary, history and seeds are not of one run.
    """
    base = history.variant_of(label, run["variants"])
    seeds = tuple(identity.seeds_of(run, base))
    words = label.removeprefix(base).split()
    settings = {name: float(value) for name, _, value in (word.partition("=") for word in words)}
    if not words:  # a sweep of one point, which no label names
        settings = {name: float(values[0]) for name, values in run.get("sweep", {}).items()}
    metrics = {name: np.array(summary["values"], np.float64) for name, summary in entry["metrics"].items()}
    wrong = [name for name, values in metrics.items() if len(values) != len(seeds)]
    if wrong:
        raise ValueError(f"{wrong[0]} of {label} has not one value for each of {len(seeds)} seeds")
    if curves.seeds != seeds:
        raise ValueError(f"history.csv has other seeds of {label} than config.json")
    for name, values in _at_the_end(curves.values).items():
        given = metrics.get(name, np.full(len(seeds), np.nan))  # of a diverged run there is none
        if not np.allclose(values[np.isfinite(given)], given[np.isfinite(given)], rtol=1e-6, atol=0.0):
            raise ValueError(f"{name} of {label} is another in history.csv than in summary.json")
    return Result(
        config=config.from_dict(TrainConfig, run["variants"][base]["config"]),
        runs=tuple(Run(seed, settings) for seed in seeds),
        history={name: curves.values[name] for name in Record._fields},
        metrics=metrics,
        seconds={},
        epoch_seconds=curves.values["seconds"],
    )


def _at_the_end(curves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The metrics of a summary that a history knows as well, each float64 [seeds]."""
    num_epochs = np.isfinite(curves["seconds"]).sum(axis=1)
    last = {name: curves[name][np.arange(len(num_epochs)), num_epochs - 1] for name in ("train_loss", "train_accuracy")}
    return last | {"num_epochs": num_epochs.astype(np.float64)}
