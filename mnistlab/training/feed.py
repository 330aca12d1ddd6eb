"""The examples on their way to the devices: all at once, or in chunks of batches."""

import math
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from mnistlab.data import batches
from mnistlab.data.batches import Batch, Order, Pool
from mnistlab.data.datasets import Dataset
from mnistlab.devices import cluster
from mnistlab.devices.mesh import Grid
from mnistlab.training import sizing
from mnistlab.training.executables import order_specs

STREAM_MEGABYTES = 256  # on the devices at a time, where a dataset does not fit and no size is given

Chunk = tuple[Pool | None, Order | Batch]
"""Some steps of an order, and the pool that it means; or what it means, already as batches."""


class Feed:
    """Gives an order's examples in chunks; a dataset that fits is on the devices, and a chunk is all of the order."""

    def __init__(self, dataset: Dataset, stream_megabytes: int | None = None):
        self.images = [split.image for split in dataset.parts.values()]
        self.labels = [split.label for split in dataset.parts.values()]
        if stream_megabytes is None and cluster.agree(not fits(self.images)):
            stream_megabytes = STREAM_MEGABYTES
        self.stream_bytes = None if stream_megabytes is None else stream_megabytes * 10**6
        self.pool = batches.make_pool(dataset) if self.stream_bytes is None else None
        self.placed_pools: dict[Grid, Pool] = {}

    @property
    def pool_bytes(self) -> int:
        """What the dataset takes on each device."""
        return sum(leaf.nbytes for leaf in self.pool or ())

    def place(self, order: Order, grid: Grid) -> Order:
        """`order`, its batches padded at weight 0 to a size that the devices divide; on them unless it is streamed."""
        missing = grid.round_up(order.weight.shape[-1]) - order.weight.shape[-1]
        if missing:
            ends = [(0, 0)] * (order.example.ndim - 1) + [(0, missing)]
            order = Order(np.pad(order.example, ends, mode="edge"), np.pad(order.weight, ends[-2:]))
        return order if self.pool is None else grid.put(order, order_specs(order, grid))

    def chunks(self, order: Order, grid: Grid, num_steps: int | None = None) -> Iterator[Chunk]:
        """The examples of a placed `order`, [R, steps, B] or [steps, B], `num_steps` (None: all) or fewer at a time.

        Ask for the next one while the device works on the last. Streamed, two chunks fit into the budget. On
        one device a chunk is a pool and the order in it, so that the compiler sees what it sees of a resident pool, and
        the bits are the same. On several it is batches, of which each process reads what its devices need.
        """
        total = order.weight.shape[0]
        size = min(num_steps or total, self._most_steps(order, num_steps))
        for first in range(0, total, size):
            part = order
            if size < total:
                part = Order(order.example[..., first : first + size, :], order.weight[first : first + size])
            if self.pool is not None:
                yield self._pool_on(grid), part
            elif grid.mesh is None:
                pool = Pool(*(batches.read(arrays, part.example.ravel()) for arrays in (self.images, self.labels)))
                local = np.arange(part.example.size, dtype=np.int32).reshape(part.example.shape)
                yield jax.device_put(pool), Order(local, part.weight)
            else:
                yield None, self._batches(part, grid)

    def _most_steps(self, order: Order, num_steps: int | None) -> int:
        total = order.weight.shape[0]
        if self.stream_bytes is None:
            return total
        step_bytes = order.example.size // total * (_image_bytes(self.images[0]) + 12)
        return batches.chunk_steps(num_steps or total, step_bytes, self.stream_bytes)

    def _batches(self, order: Order, grid: Grid) -> Batch:
        specs = order_specs(order, grid)
        image, label = (
            grid.build(
                (*order.example.shape, *arrays[0].shape[1:]),
                specs.example,
                lambda index: batches.read(arrays, order.example[index[: order.example.ndim]]),  # noqa: B023
            )
            for arrays in (self.images, self.labels)
        )
        return Batch(image, label, grid.put(order.weight, specs.weight))

    def _pool_on(self, grid: Grid) -> Pool:
        if grid not in self.placed_pools:
            placed = jax.device_put(self.pool) if grid.mesh is None else grid.put(self.pool, P())
            self.placed_pools[grid] = placed
        return self.placed_pools[grid]


def fits(images: Sequence[np.ndarray]) -> bool:
    """Whether the pool leaves the larger part of the memory free; yes where nothing is known."""
    free_bytes = sizing.free_memory()
    return free_bytes is None or sum(len(array) * _image_bytes(array) for array in images) <= free_bytes / 2


def _image_bytes(images: np.ndarray) -> int:
    return math.prod(images.shape[1:]) * images.dtype.itemsize
