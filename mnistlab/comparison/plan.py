"""What a run would do, without doing it: what is trained, about how long it takes, about how much it leaves on disk."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnistlab import files
from mnistlab.analysis import departures
from mnistlab.comparison import run, saved, spec, until, workdirs
from mnistlab.comparison.saved import RunFolder
from mnistlab.comparison.spec import Experiment, Options, Variant
from mnistlab.data import batches
from mnistlab.data.datasets import Dataset
from mnistlab.errors import UserError
from mnistlab.report import text
from mnistlab.training import checks, cost, sizing
from mnistlab.training.checkpoint import NUM_KEPT
from mnistlab.training.cost import Cost

SHARE_OF_PRODUCT = 1 / 3  # of a matrix product's rate (measured: 0.17 to 0.63 for the networks of the sources, 2 cores)
COMPILE_SECONDS = 8.0  # of a variant, beside its training: compiling, evaluating, its pictures
PAGE_BYTES = 1_000_000, 300_000  # of any page, and of a variant's part of it, figures included


class Planned(NamedTuple):
    """What a variant would be."""

    parameters: int
    examples: tuple[int, int, int]  # trained, validated and tested on
    num_epochs: int  # at most
    batch_size: int
    num_runs: int  # seeds, at every point of a grid or, once a learning rate is chosen, at this one
    seconds: float
    weight_bytes: int  # what stays after a prune
    resume_bytes: int


class Plan(NamedTuple):
    """What a run would be."""

    workdir: Path
    config: dict[str, Any]  # of the run, as config.json has it under "run", but for the data's fingerprint
    departures: tuple[str, ...]
    variants: dict[str, Planned]
    basis: str  # of the seconds, in words
    later: str  # what --until may add, in words; empty without it


def plan(experiment: Experiment, options: Options) -> Plan:
    """What `run.run` would do with the same arguments: data are loaded, nothing is trained or written in the workdir.

    Raises:
      UserError: as `run.run` would, before it trains.
    """
    options = spec.settled(experiment, options)
    variants = spec.resolve(experiment, options)
    seeds = run.first_seeds(options, variants, until.first_number(experiment.claims, variants, options))
    about = run.identity_of(experiment, options, variants, seeds)
    if options.resume and all(checks.is_shipped(variant) for variant in variants.values()):
        workdirs.check(options.workdir, about)
    dataset = run.load(experiment, variants, options.data_dir)
    run.check_data(options, variants, dataset)
    costs = {name: cost.cost_of(variant.config, dataset) for name, variant in variants.items()}
    earlier = next(_earlier_runs(experiment.name, options.workdir), None)
    known = {} if earlier is None else _seconds_of(earlier, variants, dataset)
    rate = 0.0 if set(known) == set(variants) else SHARE_OF_PRODUCT * cost.product_rate()
    planned = {}
    for name, variant in variants.items():
        example_seconds = known.get(name) or _flop(variant, costs[name], dataset) / rate
        planned[name] = _planned(variant, options, seeds[name], costs[name], dataset, example_seconds)
    departed = spec.departures_of(experiment, options, variants)
    later = f"this is the first round; until {options.until}, a variant gets up to {options.max_seeds} seeds"
    basis = _basis(earlier, known, rate)
    return Plan(options.workdir, about, departed, planned, basis, later if options.until else "")


def lines(planned: Plan) -> list[str]:
    """A plan for the terminal."""
    about = planned.config
    seeds = text.seed_span(about["seeds"])
    rows = [
        (
            name,
            one.parameters,
            "/".join(f"{count:,}" for count in one.examples),
            one.num_epochs,
            one.batch_size,
            one.num_runs,
            duration(one.seconds),
            text.format_bytes(one.weight_bytes + one.resume_bytes),
        )
        for name, one in planned.variants.items()
    ]
    header = ("variant", "parameters", "examples", "epochs", "batch", "runs", "about", "on disk")
    every = planned.variants.values()
    seconds = sum(one.seconds + COMPILE_SECONDS for one in every)
    resume = sum(one.resume_bytes for one in every)
    size = PAGE_BYTES[0] + len(rows) * PAGE_BYTES[1] + sum(one.weight_bytes for one in every) + resume
    return [
        f"{about['experiment']}, protocol {about['protocol']}, {seeds}, in {planned.workdir}; nothing is trained",
        *([departures.notice(planned.departures)] if planned.departures else []),
        text.text_table(header, rows),
        "examples: trained / validated / tested on; runs: seeds, at every point of a grid (where a rate is chosen, the "
        "first 6 seeds at every rate)",
        f"in all about {duration(seconds)} and {text.format_bytes(size)}; prune drops {text.format_bytes(resume)}",
        f"time: {planned.basis}",
        *([planned.later] if planned.later else []),
    ]


def duration(seconds: float) -> str:
    """A time of which the size is all that matters.

    >>> duration(12.4), duration(250), duration(9000)
    ('12 s', '4 min', '2.5 h')
    """
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _planned(
    variant: Variant, options: Options, seeds: Sequence[int], one: Cost, dataset: Dataset, example_seconds: float
) -> Planned:
    parts = batches.split_parts(variant, dataset, options.first_seed)
    num_tuning = spec.NUM_TUNING_SEEDS if variant.learning_rates else len(seeds)
    at_every_rate = sizing.make_runs(variant.config, seeds[:num_tuning], spec.sweep_of(variant, options))
    num_runs = len(at_every_rate) + len(sizing.make_runs(variant.config, seeds[num_tuning:], options.sweep))
    return Planned(
        one.parameters,
        (len(parts.train), len(parts.val), len(parts.test)),
        variant.num_epochs,
        variant.batch_size,
        num_runs,
        example_seconds * len(parts.train) * variant.num_epochs * num_runs,
        2 * num_runs * one.weight_bytes,
        min(NUM_KEPT, variant.num_epochs) * num_runs * one.carry_bytes,
    )


def _flop(variant: Variant, one: Cost, dataset: Dataset) -> float:
    """Operations of an epoch for each training example, those of validation among them (forward alone: a third)."""
    parts = batches.split_parts(variant, dataset, 0)
    per_example = one.step_flop / min(variant.batch_size, len(dataset.train.label))
    return per_example * (1 + len(parts.val) / len(parts.train) / 3)


def _earlier_runs(experiment: str, workdir: Path) -> Iterator[RunFolder]:
    """Runs of the same experiment on such a device that have ended: that in `workdir`, then those beside it."""
    device = workdirs.device_words()
    try:
        beside = files.entries(workdir.parent)
    except OSError:
        return
    ended = {path: when for path in beside if (when := _ended_at(path)) is not None}
    for path in sorted(ended, key=lambda path: (path == workdir, ended[path]), reverse=True):
        try:
            found = saved.read_run(path)
        except UserError:
            continue
        if found.summary["experiment"] == experiment and found.summary["device"] == device:
            yield found


def _ended_at(path: Path) -> float | None:
    """When the run in a folder left its summary.json; None where there is none, or where nobody may look."""
    try:
        return (path / "summary.json").stat().st_mtime
    except OSError:
        return None


def _seconds_of(earlier: RunFolder, variants: Mapping[str, Variant], dataset: Dataset) -> dict[str, float]:
    """Seconds an epoch took for each training example and run, of the variants with the same network and batch."""
    known = {}
    for name, variant in variants.items():
        result = earlier.variants.get(name)
        if result is None or result.config.dataset != dataset.name:
            continue
        same = [
            getattr(result.config, part) == getattr(variant, part) for part in ("model", "model_options", "batch_size")
        ]
        seconds = float(np.nanmedian(result.epoch_seconds))
        if all(same) and seconds > 0:
            known[name] = seconds / len(batches.split_parts(result.config, dataset, result.runs[0].seed).train)
    return known


def _basis(earlier: RunFolder | None, known: Mapping[str, float], rate: float) -> str:
    measured = f"the epochs of {earlier.path}" if earlier is not None and known else ""
    if not rate:
        return f"by {measured}"
    rough = (
        f"roughly, by the operations, at {rate / 1e9:,.0f} GFLOP/s, a third of what a matrix product reaches here: the "
        "networks of the sources took half to twice as long on a CPU"
    )
    return f"by {measured}, where that has the variant; else {rough}" if measured else rough
