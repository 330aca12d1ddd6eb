"""Which seeds of a variant are trained together, and at which learning rates.

Seeds that a run is given later are a range of their own. Where a learning rate is chosen, the first NUM_TUNING_SEEDS
are trained at every rate and choose one; later seeds are trained at that one alone. Fewer seeds answer no claim, so
that the choice stands before anybody looks at a verdict: later seeds add pairs, and change none that was looked at.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mnistlab import sealed
from mnistlab.comparison import spec, workdirs
from mnistlab.devices import cluster
from mnistlab.errors import UserError
from mnistlab.training import loop, result, trained
from mnistlab.training.callbacks import Callback, Epoch
from mnistlab.training.result import Result
from mnistlab.training.sizing import PopulationSize
from mnistlab.training.trained import Trained

if TYPE_CHECKING:
    from mnistlab.comparison.run import Session


class SeedRange(NamedTuple):
    """Seeds that began together; a run that was given more seeds later has several ranges."""

    num_seeds: int
    population_size: int | None  # None: not chosen yet
    learning_rate: float | None = None  # the one that had been chosen; None: each that there is


class _Ranges(Callback):
    """Says how many runs share a program, and notes it for whoever resumes: others would not find what was kept."""

    def __init__(self, session: Session, name: str, path: Path, kept: Sequence[SeedRange], new: SeedRange | None):
        self.session, self.name, self.path, self.kept, self.new = session, name, path, kept, new

    def on_size(self, size: PopulationSize) -> None:
        if self.new is not None:
            self.new = self.new._replace(population_size=size.size)
        if size.num_runs > 1:
            self.session.hooks.log(f"{self.name}: {size.text()}")

    def on_epoch(self, epoch: Epoch) -> None:
        """With the first epoch, before it is kept: a size at which none could be trained binds nobody."""
        if self.new is not None and cluster.is_first():
            self.session.check_there()
            ranges = [*self.kept, self.new]
            sealed.write(self.path, {"parts": [one[:2] if one.learning_rate is None else one for one in ranges]})
        self.new = None


def train(session: Session, name: str, callbacks: Sequence[Callback], before: Trained | None) -> Trained:
    """Trains the seeds in the ranges in which they began; those of `before` are done."""
    variant, seeds = session.variants[name], session.seeds[name]
    path = session.checkpoints(name) / "training" / "parts.json"
    whole, number, first = before, 0, 0
    while first < len(seeds):
        sent = cluster.from_first(_kept_ranges(path, len(seeds)) if cluster.is_first() else None)
        kept = [SeedRange(*(np.asarray(value).item() for value in one)) for one in sent]
        new = None if number < len(kept) else _next_range(session, name, first, whole)
        one = new or kept[number]
        number, own = number + 1, seeds[first : first + one.num_seeds]
        first += one.num_seeds
        if before is not None and own[-1] in {run.seed for run in before.result.runs}:
            continue
        sweep = spec.sweep_of(variant, session.options)
        if one.learning_rate is not None:
            sweep["learning_rate"] = (one.learning_rate,)
        part = loop.train(
            variant.config,
            session.dataset,
            own,
            sweep=sweep,
            resources=session.resources._replace(population_size=one.population_size),
            callbacks=[_Ranges(session, name, path, kept, new), *callbacks],
        )
        whole = part if whole is None else trained.concatenate([whole, part])
    assert whole is not None
    return whole


def _next_range(session: Session, name: str, first: int, before: Trained | None) -> SeedRange:
    """The range that begins with the seed number `first`, one that nothing was kept of."""
    last, size = len(session.seeds[name]), session.resources.population_size
    if not session.variants[name].learning_rates:
        return SeedRange(last - first, size)
    if before is None or first < spec.NUM_TUNING_SEEDS:
        return SeedRange(min(last, spec.NUM_TUNING_SEEDS) - first, size)
    return SeedRange(last - first, size, float(cluster.from_first(chosen_rate(before.result))))


def tuning(whole: Result) -> dict[float, Result]:
    """Learning rate -> the runs by whose validation one is chosen: those of the seeds that have one at every rate."""
    by_seed: dict[int, set[float]] = {}
    for run in whole.runs:
        by_seed.setdefault(run.seed, set()).add(run.settings["learning_rate"])
    every = max(by_seed.values(), key=len)
    numbers: dict[float, list[int]] = {}
    for number, run in enumerate(whole.runs):
        if by_seed[run.seed] == every:
            numbers.setdefault(run.settings["learning_rate"], []).append(number)
    return {rate: result.select(whole, chosen) for rate, chosen in numbers.items()}


def chosen_rate(whole: Result) -> float:
    """The rate at which the seeds after the first were trained; where there are none, the best in their validation."""
    by_rate = tuning(whole)
    tuned = {run.seed for one in by_rate.values() for run in one.runs}
    later = [run.settings["learning_rate"] for run in whole.runs if run.seed not in tuned]
    if later:
        return later[0]
    means = {rate: np.nan_to_num(one.metrics["val_accuracy"]).mean() for rate, one in by_rate.items()}  # diverged: 0
    return max(means, key=lambda rate: means[rate])


def _kept_ranges(path: Path, num_seeds: int) -> list[SeedRange]:
    """The ranges in which training began, of `num_seeds` at most.

    Raises:
      UserError: the file is damaged.
    """
    if not os.path.lexists(path):
        return []
    content = sealed.read(path, workdirs.ADVICE)
    try:
        ranges = [SeedRange(int(seeds), int(size), *map(float, rate)) for seeds, size, *rate in content["parts"]]
        if sum(one.num_seeds for one in ranges) > num_seeds or not all(map(_is_possible, ranges)):
            raise ValueError(f"{content['parts']!r:.100} cannot be, of {num_seeds} seeds")
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"{path} is damaged ({error!s:.200}); {workdirs.ADVICE}") from error
    return ranges


def _is_possible(one: SeedRange) -> bool:
    rate = one.learning_rate
    return one.num_seeds > 0 and (one.population_size or 0) > 0 and (rate is None or 0 < rate < math.inf)
