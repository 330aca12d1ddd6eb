"""The training loop: many seeds in one compiled program, epoch by epoch."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from mnistlab import config as configs
from mnistlab.config import TrainConfig
from mnistlab.data import arrays, batches
from mnistlab.data.batches import Order
from mnistlab.data.datasets import Dataset
from mnistlab.devices import cluster
from mnistlab.devices.mesh import SEEDS, Layout
from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.training import averaging, checks, losses, optim, sizing, step, trained
from mnistlab.training.callbacks import Callback, Epoch, Snapshot
from mnistlab.training.epoch import Carry
from mnistlab.training.executables import Executables
from mnistlab.training.feed import Feed
from mnistlab.training.population import Population, Setup
from mnistlab.training.result import Record, Result, Run
from mnistlab.training.sizing import PopulationSize
from mnistlab.training.step import Predict, StepFunctions
from mnistlab.training.trained import Trained


class Resources(NamedTuple):
    """What training may use; none of it changes a result beyond rounding."""

    layout: Layout | None = None  # the devices, with `mesh.make_layout`; None: one
    population_size: int | None = None  # runs that share a program; None: as many as fit, at most 8 on a CPU
    stream_megabytes: int | None = None  # of the dataset on the devices at a time; None: all of it where it fits


def train(
    config: TrainConfig,
    dataset: Dataset,
    seeds: Sequence[int] = (0,),
    *,
    sweep: Mapping[str, Sequence[float]] | None = None,
    resources: Resources = Resources(),  # noqa: B008
    callbacks: Sequence[Callback] = (),
) -> Trained:
    """Trains every seed (with `sweep`: every seed at every point of the grid) and evaluates the final weights.

    Args:
      sweep: values of config.SWEEPABLE settings; the grid is their product.
      callbacks: called in this order after each epoch.

    Raises:
      UserError: an impossible config, sweep, seed or resource; a model that cannot be spread as the layout asks.
    """
    arrays.check(dataset)
    # What the result is of.
    config = dataclasses.replace(config, dataset=dataset.name, split=batches.split_of(config, dataset))
    runs = _checked_runs(config, dataset, seeds, sweep or {}, resources)
    setup = Setup(
        config,
        dataset,
        step_functions_of(config, dataset),
        Feed(dataset, resources.stream_megabytes),
        resources.layout,
        Executables(),
    )
    size = _population_size(setup, runs, resources.population_size)
    for callback in callbacks:
        callback.on_size(size)
    starts = range(0, len(runs), size.size)
    return trained.concatenate([_train(Population(setup, runs[n : n + size.size]), callbacks) for n in starts])


def _train(population: Population, callbacks: Sequence[Callback]) -> Trained:
    """Trains one population from its last snapshot to the end."""
    executables = population.setup.executables
    snapshot = _beginning(population, callbacks)
    carry, active = population.put(snapshot.carry), np.asarray(snapshot.carry.active)
    try:
        for callback in callbacks:
            callback.on_start(population.runs, snapshot)
        for number in range(snapshot.num_epochs, population.setup.config.num_epochs):
            if not active.any():
                break
            started, compiled = time.perf_counter(), executables.compile_seconds
            carry, record = population.epoch(carry, number)
            seen = {name: np.asarray(value) for name, value in record._asdict().items()}
            seconds = time.perf_counter() - started - (executables.compile_seconds - compiled)
            snapshot = _after(snapshot, population.grid.gather(carry), active, seen, seconds)
            active = np.asarray(snapshot.carry.active)
            for callback in callbacks:
                callback.on_epoch(Epoch(number + 1, population.runs, seen, seconds, snapshot))
        return _ended(population, carry, snapshot)
    finally:
        for callback in callbacks:
            callback.on_end()


def _beginning(population: Population, callbacks: Sequence[Callback]) -> Snapshot:
    """The snapshot from which the population starts or resumes."""
    shape = len(population.runs), population.setup.config.num_epochs
    history = {name: np.full(shape, np.nan, np.float32) for name in Record._fields}
    fresh = Snapshot(0, population.init(), history, np.full(shape, np.nan))
    kept = None
    if cluster.is_first():
        for callback in callbacks:
            kept = callback.restore(population.runs, kept or fresh) or kept
    kept = cluster.from_first(kept)
    return fresh if kept is None else Snapshot(int(kept.num_epochs), jax.device_put(kept.carry), *kept[2:])


def _after(
    snapshot: Snapshot, carry: Carry, active: np.ndarray, record: Mapping[str, np.ndarray], seconds: float
) -> Snapshot:
    """The snapshot one epoch later; runs that had stopped before it have no entry for it."""
    number = snapshot.num_epochs
    history = {name: values.copy() for name, values in snapshot.history.items()}
    for name, value in record.items():
        history[name][active, number] = value[active]
    epoch_seconds = snapshot.epoch_seconds.copy()
    epoch_seconds[active, number] = seconds / active.sum()
    return Snapshot(number + 1, carry, history, epoch_seconds)


def _ended(population: Population, carry: Carry, snapshot: Snapshot) -> Trained:
    """The final weights and their metrics."""
    setup, grid = population.setup, population.grid
    best = carry.state._replace(params=carry.best.params, model_state=carry.best.model_state)
    final = averaging.evaluated(carry.state) if setup.config.patience_epochs is None else best
    started, compiled = time.perf_counter(), setup.executables.compile_seconds
    total = population.evaluate_parts(final)
    evaluate_seconds = time.perf_counter() - started - (setup.executables.compile_seconds - compiled)
    weights = [jax.device_get(grid.gather(state._replace(opt_state=()))) for state in (final, best)]
    num_epochs = np.isfinite(snapshot.epoch_seconds).sum(axis=1)
    best_epoch = np.asarray(grid.gather(carry.best.epoch), np.float64)
    metrics = trained.final_metrics(total, snapshot.history, num_epochs, best_epoch, trained.finite_runs(weights[0]))
    seconds = {
        "compile_seconds": setup.executables.new_compile_seconds(),
        "evaluate_seconds": evaluate_seconds,
        "train_seconds": float(np.nansum(snapshot.epoch_seconds)),
    }
    result = Result(
        setup.config,
        population.runs,
        snapshot.history,
        metrics,
        seconds,
        snapshot.epoch_seconds,
        setup.dataset.fingerprint,
    )
    return Trained(result, *weights)


def _checked_runs(
    config: TrainConfig,
    dataset: Dataset,
    seeds: Sequence[int],
    sweep: Mapping[str, Sequence[float]],
    resources: Resources,
) -> tuple[Run, ...]:
    image_shape = dataset.train.image.shape[1:]
    checks.check(config, image_shape)
    sweep = {name: tuple(values) for name, values in sweep.items()}
    checks.check_sweep(sweep, config, image_shape)
    if not len(seeds):
        raise UserError("no seeds; expected at least one")
    for seed in seeds:
        configs.check_seeds(int(seed), 1)
    for name in ("population_size", "stream_megabytes"):
        value = getattr(resources, name)
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; expected a whole number of at least 1")
    if config.patience_epochs is not None and not len(batches.split_parts(config, dataset, seeds[0]).val):
        raise UserError("patience_epochs is set, but there are no validation examples; give some, or leave it out")
    return sizing.make_runs(config, seeds, sweep)


def _population_size(setup: Setup, runs: Sequence[Run], asked: int | None) -> PopulationSize:
    """As asked, or as many runs as fit; measured only where several would share what memory there is."""
    if asked:
        return PopulationSize(len(runs), min(asked, len(runs)))
    on_cores = setup.layout is not None and setup.layout.cores
    num_devices = len(setup.layout.devices) if setup.layout is not None and on_cores else 1
    most = max(sizing.MAX_CPU_POPULATION, num_devices) if jax.default_backend() == "cpu" else None
    size = sizing.fitting_size(len(runs), most=most, num_devices=num_devices)
    if size == 1 or (setup.layout is not None and not on_cores):
        return PopulationSize(len(runs), size)
    return Population(setup, runs[:size]).size(len(runs))


def step_functions_of(config: TrainConfig, dataset: Dataset) -> StepFunctions:
    """The step functions that `config` names, for a dataset of this size."""
    if config.program is not None:
        return config.program(config)
    is_float = bool(np.issubdtype(dataset.train.image.dtype, np.floating))
    parts = batches.split_parts(config, dataset, seed=0)
    steps_per_epoch = -(-len(parts.train) // config.batch_size)
    steps = step.make_step_functions(
        make_model(config.model, config.model_options),
        optim.make_optimizer(config.optimizer, config.num_epochs, steps_per_epoch),
        losses.LOSSES[config.loss] if isinstance(config.loss, str) else config.loss,
        config,
        is_float=is_float,
    )
    num_averaged = config.average_epochs * steps_per_epoch
    return averaging.averaged(steps, num_averaged) if num_averaged else steps


def predict_of(config: TrainConfig) -> Predict:
    """The forward pass of the model that `config` names; it needs no dataset."""
    if config.program is not None:
        return config.program(config).predict
    return step.make_predict(make_model(config.model, config.model_options), pixel_scale=config.pixel_scale)


def make_model(model: str | nn.Module, options: Sequence[tuple[str, Any]] = ()) -> nn.Module:
    """A named network with its options, or the module that was given."""
    return models.make_model(model, **dict(options)) if isinstance(model, str) else model


def prepare(
    config: TrainConfig, dataset: Dataset, seeds: Sequence[int] = (0,), *, layout: Layout | None = None
) -> tuple[Callable[[Carry, np.ndarray], tuple[Carry, Any]], Carry]:
    """`train`'s own program of one population for whoever steps it by hand, and the carry to begin with.

    The program is (carry, example int32 [steps, B]) -> (carry, sums float32 [R, steps]): all runs train on these
    examples of the pool, and nothing is validated. The carry given is donated.
    """
    arrays.check(dataset)
    runs = _checked_runs(config, dataset, seeds, {}, Resources(layout))
    setup = Setup(config, dataset, step_functions_of(config, dataset), Feed(dataset), layout, Executables())
    population = Population(setup, runs)

    def epoch(carry: Carry, example: np.ndarray) -> tuple[Carry, Any]:
        given = Order(np.broadcast_to(example, (len(runs), *example.shape)), np.ones(example.shape, np.float32))
        state, sums = population.fit(carry.state, carry.active, setup.feed.place(given, population.grid))
        return carry._replace(state=state), sums

    return epoch, population.grid.put(population.init(), P(SEEDS))
