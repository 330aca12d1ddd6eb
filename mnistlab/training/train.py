"""Training: the one place for jit, vmap and scan. One compiled program an epoch, many seeds in it."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from mnistlab import config
from mnistlab.config import TrainConfig
from mnistlab.data import arrays, batches
from mnistlab.data.batches import Batch, Order, Parts, Pool
from mnistlab.data.datasets import Dataset
from mnistlab.devices import parallel
from mnistlab.devices.parallel import BATCH, SEEDS, Grid, Layout
from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.training import crowds, losses, optim, step
from mnistlab.training.crowds import Run, Sharing
from mnistlab.training.finite import finite_runs
from mnistlab.training.losses import Sums
from mnistlab.training.step import EvalStep, Program, TrainState, TrainStep

ONE_DEVICE = Grid()
EVAL_BATCH_SIZE = 250  # divides every evaluation set here, so that nothing is padded
STREAM_MEGABYTES = 256  # where a dataset does not fit and nobody says how much of it may be there at a time


class Record(NamedTuple):
    """What one epoch showed."""

    train_loss: jax.Array  # float32 []: running mean over the epoch's own steps, as Keras prints it
    train_accuracy: jax.Array  # float32 []
    val_loss: jax.Array  # float32 []: after the epoch, over every validation example
    val_accuracy: jax.Array  # float32 []


class Best(NamedTuple):
    """The weights of the best validation epoch so far."""

    params: Any
    model_state: Any
    epoch: jax.Array  # int32 []: counted from 1; 0 before the first
    value: jax.Array  # float32 []: larger is better


class Carry(NamedTuple):
    """What one run (one seed, one set of settings) carries from epoch to epoch."""

    state: TrainState
    best: Best
    active: jax.Array  # bool []: false once early stopping has ended the run; nothing changes after
    num_stale: jax.Array  # int32 []: epochs since the best


class Result(NamedTuple):
    """What a crowd of R runs leaves; every array is a host array with the runs on its first axis."""

    config: TrainConfig  # its dataset is the name of the one that was given
    runs: tuple[Run, ...]
    state: TrainState  # the final weights: of the last epoch, or with early stopping the restored best; opt_state is ()
    best: TrainState  # the weights of the best validation epoch
    history: dict[str, np.ndarray]  # Record's fields, float32 [R, E]; NaN after a run has stopped
    metrics: dict[str, np.ndarray]  # float64 [R]; see `final_metrics`
    seconds: dict[str, float]  # compile_seconds, train_seconds, evaluate_seconds: wall time of the whole crowd
    epoch_seconds: np.ndarray  # float64 [R, E]: wall seconds of the epoch divided by the runs trained in it
    fingerprint: str = ""  # of the dataset that was given


class Epoch(NamedTuple):
    """What a progress bar or a TensorBoard writer sees after an epoch."""

    number: int  # counted from 1
    runs: tuple[Run, ...]
    record: dict[str, np.ndarray]  # Record's fields, float32 [runs]
    carry: Carry
    seconds: float


class Keeper(Protocol):
    """Where a crowd's carry survives the process; checkpoint.Keeper is one."""

    def save(self, epoch: int, tree: Any) -> None:
        """Keeps `tree` as what training carries after `epoch`."""

    def restore(self, template: Any) -> tuple[int, Any] | None:
        """The last kept (epoch, tree), in the structure of `template`; None when there is none."""


def make_epoch(
    train_step: TrainStep, eval_step: EvalStep, *, patience_epochs: int | None = None
) -> Callable[[Carry, Pool, Order, Order], tuple[Carry, Record]]:
    """(carry, pool, training order, validation order) -> (carry, record) of one run; the orders are [steps, B].

    With `patience_epochs` the run stops after so many epochs in a row without a new lowest validation loss, and the
    best is the lowest loss; without it the best is the highest validation accuracy.
    """

    def epoch(carry: Carry, pool: Pool, train_order: Order, val_order: Order) -> tuple[Carry, Record]:
        state, train_sums = fit(train_step, carry.state, pool, train_order)
        return finish(carry, state, train_sums, evaluate(eval_step, state, pool, val_order), patience_epochs)

    return epoch


def fit(train_step: TrainStep, state: TrainState, pool: Pool | None, order: Order | Batch) -> tuple[TrainState, Sums]:
    """(state, sums float32 [steps]) after every batch of `order` [steps, B], of a pool or streamed."""

    def body(state: TrainState, step_order: Any) -> tuple[TrainState, Sums]:
        return train_step(state, batches.take(pool, step_order))

    return jax.lax.scan(body, state, order)


