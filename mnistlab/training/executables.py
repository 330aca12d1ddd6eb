"""Pure functions of one run, mapped over the runs of a population and compiled: the one place for jit and vmap."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from mnistlab.data.batches import Batch, Order
from mnistlab.devices.mesh import BATCH, SEEDS, Grid

ONE_DEVICE = Grid()
DONATED = {"fit": (0,)}  # the state: its memory becomes the next state's
PER_RUN = ("fit", "finish")  # their first result stays where the runs are; all else comes to every process


class Executables:
    """What was compiled, each function once for every shape of its arguments, and the seconds that it took."""

    def __init__(self) -> None:
        self.compiled: dict[Any, Any] = {}
        self.compile_seconds = 0.0
        self._reported_seconds = 0.0

    def new_compile_seconds(self) -> float:
        """The seconds that compiling took since this was last asked."""
        new = self.compile_seconds - self._reported_seconds
        self._reported_seconds = self.compile_seconds
        return new

    def of_each_run(self, name: str, function: Callable, grid: Grid, *args: Any) -> Any:
        """function(state, active, pool, order, what all runs share) of one run, compiled for all runs of `args`."""
        _, _, _, order, *shared = args
        mapped = each_run(function, (0, 0, None, _axes(order), *[None] * len(shared)), grid)
        specs = (P(SEEDS), P(SEEDS), P(), order_specs(order, grid), *[P()] * len(shared))
        return self.get(name, mapped, *args, grid=grid, specs=specs)

    def get(self, name: str, function: Callable, *args: Any, grid: Grid = ONE_DEVICE, specs: Any = ()) -> Any:
        """`function` compiled for the shapes of `args`.

        Over the devices of `grid`, `specs` say how the arguments lie there; without them the compiler splits.
        """
        shapes = tuple((np.shape(leaf), str(getattr(leaf, "dtype", ""))) for leaf in jax.tree.leaves(args))
        key = (name, shapes, grid)
        if key not in self.compiled:
            jax.block_until_ready(args)  # so that the seconds are the compiler's alone
            started = time.perf_counter()
            spread = grid.spread(function, specs, P(SEEDS)) if specs else function
            returned = (P(SEEDS), P()) if name in PER_RUN else P()
            jitted = jax.jit(spread, donate_argnums=DONATED.get(name, ()), **grid.jit_options(returned))
            self.compiled[key] = jitted.lower(*args).compile(compiler_options=compiler_options(name, grid))
            self.compile_seconds += time.perf_counter() - started
        return self.compiled[key]


def compiler_options(name: str, grid: Grid = ONE_DEVICE) -> dict[str, Any]:
    """XLA's options for "init", "fit", "evaluate" or "finish".

    On a CPU: no optimising of what runs once and briefly (its random draws compile 8 times as long); else vectors as
    wide as the core has; no threads within an operation where every core has a device of its own.
    """
    if jax.default_backend() != "cpu":
        return {}
    if name == "init":
        return {"xla_backend_optimization_level": 0}
    return _vector_width() | ({"xla_cpu_multi_thread_eigen": False} if grid.takes_all_cores else {})


@functools.cache
def _vector_width() -> dict[str, Any]:
    """The option for 512 bits, or nothing where this jaxlib refuses it."""
    option: dict[str, Any] = {"xla_cpu_prefer_vector_width": 512}
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=option)
    except Exception:  # what jaxlib raises for an option that it does not know has changed over the versions
        return {}
    return option


def program_bytes(program: Any) -> int | None:
    """Arguments, results and temporaries of a compiled program; None where the backend does not say."""
    analysis = program.memory_analysis()
    if analysis is None:
        return None
    arguments = analysis.argument_size_in_bytes - analysis.alias_size_in_bytes  # what is donated is reused
    return arguments + analysis.output_size_in_bytes + analysis.temp_size_in_bytes


def one_by_one(grid: Grid) -> bool:
    """Whether a device trains its runs one after another: a CPU's caches hold the data of one run, not of eight.

    Where the compiler splits the runs over devices it must see them all at once.
    """
    return jax.default_backend() == "cpu" and (grid.mesh is None or grid.strategy != "jit")


def each_run(function: Callable, axes: Any, grid: Grid) -> Callable:
    """vmap of `function` with in_axes=`axes`, or where runs go one by one the same by a loop in the program."""
    if not one_by_one(grid):
        return jax.vmap(function, in_axes=axes)

    def mapped(*args: Any) -> Any:
        def one(index: jax.Array) -> Any:
            def pick(axis: int | None, part: Any) -> Any:
                return part if axis is None else jax.tree.map(lambda leaf: leaf[index], part)

            return function(*jax.tree.map(pick, axes, args, is_leaf=lambda axis: axis is None))

        num_runs = jax.tree.leaves(args[0])[0].shape[0]
        return jax.lax.map(one, jnp.arange(num_runs))

    return mapped


def order_specs(order: Order | Batch, grid: Grid) -> Any:
    """How an order or a batch, [steps, B] or [R, steps, B], lies on the devices."""
    weight = grid.spec(None, BATCH)
    rest = grid.spec(SEEDS, None, BATCH) if np.ndim(order[-2]) == 3 else weight
    return jax.tree.unflatten(jax.tree.structure(order), [rest] * (len(order) - 1) + [weight])


def _axes(order: Order | Batch) -> Any:
    """The axes that are mapped over runs: none where all share the examples, and never the weight's, which is last."""
    rest = 0 if np.ndim(order[-2]) == 3 else None
    return jax.tree.unflatten(jax.tree.structure(order), [rest] * (len(order) - 1) + [None])
