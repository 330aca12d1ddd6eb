"""Runs a comparison: trains what is missing of it, variant by variant, and leaves its files."""

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mnistlab import config as configs
from mnistlab import sealed
from mnistlab.analysis import departures, history
from mnistlab.comparison import nets, outputs, saved, show, spec, workdirs
from mnistlab.comparison.spec import Experiment, Options, Outcome, Variant
from mnistlab.data import arrays, batches, datasets
from mnistlab.data.batches import Batch
from mnistlab.data.datasets import Dataset
from mnistlab.devices import cluster, mesh
from mnistlab.errors import UserError
from mnistlab.files import sha256, write_atomic
from mnistlab.report import canvas, text
from mnistlab.training import checks, loop, result, trained, wandb
from mnistlab.training.callbacks import Callback, Checkpoint, OnEpoch
from mnistlab.training.loop import Resources
from mnistlab.training.nans import NanCheck
from mnistlab.training.result import Result
from mnistlab.training.sizing import PopulationSize
from mnistlab.training.step import StepFunctions
from mnistlab.training.tensorboard import TensorBoard
from mnistlab.training.trained import Trained
from mnistlab.training.wandb import WeightsAndBiases

Log = Callable[[str], None]
"""Where lines for the user go."""


def silent(line: str) -> None:
    """Says nothing."""


class Hooks(NamedTuple):
    """Where progress goes, and what else goes on beside training."""

    log: Log = silent
    callbacks: Callable[[str, Variant], Sequence[Callback]] = lambda name, variant: ()


NO_HOOKS = Hooks()


@dataclasses.dataclass(frozen=True)
class Session:
    """All that does not change while a comparison runs."""

    experiment: Experiment
    options: Options
    variants: Mapping[str, Variant]  # resolved
    seeds: tuple[int, ...]
    resources: Resources
    dataset: Dataset
    hooks: Hooks

    def checkpoints(self, name: str) -> Path:
        """The folder of a variant's weights."""
        return self.options.workdir / "checkpoints" / name


def run(
    experiment: Experiment,
    options: Options,
    hooks: Hooks = NO_HOOKS,
) -> dict[str, Any]:
    """Runs an experiment, or what is missing of it, and returns what summary.json holds.

    Raises:
      UserError: an impossible option (before any data is loaded), a workdir that holds another run, damaged files.
    """
    options = spec.settled(experiment, options)
    variants = spec.resolve(experiment, options)
    if options.wandb:
        wandb.load()  # else ended here, before any data is loaded
    seeds = configs.check_seeds(options.first_seed, options.num_seeds)
    layout = mesh.make_layout(options.num_devices, options.strategy)
    resources = Resources(layout, options.population_size, options.stream_megabytes)

    def begin() -> Session:
        data = cluster.first_then_others(lambda: load(experiment, variants, options.data_dir))
        return Session(experiment, options, variants, seeds, resources, data, hooks)

    if not cluster.is_first():
        _follow(begin())
        return {}
    with workdirs.locked(options.workdir):
        identity = identity_of(experiment, options, variants, seeds)
        if options.resume and all(configs.is_named(variant) for variant in variants.values()):
            workdirs.check(options.workdir, identity)  # refused before data is loaded
        session = begin()
        arrays.check(session.dataset)
        identity["data"] = session.dataset.fingerprint
        for name, variant in variants.items():
            if not configs.is_named(variant):
                identity["variants"][name]["program"] = _program_digest(variant, session.dataset)
        for variant in variants.values():  # bad limits end here, before anything is written or replaced
            batches.split_parts(variant, session.dataset, seeds[0])
        if options.resume and workdirs.is_pruned(options.workdir):
            return _read_pruned(options.workdir, identity, hooks.log)
        workdirs.prepare(options.workdir, identity, options.resume)
        workdirs.write_config(options.workdir, identity, options.command, session.dataset)
        departed = spec.departures_of(experiment, options, variants)
        if departed:
            hooks.log(departures.notice(departed))
        for table in outputs.layer_tables(variants, session.dataset).values():
            hooks.log(f"\n{table.caption}\n{text.text_table(table.header, table.rows)}")
        return outputs.leave(session, _train(session)._replace(departures=departed))


def _read_pruned(workdir: Path, identity: Mapping[str, Any], log: Log) -> dict[str, Any]:
    """What a run that `prune` has been at left, as the run would have ended.

    Raises:
      UserError: more is asked for than it holds, which it cannot go on to.
    """
    if workdirs.check(workdir, identity):
        raise UserError(
            f"{workdir} was pruned, so it cannot go on; use another --workdir to train all of it anew (as it is, it is "
            "still shown, compared and predicted from)"
        )
    for line in show.lines(workdir):
        log(line)
    return saved.read_summary(workdir)


