"""The benchmark compares like with like: every peer's network is ours, from the same weights."""

import gzip
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import traverse_util

from experiments.bench import __main__ as bench_main
from experiments.bench import limits, measure, noise, processes, profile, ratios, results, tuning, workloads
from experiments.bench.peers import handover, mnistlab_epoch, worker
from experiments.bench.peers import job as jobs
from mnistlab import sealed
from mnistlab.comparison import workdirs
from mnistlab.config import TrainConfig
from mnistlab.errors import UserError
from mnistlab.nets import models
from mnistlab.training import loop

NETWORKS = {  # between them every kind of layer
    "adadelta": workloads.WORKLOADS["lenet5_adadelta_128"],
    "batchnorm": workloads.WORKLOADS["lenet5_relu_batchnorm_128"],
    "inception": workloads.WORKLOADS["cnn_e_32"],
}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """For whoever times rounds; here nothing is timed."""
    monkeypatch.setattr(processes, "PAUSE_SECONDS", 0.0)


def call(function, *args):
    """`function(*args)` in one program that is compiled quickly."""
    return jax.jit(function).lower(*args).compile(compiler_options={"xla_backend_optimization_level": 0})(*args)


@pytest.fixture(params=NETWORKS, scope="module")
def network(request, dataset, tmp_path_factory):
    """(job, images float32 [4, 28, 28, 1], the parameters, our logits)."""
    workload = NETWORKS[request.param]
    job = workloads.write_job(workload, dataset, 1, tmp_path_factory.mktemp("job"))
    image = np.asarray(dataset.test.image[:4], np.float32) / 255
    model = models.make_model(workload.model)
    params = traverse_util.unflatten_dict(job.params(), sep="/")

    def logits(params, image):
        rest = {name: tree for name, tree in model.init(jax.random.key(0), image).items() if name != "params"}
        return model.apply({**rest, "params": params}, image)

    return job, image, params, np.asarray(call(logits, params, image))


def test_plain_flax_is_our_network(network):
    from experiments.bench.peers import plain_flax

    job, image, params, logits = network
    model = plain_flax.Plain(tuple(job.layers))

    def plain_logits(params, image):
        rest = {name: tree for name, tree in model.init(jax.random.key(0), image, False).items() if name != "params"}
        return model.apply({**rest, "params": params}, image, train=False)

    np.testing.assert_allclose(call(plain_logits, params, image), logits, atol=2e-5)


