"""The benchmark compares like with like: every peer's network is ours, from the same weights."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util

from experiments.bench import measure, workloads
from experiments.bench.peers import job as jobs
from mnistlab.errors import UserError
from mnistlab.nets import models

NETWORKS = {  # between them every kind of layer
    "adadelta": workloads.WORKLOADS["lenet5_adadelta_128"],
    "batchnorm": workloads.WORKLOADS["lenet5_relu_batchnorm_128"],
    "inception": workloads.WORKLOADS["cnn_e_32"],
}


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
    measured, product_seconds = measure.by_turns(workload, job, ["mnistlab", "flax_scan"], 2)
    assert list(measured) == ["mnistlab", "flax_scan"] and product_seconds > 0
    for one in measured.values():
        assert one.seconds.shape == (2,) and (one.seconds > 0).all() and one.peak_bytes > 50e6
    assert measured["mnistlab"].first_loss == pytest.approx(measured["flax_scan"].first_loss, rel=1e-5)


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
    measured, _ = measure.by_turns(workload, job, peers, 1)
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
    jobs.write(job._replace(optimizer="nobody's"), tmp_path / "job.json")
    with pytest.raises(UserError, match=r"flax_scan failed: KeyError.*nobody"):
        measure.Peer("flax_scan", tmp_path / "job.json", tmp_path / "log", measure._environment("flax_scan"))


def test_operations_are_counted_as_by_hand():
    # LeNet-5: convolutions 28*28*25*6 and 10*10*150*16, dense 400*120, 120*84, 84*10 multiply-adds.
    forward = 117_600 + 240_000 + 48_000 + 10_080 + 840
    assert workloads.flops_per_example("lenet5") == 2 * (3 * forward - 117_600) == 2_263_920
    # A 1x1 convolution and the block's parts count too: the first of E's blocks on 7x7 pixels of 16 channels.
    block = 49 * 16 * (8 + 12 + 2 + 4) + 49 * 9 * 12 * 16 + 49 * 25 * 2 * 4
    assert block == 49 * 416 + 49 * 1728 + 49 * 200


def test_ratios_are_to_peers_and_to_the_product():
    def measured(seconds):
        return measure.Measured(np.array(seconds), 1.0, 0.0, 0.0, 0)

    found = {
        "a": {"mnistlab": measured([1.0, 3.0, 2.0]), "pytorch": measured([4.0]), "mnistlab_8_seeds": measured([1.0])}
    }
    assert measure.ratios(found, {"a": 0.5}) == {
        "a: mnistlab": {"pytorch": 0.5, "matrix product": 4.0},
        "a: mnistlab_8_seeds": {"pytorch": 0.25, "matrix product": 2.0},
    }