def identity_of(
    experiment: Experiment, options: Options, variants: Mapping[str, Variant], seeds: Sequence[int]
) -> dict[str, Any]:
    """What decides the numbers of a run, as JSON can hold it: config.json's "run" but for what only the data tell."""
    return {
        "experiment": experiment.name,
        "protocol": options.protocol,
        "seeds": list(seeds),
        "sweep": {name: list(values) for name, values in options.sweep.items()},
        "matmul_precision": workdirs.matmul_precision(),
        "variants": {
            name: {"config": configs.to_dict(variant.config), "learning_rates": variant.learning_rates}
            for name, variant in variants.items()
        },
    }


def _program_digest(variant: Variant, dataset: Dataset) -> str:
    """What is computed by a network, loss and optimiser that no names say: a digest of the operations and constants.

    The same in every process with the same JAX; a change in any of them, or of the images' shape, makes another.

    Raises:
      UserError: they do not fit together.
    """
    steps = loop.step_functions_of(variant.config, dataset)
    image_shape = dataset.train.image.shape[1:]
    image = jax.ShapeDtypeStruct((2, *image_shape), dataset.train.image.dtype)
    shapes: Any = (image, jax.ShapeDtypeStruct((2,), np.int32), jax.ShapeDtypeStruct((2,), np.float32))

    def all_of_it(seed: jax.Array, batch: Batch) -> Any:
        state = steps.init(seed, image_shape, {})
        return steps.train_step(state, batch), steps.eval_step(state, batch, jax.numpy.int32(0))

    seed = jax.ShapeDtypeStruct((), np.uint32)
    state = jax.eval_shape(lambda seed: steps.init(seed, image_shape, {}), seed)
    checks.check_network(steps, state, dataset, {"loss": variant.loss, **variant.metrics})
    traced = jax.make_jaxpr(all_of_it)(seed, Batch(*shapes))
    text = re.sub(r"0x[0-9a-f]+", "", str(traced))  # where a function lies in memory
    constants = "".join(sha256(np.asarray(constant).tobytes()) for constant in traced.consts)
    return sha256((text + constants).encode())


def load(experiment: Experiment, variants: Mapping[str, Variant], data_dir: Path | None) -> Dataset:
    """The data that all `variants` are trained on.

    Raises:
      UserError: they name several.
    """
    if experiment.data is not None:
        return experiment.data() if callable(experiment.data) else experiment.data
    wanted = {(variant.dataset, variant.order) for variant in variants.values()}
    if len(wanted) != 1:
        raise UserError("the variants of a comparison must share a dataset and its order")
    name, order = wanted.pop()
    return datasets.load(name, data_dir=data_dir, order=order)


def _train(session: Session) -> Outcome:
    outcome = Outcome({}, {}, {}, session.dataset, {}, {}, session.options.protocol)
    for name, variant in session.variants.items():
        trained_variant = _train_variant(session, name)
        outcome.seconds[name] = trained_variant.result.seconds
        if variant.learning_rates:
            trained_variant, outcome.searched[name] = _choose_rate(session, name, trained_variant)
        predict = jax.jit(_steps(session, variant).predict)
        for label, numbers in history.by_settings(name, trained_variant.result.runs).items():
            part = trained.select(trained_variant, numbers)
            outcome.results[label] = part.result
            outcome.trained[label] = part
            outcome.predictions[label] = nets.predicted_classes(predict, part, session.dataset)
        if not (session.options.workdir / "summary.json").exists():  # else it is of all variants already
            write_atomic(session.options.workdir / "history.csv", history.to_csv(outcome.results))
    return outcome


def _follow(session: Session) -> None:
    """What a process that is not the first does: its part of the computing."""
    for name, variant in session.variants.items():
        _train_ranges(session, name, session.hooks.callbacks(name, variant))


def _train_variant(session: Session, name: str) -> Trained:
    """Trains a variant and leaves its weights; all that follows is of the weights as they were saved and read again."""
    variant, options, folder = session.variants[name], session.options, session.checkpoints(name)
    events = TensorBoard(options.workdir / "tb" / name) if options.tensorboard else None
    config = configs.to_dict(variant.config)
    board = WeightsAndBiases(options.workdir, session.experiment.name, name, config) if options.wandb else None
    callbacks = [
        OnEpoch(lambda epoch: workdirs.check_there(options.workdir)),
        *([NanCheck(variant, session.dataset, _steps(session, variant))] if options.debug_nans else []),
        Checkpoint(folder / "training", functools.partial(workdirs.belonging, options.workdir, name)),
        *session.hooks.callbacks(name, variant),
        *([events] if events else []),
        *([board] if board else []),
    ]
    whole = _train_ranges(session, name, callbacks)
    nets.save_weights(folder, whole)
    if board is not None:
        board.close(whole.result)
    pixels = session.dataset.train.image
    if not configs.is_named(variant.config) or pixels.dtype != np.uint8:
        image = jax.ShapeDtypeStruct(pixels.shape[1:], pixels.dtype)
        nets.save_function(folder, _steps(session, variant).predict, whole.state, image)
    whole = whole._replace(state=nets.restore_weights(folder, whole))
    if events is not None:
        predict = jax.jit(_steps(session, variant).predict)
        predicted = nets.predicted_classes(predict, whole, session.dataset)
        figure = outputs.predictions_figure(whole.result, predicted, session.dataset)
        events.image("predictions", canvas.pixels(figure), variant.num_epochs)
        events.close()
    return whole


