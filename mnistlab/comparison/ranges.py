"""Which seeds of a variant are trained together, and at which learning rates.

Seeds that a run is given later are a range of their own. Where a learning rate is chosen, the first NUM_TUNING_SEEDS
are trained at every rate and choose one; later seeds are trained at that one alone. Fewer seeds answer no claim, so
that the choice stands before anybody looks at a verdict: later seeds add pairs, and change none that was looked at.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mnistlab import sealed
from mnistlab.comparison import spec, workdirs
from mnistlab.devices import cluster
from mnistlab.errors import UserError
from mnistlab.training import loop, result, trained
from mnistlab.training.callbacks import Callback
from mnistlab.training.result import Result
from mnistlab.training.sizing import PopulationSize
from mnistlab.training.trained import Trained

if TYPE_CHECKING:
    from mnistlab.comparison.run import Session


class SeedRange(NamedTuple):
    """Seeds that began together; a run that was given more seeds later has several ranges."""

    num_seeds: int
    population_size: int | None  # None: not chosen yet


class _Ranges(Callback):
    """Says how many runs share a program, and notes it for whoever resumes: others would not find what was kept."""

    def __init__(self, session: Session, name: str, path: Path, kept: Sequence[SeedRange], new: SeedRange | None):
        self.session, self.name, self.path, self.kept, self.new = session, name, path, kept, new

    def on_size(self, size: PopulationSize) -> None:
        if self.new is not None and cluster.is_first():
            ranges = [*self.kept, SeedRange(self.new.num_seeds, size.size)]
            sealed.write(self.path, {"parts": ranges})
        if size.num_runs > 1:
            self.session.hooks.log(f"{self.name}: {size.text()}")


def train(session: Session, name: str, callbacks: Sequence[Callback], before: Trained | None) -> Trained:
    """Trains the seeds in the ranges in which they began; those of `before` are done."""
    variant, seeds = session.variants[name], session.seeds[name]
    path = session.checkpoints(name) / "training" / "parts.json"
    whole, number, first = before, 0, 0
    while first < len(seeds):
        kept = cluster.from_first(_kept_ranges(path, len(seeds)) if cluster.is_first() else None)
        kept = [SeedRange(*map(int, pair)) for pair in kept]
        new = None if number < len(kept) else _next_range(session, name, first)
        one = new or kept[number]
        number, own = number + 1, seeds[first : first + one.num_seeds]
        first += one.num_seeds
        if before is not None and own[-1] in {run.seed for run in before.result.runs}:
            continue
        part = loop.train(
            variant.config,
            session.dataset,
            own,
            sweep=_sweep(session, name, own, whole),
            resources=session.resources._replace(population_size=one.population_size),
            callbacks=[_Ranges(session, name, path, kept, new), *callbacks],
        )
        whole = part if whole is None else trained.concatenate([whole, part])
    assert whole is not None
    return whole


def _next_range(session: Session, name: str, first: int) -> SeedRange:
    """The range that begins with the seed number `first`, one that nothing was kept of."""
    last = len(session.seeds[name])
    if session.variants[name].learning_rates and first < spec.NUM_TUNING_SEEDS:
        last = min(last, spec.NUM_TUNING_SEEDS)
    return SeedRange(last - first, session.resources.population_size)


def _sweep(session: Session, name: str, seeds: Sequence[int], before: Trained | None) -> dict[str, Sequence[float]]:
    """The grid for some seeds of a variant: once a learning rate has been chosen, at this one alone."""
    grid: dict[str, Sequence[float]] = dict(spec.sweep_of(session.variants[name], session.options))
    if session.variants[name].learning_rates and seeds[0] >= _first_untuned(session):
        assert before is not None  # the first range begins with the first seed
        grid["learning_rate"] = (float(cluster.from_first(best_learning_rate(tuning(session, before.result)))),)
    return grid


def _first_untuned(session: Session) -> int:
    return session.options.first_seed + spec.NUM_TUNING_SEEDS


def tuning(session: Session, whole: Result) -> dict[float, Result]:
    """Learning rate -> the runs by whose validation one is chosen."""
    numbers: dict[float, list[int]] = {}
    for number, run in enumerate(whole.runs):
        if run.seed < _first_untuned(session):
            numbers.setdefault(run.settings["learning_rate"], []).append(number)
    return {rate: result.select(whole, chosen) for rate, chosen in numbers.items()}


def _kept_ranges(path: Path, num_seeds: int) -> list[SeedRange]:
    """The ranges in which training began, of `num_seeds` at most.

    Raises:
      UserError: the file is damaged.
    """
    if not os.path.lexists(path):
        return []
    content = sealed.read(path, workdirs.ADVICE)
    try:
        numbers = [(int(seeds), int(size)) for seeds, size in content["parts"]]
        if min(min(pair) for pair in numbers) < 1 or sum(seeds for seeds, _ in numbers) > num_seeds:
            raise ValueError(f"{numbers} cannot be, of {num_seeds} seeds")
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"{path} is damaged ({error!s:.200}); {workdirs.ADVICE}") from error
    return [SeedRange(*pair) for pair in numbers]


def best_learning_rate(by_rate: Mapping[float, Result]) -> float:
    """The rate with the highest mean validation accuracy of the final weights; a diverged run counts as 0."""
    means = {rate: np.nan_to_num(one.metrics["val_accuracy"]).mean() for rate, one in by_rate.items()}
    return max(means, key=lambda rate: means[rate])