@pytest.mark.peers
def test_pytorch_is_our_network(network):
    torch = pytest.importorskip("torch")
    from experiments.bench.peers import pytorch

    job, image, _, logits = network
    with torch.no_grad():
        got = pytorch.build(job).eval()(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(got.numpy(), logits, atol=2e-5)


@pytest.mark.peers
def test_keras_is_our_network(network):
    pytest.importorskip("tensorflow")
    pytest.importorskip("keras")
    from experiments.bench.peers import keras_tensorflow

    job, image, _, logits = network
    np.testing.assert_allclose(keras_tensorflow.build(job)(image, training=False).numpy(), logits, atol=2e-5)


def test_jobs_come_back_as_they_were_written(network, tmp_path):
    job = network[0]
    jobs.write(job, tmp_path / "job.json")
    again = jobs.read(tmp_path / "job.json")
    assert again._replace(layers=[]) == job._replace(layers=[])
    assert json.dumps(again.layers) == json.dumps(job.layers)


def test_peers_take_turns_and_learn_the_same(dataset, tmp_path):
    workload = workloads.WORKLOADS["dense_256"]._replace(batch_size=50)
    job = workloads.write_job(workload, dataset, workloads.steps_of_round(workload, 0.05), tmp_path)
    peers = {"mnistlab": ("mnistlab",), "flax": ("flax_step", "flax_scan")}
    measured, machine = measure.by_turns(workload, job, peers, 2)
    assert list(measured) == ["mnistlab", "flax"] and list(machine) == list(limits.cores())
    for one in machine.values():  # a machine that is worth a benchmark, and none that was ever built
        assert one.gflops.shape == (2,) and (one.gflops > 1).all() and (one.gflops < 1e6).all()
        assert (one.gigabytes_per_second > 0.1).all() and (one.gigabytes_per_second < 1e5).all()
    for one in measured.values():
        assert one.seconds.shape == (2,) and (one.seconds > 0).all() and one.peak_bytes > 50e6
    assert measured["mnistlab"].first_loss == pytest.approx(measured["flax"].first_loss, rel=1e-5)
    flax = measured["flax"]
    assert list(flax.tried) == ["flax_step", "flax_scan"] and flax.tried[flax.setting] == min(flax.tried.values())


def whole_epochs(peers, dataset, folder):
    """Two epochs of each peer as a user has them; all learn nearly the same, in orders of their own."""
    workload = workloads.Workload("dense", 20, whole_epochs=True)
    job = workloads.write_job(workload, dataset, 1, folder)
    for name in peers:
        with processes.start(name, job) as peer:
            first, second = peer.round(), peer.round()
        assert second["seconds"] > 0 and np.isfinite(first["loss"])
        yield name, first["loss"]


def test_whole_epochs_are_those_of_train(dataset, tmp_path):
    losses = dict(whole_epochs(["mnistlab", "flax_scan", "flax_step"], dataset, tmp_path))
    config = TrainConfig("dense", batch_size=20, num_epochs=1, split="test_is_validation")
    trained = loop.train(config, dataset, [0])
    assert losses["mnistlab"] == pytest.approx(trained.result.history["train_loss"][0, 0], rel=1e-5)
    assert losses["flax_scan"] == losses["flax_step"] == pytest.approx(losses["mnistlab"], rel=0.15)


def test_whole_epochs_of_a_population_train_all_that_they_are_divided_by(dataset, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(loop, "train", lambda *args, resources, **rest: asked.append(resources))
    workload = workloads.WORKLOADS["dense_256"]._replace(batch_size=20, whole_epochs=True)
    job = workloads.write_job(workload, dataset, 1, tmp_path)._replace(num_seeds=16)
    with pytest.raises(RuntimeError, match="the training has ended"):
        mnistlab_epoch.prepare(job, "mnistlab_16_seeds")(job.order())
    assert asked[0].population_size == 16 and job.platform == jax.default_backend()


@pytest.mark.peers
def test_whole_epochs_of_other_frameworks(dataset, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("keras")
    names = ["mnistlab", "pytorch", "pytorch_ordered", "keras_tensorflow"]
    losses = dict(whole_epochs(names, dataset, tmp_path))
    for loss in losses.values():
        assert loss == pytest.approx(losses["mnistlab"], rel=0.15), losses
    assert len(list(tmp_path.glob("keras_*.weights.h5"))) == 1  # what Keras kept


def test_a_loop_of_others_is_run_an_epoch_at_a_time():
    seen = []

    def train(after_epoch):
        for number in range(2):
            seen.append(number)
            after_epoch(0.5**number)
        raise ValueError("out of memory")

    epochs = handover.Epochs(train)
    assert not seen  # before it is asked nothing is trained
    assert epochs(None) == 1.0 and seen == [0]
    assert epochs(None) == 0.5 and seen == [0, 1]
    with pytest.raises(ValueError, match="out of memory"):
        epochs(None)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("workload", "tolerance"),
    [
        (workloads.Workload("lenet5", 50), 1e-5),
        (workloads.Workload("lenet5_relu_batchnorm", 50, "adadelta"), 1e-5),
        (workloads.Workload("cnn_c", 50, "rmsprop"), 1e-5),
    ],
    ids=lambda value: getattr(value, "optimizer", ""),
)
def test_peers_of_other_frameworks_learn_the_same(workload, tolerance, dataset, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("keras")
    peers = ["mnistlab", "pytorch", "keras_tensorflow"]
    if workload.optimizer == "adam":
        peers.append("pytorch_compiled")
        if shutil.which("g++") is None:
            pytest.skip("PyTorch compiles with g++, which is not installed")
    job = workloads.write_job(workload, dataset, workloads.steps_of_round(workload, 1.0), tmp_path)
    measured, _ = measure.by_turns(workload, job, {name: (name,) for name in peers}, 1)
    losses = {name: one.first_loss for name, one in measured.items()}
    for loss in losses.values():
        assert loss == pytest.approx(losses["mnistlab"], rel=tolerance), losses


def test_a_peer_that_learns_something_else_is_refused():
    measure.check_losses({"mnistlab": 1.0, "pytorch": 1.01, "flax_scan_8_seeds": 3.0})
    with pytest.raises(UserError, match="the same work"):
        measure.check_losses({"mnistlab": 1.0, "pytorch": 1.03})
    with pytest.raises(UserError, match="the same work"):
        measure.check_losses({"mnistlab": 1.0, "pytorch": float("nan")})


def test_a_peer_that_fails_is_named(dataset, tmp_path):
    job = workloads.write_job(workloads.WORKLOADS["dense_256"], dataset, 1, tmp_path)
    with pytest.raises(UserError, match=r"flax_scan failed: KeyError.*nobody"):
        processes.start("flax_scan", job._replace(optimizer="nobody's"))


def test_operations_are_counted_as_by_hand():
    # LeNet-5: convolutions 28*28*25*6 and 10*10*150*16, dense 400*120, 120*84, 84*10 multiply-adds.
    forward = 117_600 + 240_000 + 48_000 + 10_080 + 840
    assert workloads.flops_per_example("lenet5") == 2 * (3 * forward - 117_600) == 2_263_920
    # A whole epoch of dense at batch 256: 234 steps, and the forward pass of 10,000 images.
    whole = workloads.workload_of("whole_epochs_dense_256")
    assert workloads.operations(whole) == 234 * 256 * 2 * (3 * 101_632 - 100_352) + 10_000 * 2 * 101_632
    # A 1x1 convolution and the block's parts count too: the first of E's blocks on 7x7 pixels of 16 channels.
    block = 49 * 16 * (8 + 12 + 2 + 4) + 49 * 9 * 12 * 16 + 49 * 25 * 2 * 4
    assert block == 49 * 416 + 49 * 1728 + 49 * 200


def measured(*seconds):
    return measure.Measured("one", np.array(seconds), 1.0, 0.0, 0.0, 0)


def machine(*product_seconds, gigabytes=10.0):
    rates = limits.PRODUCT_OPERATIONS / np.array(product_seconds) / 1e9
    return {"all": limits.Limits(rates, np.full(len(rates), gigabytes))}


def test_a_reference_that_was_changed_or_has_none_of_the_workloads_is_refused(tmp_path, monkeypatch):
    kept = sealed.write(tmp_path / "summary.json", {"ratios": {"dense_256": {"flax": 0.5}}})
    assert bench_main._read_reference(tmp_path / "summary.json") == kept["ratios"]
    (tmp_path / "summary.json").write_text(json.dumps(kept).replace("0.5", "0.9"))
    with pytest.raises(UserError, match="changed after it was written"):
        bench_main._read_reference(tmp_path / "summary.json")
    monkeypatch.setattr(bench_main, "FLAGS", SimpleNamespace(against="r.json", tolerance=1.3))
    with pytest.raises(UserError, match="nothing was compared"):
        bench_main._compare({"lenet5_64": {"flax": 0.5}}, {"dense_256": {"flax": 0.5}})


def test_ratios_are_to_peers_and_to_the_product():
    found = {
        "a": {
            "mnistlab": measured(1.9, 2.1, 2.0),
            "pytorch": measured(4.0, 4.0, 4.0),
            "mnistlab_8_seeds": measured(1.0, 1.0, 1.0),
        }
    }
    got = ratios.ratios(found, {"a": machine(0.5, 0.5, 0.5)}, 0.15)
    assert got["a: mnistlab"] == pytest.approx({"pytorch": 0.5, "matrix product": 4.0})
    assert got["a: mnistlab_8_seeds"] == pytest.approx({"pytorch": 0.25, "matrix product": 2.0})


def test_where_rounds_disagree_no_ratio_is_said():
    # Quartiles of 1, 2, 3 are 1.5 and 2.5: they disagree by a half; of 9, 10, 11 by a tenth.
    assert noise.spread(np.array([3.0, 1.0, 2.0])) == 0.5
    assert noise.spread(np.array([9.0, 10.0, 11.0])) == pytest.approx(0.1)
    calm, wild = (9.0, 10.0, 11.0), (1.0, 2.0, 3.0)
    for ours, theirs, product in ((wild, calm, calm), (calm, wild, calm), (calm, calm, wild), ((10.0,), calm, calm)):
        found = {"a": {"mnistlab": measured(*ours), "pytorch": measured(*theirs)}}
        assert "pytorch" not in ratios.ratios(found, {"a": machine(*product)}, 0.15)["a: mnistlab"]
    found = {"dense_256": {"mnistlab": measured(*wild), "pytorch": measured(*calm)}}
    shown = results.table("dense_256", found["dense_256"], machine(*calm), 100.0, 0.15)
    assert [row[3] for row in shown.rows] == ["noisy", "1.00"]
    assert results.table("dense_256", found["dense_256"], machine(*calm), 100.0, 0.6).rows[0][3] == "0.20"


def test_a_row_says_its_share_of_the_bound():
    # dense at batch 256: 59,904 examples of 2 * (3 * 101,632 - 100,352) operations, 24.5 GFLOP an epoch.
    gflop = 59_904 * 2 * (3 * 101_632 - 100_352) / 1e9
    assert results.share_of_bound("dense_256", measured(0.5, 0.5), peak=100.0) == pytest.approx(gflop / 100 / 0.5)
    row = results.table("dense_256", {"mnistlab": measured(0.5, 0.5)}, machine(1.0, 1.0), 100.0, 0.15).rows[0]
    assert row[4] == "49.0 %"


class FakePeer:
    """A peer that takes the seconds that it is told, and says what happens to it."""

    def __init__(self, name, seconds):
        self.name, self.seconds, self.ended = name, seconds, False

    def round(self):
        if self.seconds is None:
            raise UserError(f"{self.name} failed: no such option")
        return {"first_seconds": 9.0, "seconds": self.seconds}

    def end(self):
        self.ended = True


def test_the_best_setting_stays():
    clock = {"eager": 3.0, "ordered": None, "one_thread": 1.0, "channels_last": 2.0}
    started, said = [], []

    def start(name):
        assert sum(not peer.ended and peer.seconds is not None for peer in started) <= 1, "two would disturb each other"
        started.append(FakePeer(name, clock[name]))
        return started[-1]

    best = tuning.best_of(list(clock), start, said.append)
    assert best.peer.name == "one_thread" and best.first_round["seconds"] == 1.0
    assert [peer.name for peer in started if not peer.ended and peer.seconds] == ["one_thread"]
    assert {name: None if np.isnan(value) else value for name, value in best.tried.items()} == clock
    assert said == ["left out: ordered failed: no such option"]
    with pytest.raises(UserError, match="ordered failed"):
        tuning.best_of(["ordered", "ordered"], lambda name: FakePeer(name, None), said.append)


def test_settings_are_tried_where_they_differ():
    cpu, core, gpu = (False, 2), (False, 1), (True, 16)
    assert "pytorch_ordered_channels_last_one_thread" in tuning.settings("pytorch", True, *cpu)
    assert not [name for name in tuning.settings("pytorch", False, *cpu) if "channels_last" in name]
    assert not [name for name in tuning.settings("pytorch_compiled", True, *core) if "one_thread" in name]
    assert "pytorch_compiled_graphs_ordered" in tuning.settings("pytorch_compiled", True, *gpu)
    assert "pytorch_compiled_graphs_ordered" not in tuning.settings("pytorch_compiled", True, *cpu)
    assert tuning.settings("keras_tensorflow", True, *gpu) == ("keras_tensorflow", "keras_tensorflow_nojit")
    assert tuning.settings("pytorch_one_thread", True, *core) == ("pytorch_one_thread",)  # as it was asked for
    known = {*worker.PEERS}
    assert known.issuperset(name for family in tuning.FAMILIES.values() for name in family)


PROGRAM = """HloModule jit_fit

%inside.1 (a: f32[8,8], b: f32[8,8]) -> f32[8,8] {
  %a = f32[8,8]{1,0} parameter(0)
  ROOT %dot.1 = f32[8,8]{1,0} dot(%a, %b), metadata={op_name="jit(fit)/while/body/jvp(Network)/conv_1/dot_general"}
}

%window (a: f32[8]) -> f32[8] {
  ROOT %reduce-window.1 = f32[8]{0} reduce-window(%a), window={size=2}
}

ENTRY %main (p: f32[8,8]) -> (f32[8,8], s32[]) {
  %tanh.2 = f32[8,8]{1,0} fusion(%p), calls=%other, metadata={op_name="jit(fit)/while/body/jvp(Network)/conv_1/tanh"}
  %fusion.3 = f32[8,8]{1,0} fusion(%tanh.2), kind=kLoop, calls=%inside.1
  %fusion.4 = (f32[8,8]{1,0}, s32[]) fusion(%p), calls=%inside.1, metadata={op_name="transpose(jvp(Network))/conv_1/x"}
  %windows = f32[8]{0} fusion(%p), calls=%window
  ROOT %while.5 = (f32[8,8], s32[]) while(%fusion.4), metadata={op_name="jit(fit)/while"}
}
"""


def test_a_profile_says_what_two_steps_spent(tmp_path):
    def event(name, start, duration):
        args = {"hlo_op": name, "hlo_module": "jit_fit"}
        return {"name": name, "ts": start, "dur": duration, "args": args}

    # Two steps from 0 to 10,000 microseconds: the loop is around all, and what is no operation does not count.
    events = [event("while.5", 0.0, 10_000.0), {"name": "python", "ts": 0, "dur": 99_999.0, "args": {}}]
    for start in (0.0, 5000.0):
        events += [event("tanh.2", start, 1000.0), event("fusion.3", start + 1000, 2000.0)]
        events += [event("fusion.4", start + 3000, 1500.0), event("windows", start + 4500, 100.0)]
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "module_0001.jit_fit.cpu_after_optimizations.txt").write_text(PROGRAM)
    with gzip.open(tmp_path / "vm.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": events}, file)
    got = profile.read(tmp_path, ["conv_1"], num_steps=2)
    assert got.spent == [
        ("conv_1", "forward", "product", pytest.approx(2.0)),
        ("conv_1", "backward", "product", pytest.approx(1.5)),
        ("conv_1", "forward", "tanh", pytest.approx(1.0)),
        ("", "update and the rest", "reduce-window", pytest.approx(0.1)),
    ]
    assert got.step_milliseconds == pytest.approx(5.0) and got.total == pytest.approx(4.6)
    assert got.by_layer()["conv_1", "forward"] == pytest.approx(3.0)
    layers, operations = results.profile_tables("lenet5_256", got)
    assert layers.rows[0] == ("conv_1", "forward", "3.00", "65.2 %") and operations.rows[0][0] == "product"


def test_a_profile_of_a_real_step_names_its_layers(dataset, tmp_path):
    job = workloads.write_job(workloads.Workload("dense", 20), dataset, 3, tmp_path)
    got = profile.measure(job)
    products = {one.layer for one in got.spent if one.operation == "product" and one.milliseconds > 0}
    assert products == {"dense_1", "dense_2"}
    assert {one.direction for one in got.spent} == {profile.FORWARD, profile.BACKWARD, profile.REST}
    assert 0 < got.total < 1000


def test_what_is_left_says_all_that_was_found(tmp_path, monkeypatch):
    monkeypatch.setattr(results.common, "command", lambda: "python -m experiments.bench")
    tried = {"pytorch": 3.0, "pytorch_ordered": 2.0, "pytorch_ordered_one_thread": float("nan")}
    theirs = measured(2.0, 2.0, 2.0)._replace(setting="pytorch_ordered", tried=tried)
    product = limits.PRODUCT_OPERATIONS / 1e9 / 200.0  # seconds at 200 GFLOP/s
    found = results.Findings(
        measured={
            "dense_256": {"mnistlab": measured(1.0, 1.0, 1.0), "pytorch": theirs},
            "dense_64": {"mnistlab": measured(1.0, 2.0, 3.0), "pytorch": measured(2.0, 2.0, 2.0)},
        },
        limits={"dense_256": machine(*[product] * 3), "dense_64": machine(*[2 * product] * 3, gigabytes=12.0)},
        profiles={"dense_256": profile.Profile([profile.Spent("dense_1", "forward", "product", 2.0)], 3.0)},
        start={},
        missing={"keras_tensorflow": "tensorflow is not installed (pip install -e .[bench])"},
        num_rounds=3,
        round_gflop=1.0,
        most_noise=0.15,
    )
    with workdirs.made_anew(tmp_path, "bench"):
        results.write(tmp_path, found)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["ratios"]["dense_256: mnistlab"]["pytorch"] == 0.5
    assert summary["ratios"]["dense_64: mnistlab"] == {}  # noisy, but the seconds are kept
    assert summary["variants"]["dense_64: mnistlab"]["metrics"]["epoch_seconds"]["values"] == [1.0, 2.0, 3.0]
    assert summary["limits"] == {"all": {"gflops": pytest.approx(200.0), "gigabytes_per_second": 12.0}}
    row = summary["variants"]["dense_256: pytorch"]
    assert row["setting"] == "pytorch_ordered" and row["tried_seconds"]["pytorch_ordered_one_thread"] is None
    assert row["share_of_bound"] == pytest.approx(workloads.operations(workloads.workload_of("dense_256")) / 400e9)
    assert summary["profiles"]["dense_256"]["spent"][0]["milliseconds"] == 2.0
    report = (tmp_path / "report.html").read_text()
    tried_in_order = "pytorch_ordered 2; pytorch 3; pytorch_ordered_one_thread failed"
    for words in ("noisy", tried_in_order, "tensorflow is not installed", "one pinned core: not pinned here"):
        assert words in report
