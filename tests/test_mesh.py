"""Every strategy on several devices gives what one device gives. The oracle is the run on one device."""

import json
import os
from pathlib import Path

import forks
import jax
import pytest
import training
from flax import linen as nn

from mnistlab.config import OptimConfig, TrainConfig
from mnistlab.devices import mesh
from mnistlab.errors import UserError
from mnistlab.training import loop
from mnistlab.training.executables import Executables
from mnistlab.training.feed import Feed
from mnistlab.training.population import Population, Setup
from mnistlab.training.result import Run

ROOT = Path(__file__).parents[1]
EIGHT = {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",  # compiled in less time
    "JAX_PLATFORMS": "cpu",
}


@pytest.fixture(scope="module")
def rows():
    """Rows of tests/layouts.py: two seeds on 2 devices, one each, and on 8, four each: they do not divide 180."""
    done = forks.run("layouts", ["both", "2,8"], folder=ROOT / "tests", environ=os.environ | EIGHT)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("strategy", ["jit", "pmap", "shard_map", "cores"])
def test_many_devices_give_what_one_gives(rows, strategy):
    mine = [row for row in rows if row["strategy"] == strategy]
    assert [row["devices"] for row in mine] == [2, 8]
    for row in mine:
        # SGD: a gradient summed once too often is too long by the number of devices, which Adam would hide.
        assert row["gradient norm"] < 1e-6
        assert row["history"] < 1e-5 and row["metrics"] < 1e-5 and row["weights"] < 1e-5


def test_one_device_and_auto_is_the_plain_program():
    if jax.local_device_count() == 1:
        assert mesh.make_layout() is None
    grid = mesh.make_grid(None, 8)
    assert (grid.mesh, grid.axis_name, grid.round_up(7), grid.jit_options(None)) == (None, None, 7, {})
    assert grid.spread(len, (), ()) is len


@pytest.mark.parametrize(
    "strategy, num_devices, num_runs, shape",
    [
        ("jit", 8, 8, (8, 1)),
        ("jit", 8, 2, (2, 4)),
        ("jit", 8, 12, (4, 2)),
        ("shard_map", 8, 3, (1, 8)),
        ("pmap", 8, 16, (8, 1)),
        ("pmap", 8, 12, (1, 8)),
        ("jit", 1, 5, (1, 1)),
    ],
)
def test_seeds_are_spread_first(strategy, num_devices, num_runs, shape):
    layout = mesh.Layout(tuple(f"device {number}" for number in range(num_devices)), strategy)
    try:
        grid = mesh.make_grid(layout, num_runs)
    except TypeError:
        pytest.skip("this JAX makes meshes of real devices only")
    assert grid.mesh.devices.shape == shape
    assert grid.axis_name == (mesh.BATCH if shape[1] > 1 and strategy != "jit" else None)


@pytest.mark.parametrize("num_runs, num_devices", [(8, 4), (6, 3), (7, 1), (3, 3), (2, 2)])
def test_cores_take_whole_runs(num_runs, num_devices):
    layout = mesh.Layout(tuple(f"device {number}" for number in range(4)), "shard_map", cores=True)
    try:
        grid = mesh.make_grid(layout, num_runs)
    except TypeError:
        pytest.skip("this JAX makes meshes of real devices only")
    assert (grid.num_devices, grid.axis_name) == (num_devices, None)


@pytest.mark.parametrize("arguments", [(0, "auto"), (10_000, "auto"), (None, "quickly")])
def test_impossible_layouts_are_refused(arguments):
    with pytest.raises(UserError, match="expected"):
        mesh.make_layout(*arguments)


class Plain(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Dense(10)(image.reshape(len(image), -1))


def test_a_model_without_axis_name_cannot_be_split_by_hand(dataset):
    config = TrainConfig(Plain(), optimizer=OptimConfig("sgd", 0.1), batch_size=64, num_epochs=1)
    setup = Setup(config, dataset, loop.step_functions_of(config, dataset), Feed(dataset), None, Executables())
    with pytest.raises(UserError, match="axis_name"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh.Grid, "axis_name", mesh.BATCH)
        Population(setup, [Run(0, {})])


@pytest.mark.parametrize("strategy", ["jit", "pmap", "shard_map"])
def test_the_same_run_on_one_device_by_any_means(dataset, strategy):
    config = TrainConfig("plain", optimizer=OptimConfig("sgd", 0.1), batch_size=64, num_epochs=2)
    layout = mesh.make_layout(1, strategy)
    assert layout is not None
    got = training.run(config, dataset, (0, 1), model=Plain(), layout=layout)
    expected = training.run(config, dataset, (0, 1), model=Plain())
    for name, values in expected.history.items():
        assert abs(got.history[name] - values).max() < 1e-6
