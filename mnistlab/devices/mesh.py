"""Many devices: the one place for meshes, pmap and shard_map.

The mesh has two axes. "seeds" holds the runs of a population, which are independent of each other; remaining devices
split the "batch", over which gradients and batch statistics are summed.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mnistlab.errors import UserError

SEEDS, BATCH = "seeds", "batch"
STRATEGIES = ("auto", "jit", "pmap", "shard_map")


class Layout(NamedTuple):
    """Which devices train, and by which of JAX's means."""

    devices: tuple[jax.Device, ...]
    strategy: str  # jit (shardings, the compiler splits), pmap, shard_map (the step of one device, written out)
    cores: bool = False  # the devices are cores of one CPU: they take whole runs, or two of them the halves of a batch


def make_layout(num_devices: int | None = None, strategy: str = "auto") -> Layout | None:
    """The first `num_devices` devices of each process (None: all); None for one device and strategy auto: plain jit.

    With strategy auto, devices that JAX made of one CPU are its cores: a run is quicker on one of them than spread
    over several.

    Raises:
      UserError: an unknown strategy, more devices than there are, or pmap over several processes.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"parallel is {strategy!r}; expected one of {', '.join(STRATEGIES)}")
    local = jax.local_device_count()
    if num_devices is not None and not 1 <= num_devices <= local:
        raise UserError(
            f"devices is {num_devices}; expected 1 to {local}, what JAX finds here "
            "(XLA_FLAGS=--xla_force_host_platform_device_count=N makes N of a CPU)"
        )
    if strategy == "pmap" and jax.process_count() > 1:
        raise UserError("parallel is pmap; several processes take jit or shard_map")
    devices: list[jax.Device] = []
    for process in range(jax.process_count()):
        devices += [device for device in jax.devices() if device.process_index == process][:num_devices]
    if len(devices) == 1 and strategy == "auto":
        return None
    if strategy == "auto" and num_devices is None and jax.process_count() == 1 and devices[0].platform == "cpu":
        return Layout(tuple(devices), "shard_map", cores=True)
    return Layout(tuple(devices), "jit" if strategy == "auto" else strategy)


class Grid(NamedTuple):
    """A layout's mesh for a population; without a mesh everything stays on one device, as it is."""

    mesh: Mesh | None = None
    strategy: str = "jit"

    @property
    def num_devices(self) -> int:
        """Devices that the population is spread over."""
        return self._size(SEEDS) * self._size(BATCH)

    @property
    def takes_all_cores(self) -> bool:
        """Whether every device that JAX made of this CPU has work of its own, and no core is left to help another."""
        return (
            self.mesh is not None
            and self.num_devices == jax.local_device_count() > 1
            and self.mesh.devices.flat[0].platform == "cpu"
        )

    @property
    def axis_name(self) -> str | None:
        """The axis over which a step of one device must sum; None where each device sees whole batches."""
        return BATCH if self.strategy != "jit" and self._size(BATCH) > 1 else None

    def spec(self, *axes: str | None) -> P:
        """The PartitionSpec of these axes; an axis of one device is left out."""
        return P(*(axis if axis == SEEDS or (axis and self._size(axis) > 1) else None for axis in axes))

    def round_up(self, size: int) -> int:
        """The smallest batch of at least `size` that the devices of the batch axis divide."""
        return -(-size // self._size(BATCH)) * self._size(BATCH)

    def put(self, tree: Any, specs: Any) -> Any:
        """`tree` laid over the devices; `specs` is a PartitionSpec, or a tree of them with subtrees of `tree` below."""
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda spec, part: self._put_part(part, spec), specs, tree, is_leaf=_is_spec)

    def build(self, shape: tuple[int, ...], spec: P, read: Callable[[Any], np.ndarray]) -> jax.Array:
        """An array over the mesh, read(index) a part of it; a process reads those of its own devices, each once."""
        assert self.mesh is not None
        parts: dict[str, np.ndarray] = {}  # devices that hold the same part

        def read_once(index: Any) -> np.ndarray:
            if str(index) not in parts:
                parts[str(index)] = read(index)
            return parts[str(index)]

        return jax.make_array_from_callback(shape, NamedSharding(self.mesh, spec), read_once)

    def spread(self, function: Callable, in_specs: Any, out_specs: Any) -> Callable:
        """`function` over the devices, to be compiled by `jit`: itself where the compiler splits it."""
        if self.mesh is None or self.strategy == "jit":
            return function
        if self.strategy == "pmap":
            return _pmap(function, self.mesh, in_specs, out_specs)
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs)

    def jit_options(self, out_specs: Any) -> dict[str, Any]:
        """What `jit` must be told for results to lie as `out_specs` say."""
        if self.mesh is None:
            return {}
        mesh = self.mesh
        return {"out_shardings": jax.tree.map(lambda spec: NamedSharding(mesh, spec), out_specs, is_leaf=_is_spec)}

    def _size(self, axis: str) -> int:
        return 1 if self.mesh is None else self.mesh.shape[axis]

    def gather(self, tree: Any) -> Any:
        """`tree` such that this process can read all of it; every process must call it."""
        if self.mesh is None or jax.process_count() == 1:
            return tree
        return jax.jit(lambda leaves: leaves, out_shardings=NamedSharding(self.mesh, P()))(tree)

    def _put_part(self, part: Any, spec: P) -> Any:
        assert self.mesh is not None
        sharding = NamedSharding(self.mesh, spec)
        if jax.process_count() == 1:
            return jax.device_put(part, sharding)
        return jax.tree.map(lambda leaf: _put_global(leaf, sharding), part)


