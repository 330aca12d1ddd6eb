"""What all tests share: a small dataset, no silent broadcasting across ranks, one cache of compiled programs."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl import flags
from layouts import synthetic

from experiments import common

ROOT = Path(__file__).parents[1]
collect_ignore = ["contract.py"]  # a script, which trains when it is read


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """With REQUIRE_PEERS set, a test marked `peers` that is skipped has failed: nothing was compared."""
    report = yield
    if report.skipped and os.environ.get("REQUIRE_PEERS") and item.get_closest_marker("peers"):
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_PEERS is set, but this was skipped: {report.longrepr[-1]}"
    return report


@pytest.fixture(scope="session", autouse=True)
def compile_cache(tmp_path_factory):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(scope="session", autouse=True)
def rank_promotion():
    """Broadcasting across ranks, (N, K) with (K,), may hide a mistake: it is an error in every test."""
    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def dataset():
    return synthetic()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the processes of a test's module have their data and programs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def training_flags():
    """The names of the flags of a training experiment, which are defined in this process."""
    before = set(flags.FLAGS)
    common.define_run_flags()
    common.define_training_flags()
    names = sorted(set(flags.FLAGS) - before)
    yield names
    for name in names:
        delattr(flags.FLAGS, name)


@pytest.fixture(scope="module")
def start_main(cache):
    """Starts `python -m experiments.lenet_vs_dense` with its data and programs in `cache`."""
    started = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.lenet_vs_dense", *arguments],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "HOME": str(cache), "XDG_CACHE_HOME": str(cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
