"""Finds where a run's first NaN or infinity came from: seed, epoch, step, layer, operation and source line."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core

from mnistlab.config import TrainConfig
from mnistlab.data import batches
from mnistlab.data.batches import Batch, Order
from mnistlab.data.datasets import Dataset
from mnistlab.training import averaging
from mnistlab.training.callbacks import Callback, Epoch, Snapshot
from mnistlab.training.population import EVAL_BATCH_SIZE
from mnistlab.training.result import Run
from mnistlab.training.step import StepFunctions, TrainState
from mnistlab.training.trained import finite_runs

LIBRARIES = tuple(str(Path(str(package.__file__)).parent) for package in (jax, flax, optax))
CALLS = ("jit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint")  # looked into


class NanCheck(Callback):
    """Ends the training at the first NaN or infinity and says what made it.

    Before a checkpoint in the list of callbacks, it lets no diverged epoch be kept. Training is as without it, to the
    bit: the run that diverged is repeated alone, from the epoch before, and its step taken operation by operation.
    """

    def __init__(self, config: TrainConfig, dataset: Dataset, steps: StepFunctions):
        self.find = functools.partial(find, config, dataset, steps)
        self.validates = len(batches.split_parts(config, dataset, seed=0).val) > 0
        self.before: Any = None  # the carry before the epoch, copied: training takes it over

    def on_start(self, runs: Sequence[Run], snapshot: Snapshot) -> None:
        self.before = jax.tree.map(jnp.copy, snapshot.carry)

    def on_epoch(self, epoch: Epoch) -> None:
        """Raises FloatingPointError where a run diverged: one line that says which and where."""
        carry = epoch.snapshot.carry
        active = np.asarray(self.before.active)
        record = {name: values for name, values in epoch.record.items() if self.validates or name.startswith("train_")}
        bad = np.flatnonzero(active & ~finite_runs((_watched(carry.state), record)))
        if len(bad):
            state = jax.tree.map(lambda leaf: leaf[bad[0]], self.before.state)
            place = self.find(epoch.runs[bad[0]], state, epoch.number)
            raise FloatingPointError(f"{place}; {len(bad)} of {len(active)} runs diverged in this epoch")
        self.before = jax.tree.map(jnp.copy, carry)


def find(config: TrainConfig, dataset: Dataset, steps: StepFunctions, run: Run, state: TrainState, epoch: int) -> str:
    """Repeats the `epoch` (from 1) of one run, from the `state` before it; where the first NaN or infinity was made."""
    state = jax.device_put(jax.device_get(state), jax.local_devices()[0])  # of all processes, it may lie on others too
    part = batches.split_parts(config, dataset, run.seed)
    settings = "".join(f", {name} {value:g}" for name, value in run.settings.items())
    where = f"seed {run.seed}{settings}, epoch {epoch}"
    if not _finite(_watched(state)):
        return f"NaN or infinity: {where}, in what was kept of the epoch before; start again with --noresume"

    def train_step(state: TrainState, batch: Batch) -> Any:
        after, sums = steps.train_step(state, batch)
        return _watched(after), sums

    order = batches.epoch_order(part.train, config.batch_size, run.seed, epoch - 1)
    taken = jax.jit(steps.train_step)
    for number, batch in enumerate(_batches(dataset, order)):
        after, sums = taken(state, batch)
        if not _finite((_watched(after), sums)):
            return f"the first {first_nonfinite(train_step, state, batch)}: {where}, step {number + 1}"
        state = after

    def eval_step(state: TrainState, batch: Batch, number: jax.Array) -> Any:
        return steps.eval_step(averaging.evaluated(state), batch, number)

    evaluated = jax.jit(eval_step)
    validation = _batches(dataset, batches.padded_order(part.val, EVAL_BATCH_SIZE)) if len(part.val) else ()
    for number, batch in enumerate(validation):
        if not _finite(evaluated(state, batch, jnp.int32(number))):
            return f"the first {first_nonfinite(eval_step, state, batch, jnp.int32(number))}: {where}, in validation"
    return f"NaN or infinity: {where}; not found again when this run was repeated alone"


def first_nonfinite(function: Callable[..., Any], *args: Any) -> str:
    """Which operation of `function(*args)` made the first of the NaNs and infinities that reach its results.

    What is masked away again, such as the -inf of an excluded logit, does not count.

    >>> first_nonfinite(lambda x: jnp.log(x - 1) + 1, 1.0).rpartition(",")[0]
    'infinity, made by log'
    """
    closed = jax.make_jaxpr(function)(*args)
    made: list[_Made] = []
    inputs = [_Value(leaf, None) for leaf in jax.tree.leaves(args)]
    results = _evaluate(closed.jaxpr, closed.consts, inputs, made, "")
    reached = [value.maker for value in results if not _finite(value.array)]
    culprits: set[int] = set()
    seen: set[int | None] = set()
    while reached:
        number = reached.pop()
        if number is None or number in seen:
            continue
        seen.add(number)
        sources = [value for value in made[number].inputs if not _finite(value.array)]
        if sources:
            reached += [value.maker for value in sources]
        else:
            culprits.add(number)
    if not culprits:
        return "NaN or infinity, in what the step began with"
    culprit = made[min(culprits)]
    kind = "NaN" if any(bool(jnp.isnan(array).any()) for array in culprit.outputs if _is_float(array)) else "infinity"
    return f"{kind}, made by {_describe(culprit)}"


class _Value(NamedTuple):
    array: Any
    maker: int | None  # number of the operation; None: an argument


class _Made(NamedTuple):
    equation: Any
    scope: str
    inputs: Sequence[_Value]
    outputs: Sequence[Any]


def _evaluate(jaxpr: Any, consts: Sequence[Any], args: Sequence[_Value], made: list[_Made], scope: str) -> list[_Value]:
    """The results of a jaxpr, operation by operation, each noted in `made`."""
    known: dict[Any, _Value] = dict(zip(jaxpr.constvars, (_Value(const, None) for const in consts), strict=True))
    known |= dict(zip(jaxpr.invars, args, strict=True))

    def read(variable: Any) -> _Value:
        return _Value(variable.val, None) if isinstance(variable, core.Literal) else known[variable]

    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        name = f"{scope}/{equation.source_info.name_stack}".strip("/")
        inner = _inner(equation)
        if inner is not None:
            outputs = _evaluate(*inner, inputs, made, name)
        else:
            variables = [variable for variable in equation.invars if not isinstance(variable, core.Literal)]
            alone = jaxpr.replace(constvars=(), invars=variables, outvars=equation.outvars, eqns=[equation])
            arrays = jax.core.eval_jaxpr(alone, (), *(known[variable].array for variable in variables))
            outputs = [_Value(array, len(made)) for array in arrays]
            made.append(_Made(equation, name, inputs, arrays))
        known |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _inner(equation: Any) -> tuple[Any, Sequence[Any]] | None:
    """The (jaxpr, constants) that a call calls; None for an operation."""
    if equation.primitive.name not in CALLS:
        return None
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return (inner.jaxpr, inner.consts) if isinstance(inner, core.ClosedJaxpr) else (inner, ())


def _describe(made: _Made) -> str:
    """The operation with its layer, direction and line.

    A layer's name is what the model called it; a gradient's line is that of the layer's forward pass.
    """
    head, *rest = made.scope.split("/")
    layer = ".".join(part for part in rest if part.isidentifier())
    direction = "backward" if "transpose(" in head else "forward"
    of = f" of layer {layer}, {direction}" if layer else f", {direction}" if "jvp(" in head else ""
    line = _line(made.equation.source_info)
    return f"{made.equation.primitive.name}{of}{', ' + line if line else ''}"


def _line(source_info: Any) -> str:
    """file:line of the innermost frame that is neither JAX's nor Flax' nor optax'."""
    frames = source_info.traceback.frames if source_info.traceback else []
    for frame in frames:
        if not frame.file_name.startswith(LIBRARIES):
            return f"{'/'.join(Path(frame.file_name).parts[-2:])}:{frame.line_num}"
    return ""


def _batches(dataset: Dataset, order: Order) -> Iterator[Batch]:
    """One after another, so that of a dataset that does not fit no more is read."""
    images, labels = ([part[kind] for part in dataset.parts.values()] for kind in (0, 1))
    for example, weight in zip(order.example, order.weight, strict=True):
        image, label = batches.read(images, example), batches.read(labels, example)
        yield Batch(jnp.asarray(image), jnp.asarray(label, jnp.int32), jnp.asarray(weight))


def _watched(state: TrainState) -> TrainState:
    """`state` without the infinities of its optimiser, some of which begin with one (optax's reduce_on_plateau)."""
    return state._replace(opt_state=jax.tree.map(_without_infinities, state.opt_state))


def _without_infinities(leaf: Any) -> Any:
    return jnp.where(jnp.isinf(leaf), 0, leaf) if _is_float(leaf) else leaf


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype if hasattr(leaf, "dtype") else np.result_type(leaf), jnp.floating)


def _finite(tree: Any) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree) if _is_float(leaf))
