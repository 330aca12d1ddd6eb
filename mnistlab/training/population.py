"""A population: the runs of one config that share compiled programs, and the steps of their epoch."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from mnistlab.config import TrainConfig
from mnistlab.data import batches
from mnistlab.data.batches import Order, Parts
from mnistlab.data.datasets import Dataset
from mnistlab.devices import mesh
from mnistlab.devices.mesh import SEEDS, Layout
from mnistlab.errors import UserError
from mnistlab.training import averaging, checks, epoch, sizing
from mnistlab.training.epoch import Carry
from mnistlab.training.executables import Executables, one_by_one, program_bytes
from mnistlab.training.feed import Feed
from mnistlab.training.losses import Sums
from mnistlab.training.result import Record, Run
from mnistlab.training.sizing import PopulationSize
from mnistlab.training.step import StepFunctions, TrainState

EVAL_BATCH_SIZE = 250  # divides every evaluation set here, so that nothing is padded
MOST_EVAL_STEPS = 48  # in one call of the evaluation's program, which has one length


class Setup(NamedTuple):
    """What all populations of a config share."""

    config: TrainConfig
    dataset: Dataset
    steps: StepFunctions
    feed: Feed
    layout: Layout | None
    executables: Executables


class Population:
    """Runs on their devices, with the examples of each; every method computes all runs in one program."""

    def __init__(self, setup: Setup, runs: Sequence[Run]):
        self.setup, self.runs = setup, tuple(runs)
        self.parts = [batches.split_parts(setup.config, setup.dataset, run.seed) for run in runs]
        batch_size = min(setup.config.batch_size, len(self.parts[0].train))  # what a step really sees
        self.grid = mesh.make_grid(setup.layout, len(runs), setup.steps.halves(batch_size))
        self.has_validation = len(self.parts[0].val) > 0
        self.val_order = self._evaluation_order(["val"])
        self.next_order: tuple[int, Order] = 0, self._train_order(0)
        axis_name = self.grid.axis_name
        if axis_name is not None and not setup.steps.splits_batches:
            raise UserError(
                "this model's __call__ has no axis_name=, so no step of it can see a part of a batch; use "
                "--parallel=jit, or as many seeds as devices"
            )
        self._train_step = functools.partial(setup.steps.train_step, axis_name=axis_name)
        self._eval_step = functools.partial(setup.steps.eval_step, axis_name=axis_name)

    def init(self) -> Carry:
        """The initial state of every run.

        Raises:
          UserError: the model gives no logits for the labels, the loss or a metric no number per example; or it keeps
            batch statistics, which padded examples would spoil.
        """
        names = sorted(self.runs[0].settings)
        settings = {name: np.array([run.settings[name] for run in self.runs], np.float32) for name in names}
        seeds = np.array([run.seed for run in self.runs], np.uint32)
        image_shape = self.setup.dataset.train.image.shape[1:]

        def init(seed: jax.Array, settings: dict[str, jax.Array]) -> Carry:
            return epoch.start(self.setup.steps.init(seed, image_shape, settings))

        carry = self.setup.executables.get("init", jax.vmap(init), seeds, settings)(seeds, settings)
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), carry.state)
        setup = self.setup
        checks.check_network(setup.steps, one, setup.dataset, {"loss": setup.config.loss, **setup.config.metrics})
        self._refuse_padded_statistics(carry.state)
        return carry

    def put(self, carry: Carry) -> Carry:
        """`carry` on the devices of its runs."""
        return self.grid.put(carry, P(SEEDS))

    def epoch(self, carry: Carry, number: int) -> tuple[Carry, Record]:
        """(carry, record) after epoch `number`, counted from 0; the state in the carry given is donated."""
        state, train_sums = self.fit(carry.state, carry.active, self._order_of(number))
        val_sums = None
        if self.has_validation:
            val_sums = self.grid.put(self.evaluate(averaging.evaluated(state), carry.active, self.val_order), P(SEEDS))
        finish = functools.partial(epoch.finish, patience_epochs=self.setup.config.patience_epochs)
        args = (carry._replace(state=state), self.grid.put(train_sums, P(SEEDS)), val_sums)
        finished = self.setup.executables.get("finish", jax.vmap(finish), *args, grid=self.grid)(*args)
        if number + 1 < self.setup.config.num_epochs:  # made while the devices work
            self.next_order = number + 1, self._train_order(number + 1)
        return finished

    def fit(self, state: TrainState, active: jax.Array, order: Order) -> tuple[TrainState, Sums]:
        """(state, sums float32 [R, steps]) after the batches of a training order; stopped runs do not change."""
        seen = []
        function = self._guarded(functools.partial(_fit, self._train_step))
        for pool, chunk in self.setup.feed.chunks(order, self.grid):
            args = (state, active, pool, chunk)
            state, sums = self.setup.executables.of_each_run("fit", function, self.grid, *args)(*args)
            seen.append(sums)
            _wait_for_last_but_one(seen)
        return state, _joined(seen)

    def evaluate(self, state: TrainState, active: jax.Array, order: Order) -> Sums:
        """The sums float32 [R, steps] of each batch of an evaluation order."""
        seen: list[Sums] = []
        function = functools.partial(_evaluate, self._eval_step)
        first = 0
        for pool, chunk in self.setup.feed.chunks(order, self.grid, self._eval_steps):
            args = (state, active, pool, chunk, self.grid.put(np.int32(first), P()))
            seen.append(self.setup.executables.of_each_run("evaluate", function, self.grid, *args)(*args))
            _wait_for_last_but_one(seen)
            first += len(chunk[-1])
        return _joined(seen)

    def evaluate_parts(self, state: TrainState) -> dict[str, Sums]:
        """The sums over the training, validation and test examples of each run, float64 [R]."""
        order = self._evaluation_order(Parts._fields)
        active = self.grid.put(np.ones(len(self.runs), bool), P(SEEDS))
        batch_sums = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), self.evaluate(state, active, order))
        lengths = [-(-len(part) // EVAL_BATCH_SIZE) for part in self.parts[0]]
        ends = np.cumsum(lengths)
        return {
            name: jax.tree.map(lambda leaf: leaf[:, end - length : end].sum(axis=1), batch_sums)  # noqa: B023
            for name, length, end in zip(Parts._fields, lengths, ends, strict=True)
        }

    def size(self, num_runs: int) -> PopulationSize:
        """How many of `num_runs` runs fit, judged by the compiled training program of this many.

        That program is the one which then trains, unless it does not fit; a run takes the same in any population.
        """
        carry = self.put(self.init())
        pool, chunk = next(self.setup.feed.chunks(self._order_of(0), self.grid))
        jax.block_until_ready((pool, chunk))
        free_bytes = sizing.free_memory()  # beside the examples, which are there by now
        args = (carry.state, carry.active, pool, chunk)
        function = self._guarded(functools.partial(_fit, self._train_step))
        needed = program_bytes(self.setup.executables.of_each_run("fit", function, self.grid, *args))
        size = len(self.runs)
        if needed is None:
            return PopulationSize(num_runs, size)
        run_bytes = max(0, needed - self.setup.feed.pool_bytes)
        if not one_by_one(self.grid):
            run_bytes //= size
        # One by one, each device holds what one run needs, however many wait.
        elif free_bytes is None or self.grid.num_devices * run_bytes <= sizing.MEMORY_SHARE * free_bytes:
            return PopulationSize(num_runs, size, run_bytes, free_bytes)
        fitting = sizing.fitting_size(num_runs, run_bytes, free_bytes, size)
        return PopulationSize(num_runs, fitting, run_bytes, free_bytes)

    @property
    def _eval_steps(self) -> int:
        num_val = -(-len(self.parts[0].val) // EVAL_BATCH_SIZE)
        return min(num_val, MOST_EVAL_STEPS) or MOST_EVAL_STEPS

    def _guarded(self, function: Callable) -> Callable:
        return _if_active(function, one_by_one(self.grid)) if self.setup.config.patience_epochs else function

    def _order_of(self, number: int) -> Order:
        if self.next_order[0] != number:
            self.next_order = number, self._train_order(number)
        return self.next_order[1]

    def _train_order(self, number: int) -> Order:
        by_seed: dict[int, Order] = {}
        for run, part in zip(self.runs, self.parts, strict=True):
            if run.seed not in by_seed:
                by_seed[run.seed] = batches.epoch_order(part.train, self.setup.config.batch_size, run.seed, number)
        index = np.stack([by_seed[run.seed].example for run in self.runs])
        return self.setup.feed.place(Order(index, by_seed[self.runs[0].seed].weight), self.grid)

    def _evaluation_order(self, names: Sequence[str]) -> Order:
        """Some parts in a row, ended by batches of nothing so that calls of one length do them all.

        [steps, B] where all runs evaluate on the same examples (one gather serves them all), else [R, steps, B].
        """
        orders = [
            [batches.padded_order(getattr(part, name), EVAL_BATCH_SIZE) for part in self.parts]
            for name in names
            if len(getattr(self.parts[0], name))
        ]
        weight = np.concatenate([by_run[0].weight for by_run in orders] or [np.zeros((0, EVAL_BATCH_SIZE), np.float32)])
        example = np.stack(
            [
                np.concatenate([by_run[n].example for by_run in orders] or [np.zeros(weight.shape, np.int32)])
                for n in range(len(self.parts))
            ]
        )
        if (example == example[0]).all():
            example = example[0]
        missing = -len(weight) % self._eval_steps
        example = np.pad(example, [(0, 0)] * (example.ndim - 2) + [(0, missing), (0, 0)])
        return self.setup.feed.place(Order(example, np.pad(weight, [(0, missing), (0, 0)])), self.grid)

    def _refuse_padded_statistics(self, state: TrainState) -> None:
        size = min(self.setup.config.batch_size, len(self.parts[0].train))
        ragged = len(self.parts[0].train) % size or self.grid.round_up(size) > size
        if "batch_stats" in state.model_state and ragged and self.setup.steps.needs_full_batches:
            raise UserError(
                "the model keeps batch statistics, its __call__ has no weight=, and batches would be padded: "
                f"{size} does not divide the training examples, or the devices do not divide {size}; "
                "take a batch size that does, or give __call__ a weight argument"
            )


def _fit(train_step: Any, state: TrainState, active: jax.Array, pool: Any, order: Any) -> tuple[TrainState, Sums]:
    del active
    return epoch.fit(train_step, state, pool, order)


def _evaluate(eval_step: Any, state: TrainState, active: jax.Array, pool: Any, order: Any, first: jax.Array) -> Sums:
    del active
    return epoch.evaluate(eval_step, state, pool, order, first)


def _if_active(function: Callable, skips: bool) -> Callable:
    """`function` of (state, active, ...) -> (state, sums), but a run that has stopped keeps its state.

    skips: it costs nothing then, where runs go one by one.
    """

    def guarded(state: TrainState, active: jax.Array, *rest: Any) -> tuple[TrainState, Sums]:
        nothing = jnp.where(active, 0.0, 0.0)  # both ways must vary over devices alike: as `active` does

        def go(state: TrainState) -> tuple[TrainState, Sums]:
            after, sums = function(state, active, *rest)
            return after, jax.tree.map(lambda leaf: leaf + nothing.astype(leaf.dtype), sums)

        def stay(state: TrainState) -> tuple[TrainState, Sums]:
            sums = jax.eval_shape(go, state)[1]
            return state, jax.tree.map(lambda leaf: jnp.broadcast_to(nothing, leaf.shape).astype(leaf.dtype), sums)

        if skips:
            return jax.lax.cond(active, go, stay, state)
        after, sums = go(state)
        return epoch.where(active, after, state), sums

    return guarded


def _wait_for_last_but_one(sums: Sequence[Sums]) -> None:
    """Without it, chunks would pile up in front of a device that is slower than reading."""
    if len(sums) > 1:
        jax.block_until_ready(sums[-2])


def _joined(sums: Sequence[Sums]) -> Sums:
    """Sums [R, steps] of chunks as those of all steps: on the host where there are several."""
    if len(sums) == 1:
        return sums[0]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *sums)
