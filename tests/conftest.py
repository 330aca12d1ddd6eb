"""What all tests share: a small dataset, no silent broadcasting across ranks, one cache of data and of programs."""

import os
from pathlib import Path

import forks
import jax
import little
import pytest
import undrawn
from absl import flags
from layouts import synthetic

import mnistlab
from experiments import common, power
from mnistlab.analysis import looks

ROOT = Path(__file__).parents[1]
collect_ignore = ["contract.py"]  # a script, which trains when it is read


LONGEST = (
    "test_experiments",
    "test_readme",
    "test_stats",
    "test_distributed",
    "test_interruption",
    "test_until",
    "test_notebooks",
    "test_docs",
    "test_browser",
    "test_train",
    "test_golden",
)
"""They begin first, so that no worker is left alone with one of them at the end."""


def pytest_collection_modifyitems(items):
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))  # stable


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """With REQUIRE_PEERS set, a test marked `peers` that is skipped has failed: nothing was compared."""
    report = yield
    if report.skipped and os.environ.get("REQUIRE_PEERS") and item.get_closest_marker("peers"):
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_PEERS is set, but this was skipped: {report.longrepr[-1]}"
    return report


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory):
    """What $XDG_CACHE_HOME names in this session, for all its workers: data are prepared and programs compiled once.

    It is new in each session, and nobody's own cache is read or written.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared_cache"
    folder.mkdir(exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))  # of scripts that use the library
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield folder


@pytest.fixture(scope="session", autouse=True)
def rank_promotion():
    """Broadcasting across ranks, (N, K) with (K,), may hide a mistake: it is an error in every test."""
    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def dataset():
    return synthetic()


@pytest.fixture(scope="session")
def little_flags(tmp_path_factory):
    """The flags that ask for little images, which one prepares in no time."""
    folder = tmp_path_factory.mktemp("little")
    little.Little(data_dir=folder).download_and_prepare(file_format="array_record")
    return "--dataset=little", f"--data_dir={folder}"


@pytest.fixture(scope="module")
def undrawn_pages():
    """Runs in this process leave empty pictures."""
    with pytest.MonkeyPatch.context() as patch:
        undrawn.apply(patch.setattr)
        yield


@pytest.fixture(scope="module")
def near_sighted():
    """How many further pairs a claim takes is looked for among few: no number is asked for, and many take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looks, "FURTHEST", 16)
        patch.setattr(power, "MOST_PAIRS", 32)
        yield


@pytest.fixture(scope="module")
def quick_compiling():
    """Programs are compiled without most optimisations: for what is computed once and compared within a tolerance."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory, shared_cache):
    """Where processes that are killed have their programs, one of which may be half written, and the session's data."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "mnistlab").mkdir()
    (folder / "mnistlab" / "datasets").symlink_to(shared_cache / "mnistlab" / "datasets")
    mnistlab.load("mnist")
    return folder


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
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(cache), "XDG_CACHE_HOME": str(cache)}

    def start(*arguments: str) -> forks.Started:
        started.append(
            forks.start("experiments.lenet_vs_dense", arguments, folder=ROOT, environ=environ, pictures=False)
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
