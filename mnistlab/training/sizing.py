"""How many runs share compiled programs (a population), and their names."""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from mnistlab.config import TrainConfig
from mnistlab.devices.mesh import num_cores_of
from mnistlab.files import sha256
from mnistlab.training.result import Run

MAX_CPU_POPULATION = 8  # a run costs no less in a larger one (measured: lenet5, dense and cnn A on 2 cores)
MEMORY_SHARE = 0.7  # of the memory that is free: the rest is for evaluation, checkpoints and the estimate's error


class PopulationSize(NamedTuple):
    """How many runs share a program, and why; None where it was not measured or cannot be known."""

    num_runs: int
    size: int
    run_bytes: int | None = None  # what one run of the epoch program takes
    free_bytes: int | None = None  # memory that was free for the population

    def text(self) -> str:
        """One line about it.

        >>> PopulationSize(20, 4, run_bytes=5 * 10**9, free_bytes=30 * 10**9).text()
        '4 of 20 runs share a program: 5,000 MB each, 30,000 MB free'
        """
        text = f"{self.size} of {self.num_runs} runs share a program"
        if self.run_bytes is None:
            return text
        free = "free memory unknown" if self.free_bytes is None else f"{self.free_bytes / 1e6:,.0f} MB free"
        return f"{text}: {max(1.0, self.run_bytes / 1e6):,.0f} MB each, {free}"


def make_runs(train_config: TrainConfig, seeds: Sequence[int], sweep: Mapping[str, Sequence[float]]) -> tuple[Run, ...]:
    """Every seed at every point of the grid that `sweep` spans, point by point."""
    fixed = {}
    if train_config.dropout_rate is not None:
        fixed["dropout_rate"] = train_config.dropout_rate
    if train_config.initial_scale != 1.0:
        fixed["initial_scale"] = train_config.initial_scale
    points = [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]
    return tuple(Run(int(seed), {**fixed, **point}) for point in points for seed in seeds)


def fitting_size(
    num_runs: int,
    run_bytes: int = 0,
    free_bytes: int | None = None,
    most: int | None = None,
    num_devices: int = 1,
) -> int:
    """How many of `num_runs` runs share a program: as many as fit into MEMORY_SHARE of `free_bytes`, at least 1.

    The populations are of one size where possible, since each size is compiled: 10 runs are 5 and 5, not 8 and 2. On
    several devices a size is a multiple of their number, and one that leaves them idle for less: 9 runs on two are 8
    and 1, not 6 and 3, of which one device would train all three.

    Args:
      free_bytes: None where it is not known, and then no limit.
      most: never more than this.
      num_devices: how many share the runs of a population.

    >>> fitting_size(20, run_bytes=100, free_bytes=1000), fitting_size(10, most=8)
    (7, 5)
    >>> [fitting_size(num_runs, most=8, num_devices=2) for num_runs in (7, 8, 9, 10, 13)]
    [6, 8, 8, 6, 6]
    """
    most = num_runs if most is None else min(num_runs, most)
    if free_bytes is not None and run_bytes > 0:
        most = min(most, int(MEMORY_SHARE * free_bytes / run_bytes))
    most = max(1, most)
    size = -(-num_runs // -(-num_runs // most))
    if size < num_devices:
        return size
    rounded_up = -(-size // num_devices) * num_devices
    balanced = rounded_up if rounded_up <= most else most // num_devices * num_devices
    sizes = [balanced, *range(most // num_devices * num_devices, 0, -num_devices)]
    return min(sizes, key=lambda size: _rounds(num_runs, size, num_devices))  # the first of equals


def _rounds(num_runs: int, size: int, num_devices: int) -> int:
    """How many runs one after another the busiest device trains, in populations of `size` and one of what is left."""
    whole, left = divmod(num_runs, size)
    return sum(count * runs // num_cores_of(runs, num_devices) for count, runs in ((whole, size), (1, left)))


def free_memory(device: jax.Device | None = None, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that are free for programs of `device` (default: this process's first), None where nothing says so.

    An accelerator's own statistics count; a CPU has the host's memory, of which Linux says what is available.
    """
    device = device or jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return max(0, stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return host_memory(meminfo) if device.platform == "cpu" else None


def host_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes of the host's memory that Linux calls available, None where it says nothing."""
    if not meminfo.exists():
        return None
    available = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    return int(available[1]) * 1024 if available else None


def population_name(runs: Sequence[Run]) -> str:
    """A folder name for a population; different populations have different names.

    >>> population_name([Run(0, {}), Run(1, {})])
    'seeds_0-1'
    """
    first, last = runs[0].seed, runs[-1].seed
    settings = [(member.seed, sorted(member.settings.items())) for member in runs if member.settings]
    seeds = [member.seed for member in runs]
    rest = settings or ([] if seeds == list(range(first, last + 1)) else seeds)
    return f"seeds_{first}-{last}" + (f"_{sha256(repr(rest).encode())[:12]}" if rest else "")