def make_grid(layout: Layout | None, num_runs: int, halves: bool = False) -> Grid:
    """The grid for a population: as many devices on the seeds axis as divide the runs, the rest on the batch axis.

    pmap maps one axis: the seeds where all devices find runs, else the batch. Cores that find no run stay idle, but
    where there are two for each run and `halves`, each takes one half of every batch.
    """
    if layout is None:
        return Grid()
    num_devices = len(layout.devices)
    if layout.cores:
        num_seeds = num_cores_of(num_runs, num_devices)
        num_devices = 2 * num_seeds if halves and 2 * num_seeds <= num_devices else num_seeds
        if num_devices == 1:
            return Grid()
        layout = layout._replace(devices=layout.devices[:num_devices])
    else:
        num_seeds = math.gcd(num_devices, num_runs)
    if layout.strategy == "pmap" and num_seeds < num_devices:
        num_seeds = 1
    devices = np.array(layout.devices, object).reshape(num_seeds, -1)
    return Grid(Mesh(devices, (SEEDS, BATCH), axis_types=(AxisType.Auto,) * 2), layout.strategy)


def num_cores_of(num_runs: int, num_cores: int) -> int:
    """How many cores take whole runs of a population: as many as divide it.

    >>> num_cores_of(6, 4), num_cores_of(3, 2)
    (3, 1)
    """
    return max(number for number in range(1, num_cores + 1) if num_runs % number == 0)


def _put_global(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """An array over the devices of all processes, each of which holds the whole `leaf`."""
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _pmap(function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable:
    """pmap of `function` over the mesh's one axis that is mapped; arguments and results keep their shapes."""
    axis = BATCH if mesh.shape[BATCH] > 1 else SEEDS
    size = mesh.shape[axis]

    def dimension(spec: P) -> int | None:
        return spec.index(axis) if axis in spec else None

    def dimensions(specs: Any) -> Any:
        return jax.tree.map(dimension, specs, is_leaf=_is_spec)

    def split(spec: P, leaf: Any) -> Any:
        at = dimension(spec)
        return leaf if at is None else leaf.reshape(*leaf.shape[:at], size, -1, *leaf.shape[at + 1 :])

    def join(spec: P, leaf: Any) -> Any:
        at = dimension(spec)
        return leaf if at is None else leaf.reshape(*leaf.shape[:at], -1, *leaf.shape[at + 2 :])

    def mapped(*args: Any) -> Any:
        parts = _map(split, in_specs, args)
        call = jax.pmap(
            function,
            axis_name=axis,
            in_axes=dimensions(in_specs),
            out_axes=dimensions(out_specs),
            devices=list(mesh.devices.flat),
        )
        return _map(join, out_specs, call(*parts))

    return mapped


def _map(function: Callable, specs: Any, tree: Any) -> Any:
    """function(spec, leaf) for every leaf of `tree`, of which `specs` is a prefix."""
    return jax.tree.map(
        lambda spec, part: jax.tree.map(lambda leaf: function(spec, leaf), part), specs, tree, is_leaf=_is_spec
    )


def _is_spec(value: Any) -> bool:
    return isinstance(value, P)