def evaluate(
    eval_step: EvalStep, state: TrainState, pool: Pool | None, order: Order | Batch, first: jax.Array | int = 0
) -> Sums:
    """The sums of every batch of `order` [steps, B]: float32 [steps]; `first` is the number of its first batch."""

    def body(number: jax.Array, step_order: Any) -> tuple[jax.Array, Sums]:
        return number + 1, eval_step(state, batches.take(pool, step_order), number)

    return jax.lax.scan(body, jnp.asarray(first, jnp.int32), order)[1]


def finish(
    carry: Carry, state: TrainState, train_sums: Sums, val_sums: Sums, patience_epochs: int | None
) -> tuple[Carry, Record]:
    """(carry, record) after an epoch that led to `state`, from the sums float32 [steps] of its batches."""
    train_loss, train_accuracy = losses.means(_total(train_sums))
    val_loss, val_accuracy = losses.means(_total(val_sums))
    record = Record(train_loss, train_accuracy, val_loss, val_accuracy)
    return _advance(carry, state, record, patience_epochs)


def run(
    train_config: TrainConfig,
    dataset: Dataset,
    seeds: Sequence[int] = (0,),
    *,
    model: nn.Module | None = None,
    program: Program | None = None,
    sweep: Mapping[str, Sequence[float]] | None = None,
    crowd_size: int | None = None,
    layout: Layout | None = None,
    stream_megabytes: int | None = None,
    keeper: Callable[[str], Keeper] | None = None,
    on_sharing: Callable[[Sharing], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Result:
    """Trains every seed (with `sweep`: every seed at every point of the grid) and evaluates the final weights.

    Args:
      model: any Linen module, image float32 [N, H, W, C] -> logits [N, K], in place of `train_config.model`. Its
        __call__ may take train= and weight=.
      program: in place of the model, the loss, the optimiser and the augmentation that `train_config` names.
      sweep: values of config.SWEEPABLE settings; the grid is their product.
      crowd_size: how many runs share a program; None takes as many as fit into memory, at most 8 on a CPU.
      layout: the devices to train on, with `parallel.make_layout`; None takes one.
      stream_megabytes: the dataset stays where it is, and at most so much of it is on the devices at a time, read while
        they compute; None puts all of it there where it fits, and else streams. The results are the same.
      keeper: name of a crowd -> where it is kept; a crowd that was kept is continued, with the same bits. Of several
        processes the first alone gives one.
      on_sharing: called once, before the first epoch, with how many runs share a program.
      on_epoch: called after each epoch of each crowd.

    Raises:
      UserError: an impossible config, sweep or seed; arrays that are no images with labels, or labels that the model
        has no logit for; a model or program that cannot be spread as `layout` asks.
    """
    config.check(train_config)
    arrays.check(dataset)
    train_config = dataclasses.replace(train_config, dataset=dataset.name)  # what the result is of
    sweep = {name: tuple(values) for name, values in (sweep or {}).items()}
    config.check_sweep(sweep, train_config)
    if not len(seeds):
        raise UserError("no seeds; expected at least one")
    for seed in seeds:
        config.check_seeds(int(seed), 1)
    if crowd_size is not None and crowd_size < 1:
        raise UserError(f"crowd_size is {crowd_size}; expected a whole number of at least 1")
    if stream_megabytes is not None and stream_megabytes < 1:
        raise UserError(f"stream_megabytes is {stream_megabytes}; expected a whole number of at least 1")
    runs = crowds.make_runs(train_config, seeds, sweep)

    def make_program(axis_name: str | None) -> Program:
        if program is None or axis_name is None:
            return program or program_of(train_config, dataset, model, axis_name)
        raise UserError("this program splits no batch by itself; use --parallel=jit, or as many seeds as devices")

    trainer = _Trainer(train_config, dataset, make_program, layout, stream_megabytes)
    sharing = Sharing(len(runs), min(crowd_size, len(runs))) if crowd_size else trainer.sharing(runs)
    if on_sharing is not None:
        on_sharing(sharing)
    size = sharing.crowd_size
    results = []
    for start in range(0, len(runs), size):
        crowd = runs[start : start + size]
        crowd_keeper = keeper(crowds.crowd_name(crowd)) if keeper else None
        results.append(trainer.train(crowd, crowd_keeper, on_epoch))
    return concatenate(results)._replace(fingerprint=dataset.fingerprint)


def prepare(
    train_config: TrainConfig, dataset: Dataset, seeds: Sequence[int] = (0,), *, layout: Layout | None = None
) -> tuple[Callable[[Carry, np.ndarray], tuple[Carry, Record]], Carry]:
    """`run`'s epoch program of one crowd for whoever steps it by hand, and the carry to begin with.

    The program is (carry, example int32 [steps, B]) -> (carry, record): all runs train on these examples of the pool,
    and nothing is validated. The carry given is donated.
    """
    config.check(train_config)
    arrays.check(dataset)
    runs = crowds.make_runs(train_config, seeds, {})
    trainer = _Trainer(
        train_config, dataset, lambda axis_name: program_of(train_config, dataset, axis_name=axis_name), layout
    )
    grid = parallel.make_grid(layout, len(runs))
    nothing = Order(np.zeros((0, EVAL_BATCH_SIZE), np.int32), np.zeros((0, EVAL_BATCH_SIZE), np.float32))

    def epoch(carry: Carry, example: np.ndarray) -> tuple[Carry, Record]:
        given = Order(np.broadcast_to(example, (len(runs), *example.shape)), np.ones(example.shape, np.float32))
        order = trainer.placed(given, grid)
        return trainer.epoch_program(grid, carry, order, nothing)(carry, trainer.pool_on(grid), order, nothing)

    return epoch, grid.put(trainer.init(runs, grid), P(SEEDS))


def program_of(
    train_config: TrainConfig, dataset: Dataset, model: nn.Module | None = None, axis_name: str | None = None
) -> Program:
    """The program that `train_config` names, for a dataset of this size; `model` stands in for the named one.

    With `axis_name` its steps see one device's part of the batch (step.make_train_step).

    Raises:
      UserError: `axis_name` is asked of a `model` that has no such field: its dropout or batch statistics may need it.
    """
    model = model or models.make_model(train_config.model, **dict(train_config.model_options))
    if axis_name is not None:
        if not hasattr(model, "axis_name"):
            raise UserError(
                f"{type(model).__name__} has no field axis_name, so no step of it can see a part of a batch; "
                "use --parallel=jit"
            )
        model = model.clone(axis_name=axis_name)
    parts = batches.split_parts(train_config, len(dataset.train.label), len(dataset.test.label), seed=0)
    steps_per_epoch = -(-len(parts.train) // train_config.batch_size)
    return step.make_program(
        model,
        optim.make_optimizer(train_config.optim, train_config.num_epochs, steps_per_epoch),
        losses.LOSSES[train_config.loss],
        pixel_scale=train_config.pixel_scale,
        reduction=train_config.loss_reduction,
        augmentation=train_config.augment,
        axis_name=axis_name,
    )


def num_classes(program: Program, crowd: TrainState, image_shape: tuple[int, ...]) -> int:
    """K of the logits [N, K] that a program gives for images of this shape; nothing is computed.

    Raises:
      UserError: it gives something else.
    """
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), crowd)
    logits = jax.eval_shape(program.predict, state, jax.ShapeDtypeStruct((2, *image_shape), np.uint8))
    if len(logits.shape) != 2 or logits.shape[0] != 2:
        raise UserError(f"the model gives {list(logits.shape)} for 2 images; expected logits [N, K]")
    return logits.shape[1]


def final_metrics(
    total: Mapping[str, Sums],
    history: Mapping[str, np.ndarray],
    num_epochs: np.ndarray,
    best_epoch: np.ndarray,
    finite: np.ndarray,
) -> dict[str, np.ndarray]:
    """Metrics of R runs from the sums over each part with the final weights, and from the history after int [R] epochs.

    train_loss and train_accuracy are the running means of the last epoch that was trained, as the sources report them;
    final_train_loss and final_train_accuracy are measured on the final weights, like val_* and test_*;
    overfitting_gap = final_train_accuracy - val_accuracy. All are NaN of a run that diverged: its final weights are not
    `finite` bool [R], a loss or logit over a part is not, or no epoch's validation was (best_epoch float64 [R] is 0).
    """
    metrics: dict[str, np.ndarray] = {}
    for part, prefix in (("train", "final_train"), ("val", "val"), ("test", "test")):
        loss, accuracy = losses.means(total[part])
        metrics |= {f"{prefix}_loss": np.asarray(loss), f"{prefix}_accuracy": np.asarray(accuracy)}
    for name in ("train_loss", "train_accuracy"):
        metrics[name] = history[name][np.arange(len(num_epochs)), num_epochs - 1].astype(np.float64)
    metrics["overfitting_gap"] = metrics["final_train_accuracy"] - metrics["val_accuracy"]
    metrics |= {"num_epochs": num_epochs.astype(np.float64), "best_epoch": best_epoch}
    measured = [metrics[f"{prefix}_loss"] for prefix in ("final_train", "val", "test")]
    finite = np.logical_and.reduce([finite, best_epoch > 0, *map(np.isfinite, measured)])
    return {name: np.where(finite, values, np.nan) for name, values in metrics.items()}


def select(result: Result, numbers: Sequence[int]) -> Result:
    """The runs of a result at `numbers`."""
    index = np.asarray(numbers)

    def pick(leaf: Any) -> Any:
        return leaf[index]

    return result._replace(
        runs=tuple(result.runs[number] for number in numbers),
        state=jax.tree.map(pick, result.state),
        best=jax.tree.map(pick, result.best),
        history=jax.tree.map(pick, result.history),
        metrics=jax.tree.map(pick, result.metrics),
        epoch_seconds=pick(result.epoch_seconds),
    )


def concatenate(results: Sequence[Result]) -> Result:
    """The runs of all `results`, which share a config, one after the other; seconds are added."""

    def join(*leaves: Any) -> Any:
        if isinstance(leaves[0], jax.Array):  # keys
            return jnp.concatenate(leaves)
        return np.concatenate(leaves)

    return Result(
        results[0].config,
        tuple(member for result in results for member in result.runs),
        jax.tree.map(join, *[result.state for result in results]),
        jax.tree.map(join, *[result.best for result in results]),
        jax.tree.map(join, *[result.history for result in results]),
        jax.tree.map(join, *[result.metrics for result in results]),
        {name: sum(result.seconds[name] for result in results) for name in results[0].seconds},
        np.concatenate([result.epoch_seconds for result in results]),
        results[0].fingerprint,
    )


class _Trainer:
    """The compiled programs of one config; crowds of one size share them."""

    def __init__(
        self,
        train_config: TrainConfig,
        dataset: Dataset,
        make_program: Callable[[str | None], Program],
        layout: Layout | None,
        stream_megabytes: int | None = None,
    ):
        self.config = train_config
        self.num_train, self.num_test = len(dataset.train.label), len(dataset.test.label)
        self.image_shape = dataset.train.image.shape[1:]
        self.layout = layout
        self.make_program = functools.cache(make_program)
        self.program = self.make_program(None)
        self.images = dataset.train.image, dataset.test.image
        self.labels = dataset.train.label, dataset.test.label
        if stream_megabytes is None and parallel.agree(not _fits(self.images)):
            stream_megabytes = STREAM_MEGABYTES
        self.stream_bytes = None if stream_megabytes is None else stream_megabytes * 10**6
        self.pool: Pool | None = None
        if self.stream_bytes is None:
            self.pool = batches.make_pool(dataset)
        self.placed_pools: dict[Grid, Any] = {}
        self.programs: dict[Any, Any] = {}
        self.compile_seconds = 0.0
        self.num_classes: int | None = None  # None until the labels are known to lie within the logits

    def train(self, crowd: Sequence[Run], keeper: Keeper | None, on_epoch: Callable[[Epoch], None] | None) -> Result:
        """Trains one crowd to its end and evaluates it."""
        num_epochs = self.config.num_epochs
        compiled_before = self.compile_seconds
        grid = parallel.make_grid(self.layout, len(crowd))
        parts = [self._parts(member.seed) for member in crowd]
        carry = self.init(crowd, grid)
        history = {name: np.full((len(crowd), num_epochs), np.nan, np.float32) for name in Record._fields}
        epoch_seconds = np.full((len(crowd), num_epochs), np.nan)
        done = 0
        kept = None
        if keeper is not None:
            kept = keeper.restore({"carry": carry, "history": history, "epoch_seconds": epoch_seconds})
        kept = parallel.from_first(kept)
        if kept is not None:
            done, tree = int(kept[0]), kept[1]
            carry = jax.device_put(tree["carry"])
            history = {name: np.array(values) for name, values in tree["history"].items()}
            epoch_seconds = np.array(tree["epoch_seconds"])
        active = np.asarray(carry.active)
        carry = grid.put(carry, P(SEEDS))
        val_order = self.placed(self._shared_order([part.val for part in parts]), grid)
        train_order = self.placed(self._train_order(crowd, parts, done), grid)
        for number in range(done, num_epochs):
            if not active.any():
                break
            epoch = self.epoch_program(grid, carry, train_order, val_order)
            start, compiled = time.perf_counter(), self.compile_seconds
            carry, record = epoch(carry, self.pool_on(grid), train_order, val_order)
            if number + 1 < num_epochs:  # made while the device works
                train_order = self.placed(self._train_order(crowd, parts, number + 1), grid)
            record = {name: np.asarray(value) for name, value in record._asdict().items()}
            seconds = time.perf_counter() - start - (self.compile_seconds - compiled)
            for name, value in record.items():
                history[name][active, number] = value[active]
            epoch_seconds[active, number] = seconds / active.sum()
            seen = grid.gather(carry)
            active = np.asarray(seen.active)
            if keeper is not None:
                keeper.save(number + 1, {"carry": seen, "history": history, "epoch_seconds": epoch_seconds})
            if on_epoch is not None:
                on_epoch(Epoch(number + 1, tuple(crowd), record, seen, seconds))
        best = carry.state._replace(params=carry.best.params, model_state=carry.best.model_state)
        final = carry.state if self.config.patience_epochs is None else best
        start, compiled = time.perf_counter(), self.compile_seconds
        total = self._evaluate(final, parts, grid)
        evaluate_seconds = time.perf_counter() - start - (self.compile_seconds - compiled)
        num_trained = np.isfinite(epoch_seconds).sum(axis=1)
        best_epoch = np.asarray(grid.gather(carry.best.epoch), np.float64)
        state = jax.device_get(grid.gather(final._replace(opt_state=())))
        metrics = final_metrics(total, history, num_trained, best_epoch, finite_runs(state))
        return Result(
            self.config,
            tuple(crowd),
            state,
            jax.device_get(grid.gather(best._replace(opt_state=()))),
            history,
            metrics,
            {
                "compile_seconds": self.compile_seconds - compiled_before,
                "evaluate_seconds": evaluate_seconds,
                "train_seconds": float(np.nansum(epoch_seconds)),
            },
            epoch_seconds,
        )

    def sharing(self, runs: Sequence[Run]) -> Sharing:
        """The largest crowd that fits, judged by the compiled epoch program of the largest crowd that is wanted.

        That program is the one which then trains, unless it does not fit; what a run takes is the same in any crowd.
        """
        on_cores = self.layout is not None and self.layout.cores
        num_devices = len(self.layout.devices) if self.layout is not None and on_cores else 1
        most = max(crowds.MAX_CPU_CROWD, num_devices) if jax.default_backend() == "cpu" else None
        size = crowds.fitting_size(len(runs), most=most, num_devices=num_devices)
        if size == 1 or (self.layout is not None and not on_cores):
            return Sharing(len(runs), size)
        crowd = runs[:size]
        grid = parallel.make_grid(self.layout, size)
        parts = [self._parts(member.seed) for member in crowd]
        carry = grid.put(self.init(crowd, grid), P(SEEDS))
        val_order = self.placed(self._shared_order([part.val for part in parts]), grid)
        train_order = self.placed(self._train_order(crowd, parts, 0), grid)
        free_bytes = crowds.free_memory()
        if self.pool is None:
            chunk = next(self._chunks(train_order, grid))
            fit_chunk = functools.partial(fit, self.make_program(grid.axis_name).train_step)
            program = self._of_each_run("fit", fit_chunk, grid, carry.state, *chunk)
        else:
            program = self.epoch_program(grid, carry, train_order, val_order)
        needed = _program_bytes(program)
        if needed is None:
            return Sharing(len(runs), size)
        pool_bytes = sum(leaf.nbytes for leaf in self.pool or ())
        if _one_by_one(grid):  # each device holds what one run needs, however many wait
            run_bytes = max(0, needed - pool_bytes)
            if free_bytes is None or grid.num_devices * run_bytes <= crowds.MEMORY_SHARE * free_bytes:
                return Sharing(len(runs), size, run_bytes, free_bytes)
        else:
            run_bytes = max(0, needed - pool_bytes) // size
        return Sharing(len(runs), crowds.fitting_size(len(runs), run_bytes, free_bytes, size), run_bytes, free_bytes)

    def _parts(self, seed: int) -> Parts:
        return batches.split_parts(self.config, self.num_train, self.num_test, seed)

    def epoch_program(self, grid: Grid, carry: Carry, train_order: Order, val_order: Order) -> Any:
        if self.pool is None:
            return functools.partial(self._streamed_epoch, grid)
        program = self.make_program(grid.axis_name)
        epoch = make_epoch(program.train_step, program.eval_step, patience_epochs=self.config.patience_epochs)
        args = (carry, self.pool_on(grid), train_order, val_order)
        specs = (P(SEEDS), P(), _specs(train_order, grid), _specs(val_order, grid))
        axes = (0, None, _axes(train_order), _axes(val_order))
        mapped = _each_run(_if_active(epoch) if _one_by_one(grid) else epoch, axes, grid)
        return self._compiled("epoch", mapped, *args, grid=grid, specs=specs, out_specs=P(SEEDS))

    def _streamed_epoch(
        self, grid: Grid, carry: Carry, pool: None, train_order: Order, val_order: Order
    ) -> tuple[Carry, Record]:
        """What the epoch program does, a chunk of batches after the other."""
        state, train_sums = carry.state, []
        train_step = functools.partial(fit, self.make_program(grid.axis_name).train_step)
        for chunk in self._chunks(train_order, grid):
            args = (state, *chunk)
            state, sums = self._of_each_run("fit", train_step, grid, *args)(*args)
            train_sums.append(sums)
            _wait_for_last_but_one(train_sums)
        val_sums = self._streamed_sums(grid, state, val_order)
        finished = jax.vmap(functools.partial(finish, patience_epochs=self.config.patience_epochs))
        args = (carry, state, *(grid.put(_joined(sums), P(SEEDS)) for sums in (train_sums, val_sums)))
        return self._compiled("finish", finished, *args, grid=grid)(*args)

    def _streamed_sums(self, grid: Grid, state: TrainState, order: Order) -> list[Sums]:
        """The sums of each batch of `order`, float32 [R, steps] a chunk."""
        eval_step = functools.partial(evaluate, self.make_program(grid.axis_name).eval_step)
        seen: list[Sums] = []
        first = 0
        for chunk in self._chunks(order, grid):
            args = (state, *chunk, grid.put(np.int32(first), P()))
            seen.append(self._of_each_run("evaluate", eval_step, grid, *args)(*args))
            _wait_for_last_but_one(seen)
            first += len(chunk[1].weight)
        return seen

    def _of_each_run(self, name: str, function: Callable, grid: Grid, *args: Any) -> Any:
        """function(state, pool, order, what all runs share) compiled for `args`, mapped over the runs."""
        _, _, order, *shared = args
        mapped = _each_run(function, (0, None, _axes(order), *[None] * len(shared)), grid)
        specs = (P(SEEDS), P(), _specs(order, grid), *[P()] * len(shared))
        return self._compiled(name, mapped, *args, grid=grid, specs=specs, out_specs=P(SEEDS))

    def _chunks(self, order: Order, grid: Grid) -> Iterator[tuple[Pool | None, Order | Batch]]:
        """The examples of `order`, [R, steps, B] or [steps, B], as many steps at a time as two chunks may take.

        To be asked for the next one while the device works on the last. On one device a chunk is a pool and the order
        in it, so that the compiler sees what it sees of a resident pool, and the bits are the same. On several it is
        batches, of which each device has its own and each process reads what its devices need.
        """
        assert self.stream_bytes is not None
        num_steps = order.weight.shape[0]
        step_bytes = order.example.size // num_steps * (_image_bytes(self.images[0]) + 12)
        size = batches.chunk_steps(num_steps, step_bytes, self.stream_bytes)
        specs = _specs(order, grid)
        for start in range(0, num_steps, size):
            example, weight = order.example[..., start : start + size, :], order.weight[start : start + size]
            if grid.mesh is None:
                pool = Pool(*(batches.read(arrays, example.ravel()) for arrays in (self.images, self.labels)))
                local = np.arange(example.size, dtype=np.int32).reshape(example.shape)
                yield jax.device_put(pool), Order(local, weight)
                continue
            image, label = (
                grid.build(
                    (*example.shape, *arrays[0].shape[1:]),
                    specs.example,
                    lambda index: batches.read(arrays, example[index[: example.ndim]]),  # noqa: B023
                )
                for arrays in (self.images, self.labels)
            )
            yield None, Batch(image, label, grid.put(weight, specs.weight))

    def init(self, crowd: Sequence[Run], grid: Grid) -> Carry:
        names = sorted(crowd[0].settings)
        settings = {name: np.array([member.settings[name] for member in crowd], np.float32) for name in names}
        seeds = np.array([member.seed for member in crowd], np.uint32)

        def init(seed: jax.Array, settings: dict[str, jax.Array]) -> Carry:
            state = self.program.init(seed, self.image_shape, settings)
            params, model_state = jax.tree.map(jnp.copy, (state.params, state.model_state))
            best = Best(params, model_state, jnp.zeros([], jnp.int32), jnp.full([], -jnp.inf))
            return Carry(state, best, jnp.ones([], bool), jnp.zeros([], jnp.int32))

        carry = self._compiled("init", jax.vmap(init), seeds, settings)(seeds, settings)
        if self.num_classes is None:
            self.num_classes = num_classes(self.program, carry.state, self.image_shape)
            arrays.check_labels(*self.labels, self.num_classes)
        size = self.config.batch_size
        ragged = len(self._parts(0).train) % size or grid.round_up(size) > size
        if "batch_stats" in carry.state.model_state and ragged and self.program.needs_full_batches:
            raise UserError(
                "the model keeps batch statistics, its __call__ has no weight=, and batches would be padded: "
                f"{size} does not divide the training examples, or the devices do not divide {size}; "
                "take a batch size that does, or give __call__ a weight argument"
            )
        return carry

    def pool_on(self, grid: Grid) -> Any:
        """The pool on the devices of `grid`, put there once; None where it is streamed."""
        if self.pool is not None and grid not in self.placed_pools:
            self.placed_pools[grid] = jax.device_put(self.pool) if grid.mesh is None else grid.put(self.pool, P())
        return self.placed_pools.get(grid)

    def placed(self, order: Order, grid: Grid) -> Order:
        """`order`, its batches padded at weight 0 to a size that the devices divide; on them unless it is streamed."""
        missing = grid.round_up(order.weight.shape[-1]) - order.weight.shape[-1]
        if missing:
            ends = [(0, 0)] * (order.example.ndim - 1) + [(0, missing)]
            order = Order(np.pad(order.example, ends, mode="edge"), np.pad(order.weight, ends[-2:]))
        return order if self.pool is None else grid.put(order, _specs(order, grid))

    def _train_order(self, crowd: Sequence[Run], parts: Sequence[Parts], epoch: int) -> Order:
        by_seed: dict[int, Order] = {}
        for member, part in zip(crowd, parts, strict=True):
            if member.seed not in by_seed:
                by_seed[member.seed] = batches.epoch_order(part.train, self.config.batch_size, member.seed, epoch)
        index = np.stack([by_seed[member.seed].example for member in crowd])
        return Order(index, by_seed[crowd[0].seed].weight)

    def _shared_order(self, indices: Sequence[np.ndarray]) -> Order:
        """[steps, B] where all runs evaluate on the same examples (one gather serves them all), else [R, steps, B]."""
        orders = [batches.padded_order(index, EVAL_BATCH_SIZE) for index in indices]
        if all(np.array_equal(indices[0], index) for index in indices[1:]):
            return orders[0]
        return Order(np.stack([order.example for order in orders]), orders[0].weight)

    def _evaluate(self, state: TrainState, parts: Sequence[Parts], grid: Grid) -> dict[str, Sums]:
        """The sums over each part, float64 [R], from one program that goes through all parts in a row."""
        orders = [self._shared_order([getattr(part, name) for part in parts]) for name in Parts._fields]
        per_run = any(np.ndim(order.example) == 3 for order in orders)
        examples = [_per_run(order.example, len(parts)) if per_run else order.example for order in orders]
        weights = np.concatenate([order.weight for order in orders])
        order = self.placed(Order(np.concatenate(examples, axis=-2), weights), grid)
        if self.pool is None:
            batch_sums = _joined(self._streamed_sums(grid, state, order))
        else:
            eval_step = functools.partial(evaluate, self.make_program(grid.axis_name).eval_step)
            args = (state, self.pool_on(grid), order)
            batch_sums = self._of_each_run("evaluate", eval_step, grid, *args)(*args)
        ends = np.cumsum([len(order.weight) for order in orders])[:-1]
        split = [np.split(np.asarray(value, np.float64), ends, axis=1) for value in batch_sums]
        return {name: Sums(*(value[n].sum(axis=1) for value in split)) for n, name in enumerate(Parts._fields)}

    def _compiled(
        self, name: str, function: Callable, *args: Any, grid: Grid = ONE_DEVICE, specs: Any = (), out_specs: Any = ()
    ) -> Any:
        """`function` compiled for the shapes of `args`, once; the carry of an epoch is donated.

        Over the devices of `grid`, `specs` say how the arguments lie there, `out_specs` the results; without them the
        compiler splits. What is no carry comes back on every device, for each process to read.
        """
        shapes = tuple((np.shape(leaf), str(getattr(leaf, "dtype", ""))) for leaf in jax.tree.leaves(args))
        key = (name, shapes, grid)
        if key not in self.programs:
            jax.block_until_ready(args)  # so that the seconds are the compiler's alone
            start = time.perf_counter()
            donated = (0,) if name == "epoch" else ()
            returned = (P(SEEDS), P()) if name in ("epoch", "fit", "finish") else P()
            spread = grid.spread(function, specs, out_specs) if specs else function
            jitted = jax.jit(spread, donate_argnums=donated, **grid.jit_options(returned))
            self.programs[key] = jitted.lower(*args).compile(compiler_options=compiler_options(name, grid))
            self.compile_seconds += time.perf_counter() - start
        return self.programs[key]


def compiler_options(name: str, grid: Grid = ONE_DEVICE) -> dict[str, Any]:
    """XLA's options for the program "init", "epoch" or "evaluate".

    On a CPU: no optimising of what runs once and briefly (its random draws compile 8 times as long); no threads
    within an operation where every core has runs of its own.
    """
    if jax.default_backend() != "cpu":
        return {}
    if name == "init":
        return {"xla_backend_optimization_level": 0}
    return {"xla_cpu_multi_thread_eigen": False} if grid.takes_all_cores else {}


def _program_bytes(program: Any) -> int | None:
    """Arguments, results and temporaries of a compiled program; None where the backend does not say."""
    analysis = program.memory_analysis()
    if analysis is None:
        return None
    arguments = analysis.argument_size_in_bytes - analysis.alias_size_in_bytes  # what is donated is reused
    return arguments + analysis.output_size_in_bytes + analysis.temp_size_in_bytes


def _advance(carry: Carry, state: TrainState, record: Record, patience_epochs: int | None) -> tuple[Carry, Record]:
    """The carry after an epoch: the best so far, and whether the run goes on."""
    value = record.val_accuracy if patience_epochs is None else -record.val_loss
    value = jnp.where(jnp.isfinite(value), value, -jnp.inf)
    improved = carry.active & (value > carry.best.value)
    if patience_epochs is not None:
        state = _where(carry.active, state, carry.state)
    epoch = carry.best.epoch + carry.num_stale + 1
    best = _where(improved, Best(state.params, state.model_state, epoch, value), carry.best)
    num_stale = jnp.where(improved, 0, carry.num_stale + carry.active.astype(jnp.int32))
    active = carry.active if patience_epochs is None else carry.active & (num_stale < patience_epochs)
    return Carry(state, best, active, num_stale), record


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _total(sums: Sums) -> Sums:
    return Sums(*(jnp.sum(value) for value in sums))


def _fits(images: Sequence[np.ndarray]) -> bool:
    """Whether the pool leaves the larger part of the memory free; yes where nothing is known."""
    free_bytes = crowds.free_memory()
    return free_bytes is None or sum(len(array) * _image_bytes(array) for array in images) <= free_bytes / 2


def _image_bytes(images: np.ndarray) -> int:
    return math.prod(images.shape[1:]) * images.dtype.itemsize


def _wait_for_last_but_one(sums: Sequence[Sums]) -> None:
    """Else the chunks would pile up before a device that is slower than reading."""
    if len(sums) > 1:
        jax.block_until_ready(sums[-2])


def _joined(sums: Sequence[Sums]) -> Sums:
    """Sums [R, steps] of chunks as those of all steps, on the host."""
    return Sums(*(np.concatenate(values, axis=1) for values in zip(*sums, strict=True)))  # type: ignore[arg-type]


def _axes(order: Order | Batch) -> Any:
    """The axes that are mapped over runs: none where all share the examples, and never the weight's, which is last."""
    rest = 0 if np.ndim(order[-2]) == 3 else None
    return jax.tree.unflatten(jax.tree.structure(order), [rest] * (len(order) - 1) + [None])


def _specs(order: Order | Batch, grid: Grid) -> Any:
    weight = grid.spec(None, BATCH)
    rest = grid.spec(SEEDS, None, BATCH) if np.ndim(order[-2]) == 3 else weight
    return jax.tree.unflatten(jax.tree.structure(order), [rest] * (len(order) - 1) + [weight])


def _per_run(example: np.ndarray, num_runs: int) -> np.ndarray:
    return example if example.ndim == 3 else np.broadcast_to(example, (num_runs, *example.shape))


def _one_by_one(grid: Grid) -> bool:
    """Whether a device trains its runs one after another: a CPU's caches hold what one run works on, not eight.

    Where the compiler splits the runs over devices it must see them all at once.
    """
    return jax.default_backend() == "cpu" and (grid.mesh is None or grid.strategy != "jit")


def _each_run(function: Callable, axes: Any, grid: Grid) -> Callable:
    """vmap of `function` with in_axes=`axes`, or where runs go one by one the same by a loop in the program."""
    if not _one_by_one(grid):
        return jax.vmap(function, in_axes=axes)

    def mapped(*args: Any) -> Any:
        def one(index: jax.Array) -> Any:
            def pick(axis: int | None, part: Any) -> Any:
                return part if axis is None else jax.tree.map(lambda leaf: leaf[index], part)

            return function(*jax.tree.map(pick, axes, args, is_leaf=lambda axis: axis is None))

        num_runs = jax.tree.leaves(args[0])[0].shape[0]
        return jax.lax.map(one, jnp.arange(num_runs))

    return mapped


def _if_active(epoch: Callable) -> Callable:
    """`epoch`, but a run that has stopped costs nothing."""

    def guarded(carry: Carry, *rest: Any) -> tuple[Carry, Record]:
        def skip(carry: Carry, *_: Any) -> tuple[Carry, Record]:
            nothing = jnp.full_like(carry.best.value, jnp.nan)
            return carry, Record(nothing, nothing, nothing, nothing)

        return jax.lax.cond(carry.active, epoch, skip, carry, *rest)

    return guarded
