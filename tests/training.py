"""Training as tests ask for it: one call with everything as a keyword, one flat result."""

import dataclasses
from collections import namedtuple

import numpy as np

from mnistlab.training import loop, trained
from mnistlab.training.callbacks import Callback, OnEpoch
from mnistlab.training.loop import Resources
from mnistlab.training.result import Record

FIELDS = ("config", "runs", "history", "metrics", "seconds", "epoch_seconds", "fingerprint", "state", "best", "whole")


class Flat(namedtuple("Flat", FIELDS)):
    """A Trained with the fields of its Result beside its weights."""


class OnSize(Callback):
    def __init__(self, function):
        self.on_size = function


def run(
    config, dataset, seeds=(0,), *, model=None, sweep=None, callbacks=(), on_epoch=None, on_size=None,
    **resources,
):  # fmt: skip
    if model is not None:
        config = dataclasses.replace(config, model=model)
    callbacks = [*callbacks, *([OnEpoch(on_epoch)] if on_epoch else []), *([OnSize(on_size)] if on_size else [])]
    return flat(loop.train(config, dataset, seeds, sweep=sweep, resources=Resources(**resources), callbacks=callbacks))


def flat(whole):
    return Flat(*(getattr(whole.result, name) for name in FIELDS[:7]), whole.state, whole.best, whole)


def select(result, numbers):
    return flat(trained.select(result.whole, numbers))


def history(result):
    return np.stack([result.history[name] for name in Record._fields])
