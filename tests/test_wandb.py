"""Weights & Biases: what is sent, by a stand-in for its package, and offline by the package itself if it is there."""

import importlib.util
import sys
import types

import numpy as np
import pytest

from mnistlab.comparison import run
from mnistlab.comparison.spec import Experiment, Options, Variant
from mnistlab.errors import UserError
from mnistlab.training.result import Run
from mnistlab.training.wandb import WeightsAndBiases

pytestmark = pytest.mark.usefixtures("undrawn_pages")

SMALL = Variant("dense", batch_size=50, num_epochs=2)


class Error(Exception):
    """wandb.Error."""


class Begun:
    """A run as the stand-in begins it."""

    def __init__(self, **given):
        self.given, self.logged, self.summary, self.finished = given, [], {}, False

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def stand_in(monkeypatch):
    """What was begun with a package that only notes it."""
    begun = []

    def init(**given):
        begun.append(Begun(**given))
        return begun[-1]

    module = types.SimpleNamespace(init=init, Error=Error)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return begun


@pytest.fixture
def experiment(dataset):
    return Experiment("of_two", controlled={"dense": SMALL}, data=dataset)


def options(folder, **more):
    return Options(folder, protocol="controlled", num_seeds=2, wandb=True, **more)


def test_every_epoch_of_every_seed_is_sent_and_the_final_metrics(stand_in, experiment, tmp_path):
    summary = run.run(experiment, options(tmp_path))
    assert [one.given["name"] for one in stand_in] == ["dense seed_0", "dense seed_1"]
    metrics = summary["variants"]["dense"]["metrics"]
    rows = (tmp_path / "history.csv").read_text().splitlines()[1:]
    for number, one in enumerate(stand_in):
        assert (one.given["project"], one.given["group"], one.given["job_type"]) == ("mnistlab", "of_two", "dense")
        assert one.given["config"]["seed"] == number and one.given["config"]["batch_size"] == 50
        own = [row.split(",") for row in rows if row.startswith(f"dense,{number},")]
        assert [step for step, _ in one.logged] == [1, 2] == [int(row[2]) for row in own]
        for (_, values), row in zip(one.logged, own, strict=True):
            assert values["val_accuracy"] == pytest.approx(float(row[6]), rel=1e-6)
        assert one.summary["test_accuracy"] == metrics["test_accuracy"]["values"][number]
        assert one.finished


def test_a_run_that_goes_on_is_the_same_run_there(stand_in, experiment, tmp_path):
    run.run(experiment, options(tmp_path))
    ids = [one.given["id"] for one in stand_in]
    run.run(experiment, options(tmp_path))  # nothing is trained
    assert len(stand_in) == 2
    run.run(experiment, options(tmp_path / "again"))
    others = [one.given["id"] for one in stand_in[2:]]
    assert len(set(ids + others)) == 4 and {one.given["resume"] for one in stand_in} == {"allow"}
    stopped = Options(tmp_path, protocol="controlled", num_seeds=3, wandb=True)  # gone on with, as after a stop
    run.run(experiment, stopped)
    assert stand_in[4].given["id"] == WeightsAndBiases(tmp_path, "", "dense", {})._of(Run(2, {})).given["id"]
    run.run(experiment, options(tmp_path, resume=False))
    assert not {one.given["id"] for one in stand_in[-2:]} & {*ids, *others}  # begun anew, there too


def test_what_is_not_finite_is_in_no_final_metric(stand_in, dataset, tmp_path):
    diverging = Variant("dense", batch_size=50, num_epochs=1, initial_scale=1e38)
    run.run(Experiment("nan", controlled={"dense": diverging}, data=dataset), options(tmp_path))
    assert np.isnan(stand_in[0].logged[0][1]["train_loss"])
    assert "test_accuracy" not in stand_in[0].summary


def test_without_the_package_and_without_a_login_it_ends_in_a_line(stand_in, experiment, monkeypatch, tmp_path):
    def refuse(**given):
        raise Error("api_key not configured (no-tty)\n call wandb.login")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(UserError, match=r"cannot begin a run: api_key not configured.*WANDB_MODE=offline"):
        run.run(experiment, options(tmp_path / "a"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="needs the package wandb"):
        run.run(experiment, options(tmp_path / "b"))
    assert not (tmp_path / "b").exists()


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_the_package_itself_keeps_all_of_it_offline(experiment, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run.run(experiment, options(tmp_path))
    kept = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(kept) == 2
    for path in kept:
        content = path.read_bytes()  # records whose names stand there as they are
        assert b"dense seed_" in content and b"test_accuracy" in content
        assert content.count(b"val_accuracy") >= 2  # an epoch each