class SeedRange(NamedTuple):
    """Seeds that began together; a run that was given more seeds later has several ranges."""

    num_seeds: int
    population_size: int | None  # None: not chosen yet


class _Ranges(Callback):
    """Says how many runs share a program, and notes it for whoever resumes: others would not find what was kept."""

    def __init__(self, session: Session, name: str, path: Path, kept: Sequence[SeedRange], num_missing: int):
        self.session, self.name, self.path, self.kept, self.num_missing = session, name, path, kept, num_missing

    def on_size(self, size: PopulationSize) -> None:
        if self.num_missing and cluster.is_first():
            ranges = [*self.kept, SeedRange(self.num_missing, size.size)]
            sealed.write(self.path, {"parts": ranges})
        if size.num_runs > 1:
            self.session.hooks.log(f"{self.name}: {size.text()}")


def _train_ranges(session: Session, name: str, callbacks: Sequence[Callback]) -> Trained:
    """Trains the seeds in the ranges in which they began."""
    variant, seeds = session.variants[name], session.seeds
    path = session.checkpoints(name) / "training" / "parts.json"
    kept = cluster.from_first(_kept_ranges(path, len(seeds)) if cluster.is_first() else None)
    ranges = [SeedRange(*map(int, numbers)) for numbers in kept]
    num_missing = len(seeds) - sum(one.num_seeds for one in ranges)
    plan = [*ranges, *([SeedRange(num_missing, session.resources.population_size)] if num_missing else [])]
    parts, first = [], 0
    for number, one in enumerate(plan):
        notes = _Ranges(session, name, path, ranges, num_missing if number == len(ranges) else 0)
        parts.append(
            loop.train(
                variant.config,
                session.dataset,
                seeds[first : first + one.num_seeds],
                sweep=spec.sweep_of(variant, session.options),
                resources=session.resources._replace(population_size=one.population_size),
                callbacks=[notes, *callbacks],
            )
        )
        first += one.num_seeds
    return trained.concatenate(parts)


def _kept_ranges(path: Path, num_seeds: int) -> list[SeedRange]:
    """The ranges in which training began, of `num_seeds` at most.

    Raises:
      UserError: the file is damaged.
    """
    if not os.path.lexists(path):
        return []
    content = sealed.read(path, workdirs.ADVICE)
    try:
        kept = content["parts"] if isinstance(content, dict) else content  # a list before there were digests
        numbers = [(int(seeds), int(size)) for seeds, size in kept]
        if min(min(pair) for pair in numbers) < 1 or sum(seeds for seeds, _ in numbers) > num_seeds:
            raise ValueError(f"{numbers} cannot be, of {num_seeds} seeds")
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise UserError(f"{path} is damaged ({error!s:.200}); {workdirs.ADVICE}") from error
    return [SeedRange(*pair) for pair in numbers]


def _steps(session: Session, variant: Variant) -> StepFunctions:
    return loop.step_functions_of(variant.config, session.dataset)


def _choose_rate(session: Session, name: str, whole: Trained) -> tuple[Trained, dict[float, Result]]:
    """The runs at the learning rate that validation chose, and the runs at every rate."""
    rates = [run.settings["learning_rate"] for run in whole.result.runs]
    numbers = {rate: [n for n, other in enumerate(rates) if other == rate] for rate in dict.fromkeys(rates)}
    by_rate = {rate: result.select(whole.result, chosen) for rate, chosen in numbers.items()}
    rate = best_learning_rate(by_rate)
    tried = session.variants[name].learning_rates
    session.hooks.log(f"{name}: learning rate {rate:g} chosen by mean validation accuracy from {tried}")
    return trained.select(whole, numbers[rate]), by_rate


def best_learning_rate(by_rate: Mapping[float, Result]) -> float:
    """The rate with the highest mean validation accuracy of the final weights; a diverged run counts as 0."""
    means = {rate: np.nan_to_num(one.metrics["val_accuracy"]).mean() for rate, one in by_rate.items()}
    return max(means, key=lambda rate: means[rate])
