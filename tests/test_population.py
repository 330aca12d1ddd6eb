"""How many runs share a program."""

import pytest

from mnistlab.training import sizing
from mnistlab.training.result import Run


def test_populations_that_differ_have_different_names():
    names = {sizing.population_name([Run(0, {"learning_rate": rate})]) for rate in (0.12345678, 0.12345679)}
    assert len(names) == 2


@pytest.mark.parametrize(
    "num_runs, run_bytes, free_bytes, most, expected",
    [
        pytest.param(20, 0, None, None, 20, id="nothing limits"),
        pytest.param(8, 0, None, 8, 8, id="as many as there may be"),
        pytest.param(32, 0, None, 8, 8, id="four populations of eight"),
        pytest.param(10, 0, None, 8, 5, id="two of five, not eight and two"),
        pytest.param(9, 0, None, 8, 5, id="five and four"),
        pytest.param(8, 5_000, 22_000, 8, 3, id="0.7 * 22 / 5 = 3.08"),
        pytest.param(8, 5_000, 14_300, 8, 2, id="0.7 * 14.3 / 5 = 2.002"),
        pytest.param(7, 1_000, 6_000, None, 4, id="0.7 * 6 = 4.2: four and three"),
        pytest.param(8, 5_000, 100, 8, 1, id="not even one: try it"),
        pytest.param(8, 5_000, 0, 8, 1, id="no memory at all"),
        pytest.param(1, 1, 10**12, 8, 1, id="one run"),
    ],
)
def test_populations_fit_into_memory(num_runs, run_bytes, free_bytes, most, expected):
    assert sizing.fitting_size(num_runs, run_bytes, free_bytes, most) == expected


@pytest.mark.parametrize("num_devices", [2, 3, 4])
@pytest.mark.parametrize("most", [4, 8])
def test_no_other_multiple_of_the_devices_is_done_sooner(num_devices, most):
    def rounds(num_runs, size):
        total = 0
        for first in range(0, num_runs, size):
            members = min(size, num_runs - first)
            total += next(members // used for used in range(num_devices, 0, -1) if members % used == 0)
        return total

    for num_runs in range(num_devices, 40):
        size = sizing.fitting_size(num_runs, most=most, num_devices=num_devices)
        others = range(num_devices, min(most, num_runs) + 1, num_devices)
        assert size <= most and rounds(num_runs, size) <= min(rounds(num_runs, other) for other in others)


class Device:
    def __init__(self, platform, stats):
        self.platform, self.stats = platform, stats

    def memory_stats(self):
        return self.stats


def test_free_memory_is_what_the_device_or_else_the_host_says(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    3000 kB\n")
    assert sizing.free_memory(Device("gpu", {"bytes_limit": 1000, "bytes_in_use": 300}), meminfo) == 700
    assert sizing.free_memory(Device("cpu", None), meminfo) == 3000 * 1024
    assert sizing.free_memory(Device("tpu", None), meminfo) is None  # the host's memory is not its
    assert sizing.free_memory(Device("cpu", None), tmp_path / "missing") is None
    meminfo.write_text("MemTotal:       16000 kB\n")
    assert sizing.free_memory(Device("cpu", None), meminfo) is None


def test_seeds_with_gaps_have_names_of_their_own():
    groups = ((0, 1, 2, 5), (0, 2, 5), (0, 1, 5), (0, 5))
    assert len({sizing.population_name([Run(seed, {}) for seed in seeds]) for seeds in groups}) == len(groups)
    assert sizing.population_name([Run(seed, {}) for seed in (3, 4, 5)]) == "seeds_3-5"
