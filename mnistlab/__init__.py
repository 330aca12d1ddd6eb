"""Comparisons of small networks: trained with many seeds in one program, judged with intervals and paired tests.

    data = mnistlab.load("mnist")
    variants = {"a": Variant("lenet5"), "b": Variant("dense")}
    claims = [Claim("1", "a is more accurate", "test_accuracy", "a", ">", "b")]
    summary = mnistlab.compare(variants, data=data, claims=claims, seeds=8, workdir="results/mine")

What stands in __all__ is the public interface; what does not may change.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnistlab.analysis import stats as stats
    from mnistlab.analysis.claims import Claim as Claim
    from mnistlab.comparison.compare import compare as compare
    from mnistlab.comparison.loaded import load_net as load_net
    from mnistlab.comparison.loaded import predict as predict
    from mnistlab.comparison.saved import read_run as read_run
    from mnistlab.comparison.spec import Experiment as Experiment
    from mnistlab.comparison.spec import Options as Options
    from mnistlab.comparison.spec import Variant as Variant
    from mnistlab.config import AugmentConfig as AugmentConfig
    from mnistlab.config import OptimConfig as OptimConfig
    from mnistlab.config import TrainConfig as TrainConfig
    from mnistlab.data.datasets import load as load
    from mnistlab.data.own import from_arrays as from_arrays
    from mnistlab.data.own import from_folder as from_folder
    from mnistlab.data.photographs import to_mnist as to_mnist
    from mnistlab.training.loop import train as train

_PLACES = {
    "AugmentConfig": "config",
    "Claim": "analysis.claims",
    "Experiment": "comparison.spec",
    "OptimConfig": "config",
    "Options": "comparison.spec",
    "TrainConfig": "config",
    "Variant": "comparison.spec",
    "compare": "comparison.compare",
    "from_arrays": "data.own",
    "from_folder": "data.own",
    "load": "data.datasets",
    "load_net": "comparison.loaded",
    "predict": "comparison.loaded",
    "to_mnist": "data.photographs",
    "read_run": "comparison.saved",
    "train": "training.loop",
}
"""Where a name is defined; imported when it is first asked for, so that statistics need no JAX."""

__all__ = [*sorted(_PLACES), "stats"]

try:
    __version__ = version("mnistlab")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0"


def __getattr__(name: str) -> Any:
    if name == "stats":
        return importlib.import_module("mnistlab.analysis.stats")
    if name not in _PLACES:
        raise AttributeError(f"module 'mnistlab' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mnistlab.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
