"""Networks that one can use: read back from a run, asked, exported; every export against JAX and against its README."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import forks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

import mnistlab
from experiments import predict
from mnistlab import OptimConfig, TrainConfig, Variant
from mnistlab.comparison import card, export, loaded, nets
from mnistlab.comparison.card import Card
from mnistlab.comparison.loaded import Net
from mnistlab.data.datasets import IMAGE_SHAPE, Split
from mnistlab.errors import UserError
from mnistlab.nets import blocks, models
from mnistlab.nets import layers as kinds
from mnistlab.training import by_hand, executables, losses, optim, step
from mnistlab.training.population import EVAL_BATCH_SIZE
from mnistlab.training.step import TrainState

pytestmark = pytest.mark.usefixtures("undrawn_pages")
ROOT = Path(__file__).parents[1]
ACCURACY = {"mean": 0.98, "sd": 0.001, "ci95": [0.97, 0.99], "n": 3, "values": [0.98, 0.981, 0.979]}
CARD = Card(
    "made_up", "a", 0, "last", "protocol reported", {"name": "mnist", "fingerprint": "f0"}, {}, 1, ACCURACY, 0.98,
    {"git_revision": "abc", "versions": {}},
)  # fmt: skip


def made_net(name, **options):
    """A network with random weights, its moving averages among them, as `load_net` would give it."""
    config = TrainConfig(name, model_options=tuple(options.items()))
    model = models.make_model(name, **options)
    tx = optim.make_optimizer(OptimConfig(), 1, 1)
    init = step.make_step_functions(model, tx, losses.LOSSES["cross_entropy"], config).init
    lowered = jax.jit(lambda seed: init(seed, IMAGE_SHAPE, {})).lower(np.uint32(3))
    state = lowered.compile(compiler_options=executables.compiler_options("init"))(np.uint32(3))
    rng = np.random.default_rng(0)

    def moved(leaf):
        return np.abs(np.asarray(leaf) + 0.1 * rng.normal(size=leaf.shape)).astype(np.float32)

    state = jax.device_get(state)
    params = jax.tree.map(lambda leaf: leaf + 0.05 * rng.normal(size=leaf.shape).astype(np.float32), state.params)
    collections = {kind: jax.tree.map(moved, tree) for kind, tree in state.model_state.items() if kind == "batch_stats"}
    weights = {"params": params, "model_state": {**state.model_state, **collections}}
    weights |= {"rng": state.rng, "step": state.step}
    return Net(name, 0, "last", CARD, config, weights, jax.ShapeDtypeStruct(IMAGE_SHAPE, np.uint8))


@pytest.fixture(scope="module")
def images():
    return mnistlab.load("mnist").test.image[:7]


@pytest.fixture(scope="module", params=models.MODELS)
def net(request):
    return made_net(request.param)


COVERING = ("lenet5", "mlp512", "lenet5_adadelta", "cnn_c", "cnn_e", "lenet5_relu_batchnorm", "small_20k")
"""Networks with every kind of layer, whose logits are those of JAX; those of the others are NumPy's, by the README."""


@pytest.fixture(scope="module")
def by_readme(net, images, tmp_path_factory):
    """(path, arrays, logits) of the network as npz."""
    path = exported(net, "npz", tmp_path_factory.mktemp("npz"))
    arrays = dict(np.load(path))
    return path, arrays, applied(models.MODELS[net.variant], arrays, images)


@pytest.fixture(scope="module")
def logits(net, images, by_readme):
    return net.logits(images) if net.variant in COVERING else by_readme[2]


def test_the_covering_networks_have_every_kind_of_layer():
    def kinds_of(names):
        flat = [layer for name in names for layer in models._flat(models.MODELS[name])]
        marks = ("activation", "stride", "padding")
        return {(type(layer), *(getattr(layer, mark, None) for mark in marks)) for layer in flat}

    assert kinds_of(COVERING) == kinds_of(models.MODELS)


def exported(net, format, folder):
    """The file, or a skip with the message that a user gets where a package is missing."""
    try:
        return export.export(net, format, folder / format)
    except UserError as error:
        if "needs the package" not in str(error):
            raise
        pytest.skip(str(error))


def call_full(path, images):
    """What an export for so many images at a time says of fewer."""
    padded = np.pad(images, [(0, EVAL_BATCH_SIZE - len(images)), *[(0, 0)] * 3])
    return jax.export.deserialize(bytearray(path.read_bytes())).call(padded)[: len(images)]


def close(got, want):
    """Whether logits are the same within 1e-5, of numbers above 1 in proportion."""
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(1, np.abs(want).max()))


def test_jax_takes_any_number_of_images(net, images, logits, tmp_path):
    path = exported(net, "jax", tmp_path)
    read = jax.export.deserialize(bytearray(path.read_bytes()))
    assert not isinstance(read.in_avals[0].shape[0], int)
    for count in (1, 7) if net.variant in COVERING else (7,):
        close(read.call(images[:count]), logits[:count])


def test_onnx_takes_any_number_of_images(net, images, logits, tmp_path):
    path = exported(net, "onnx", tmp_path)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for count in (1, 7):
        close(session.run(None, {"image": images[:count]})[0], logits[:count])


@pytest.mark.parametrize("format", ["npz", "safetensors"])
def test_arrays_applied_as_the_readme_says_give_the_logits(net, by_readme, logits, tmp_path, format):
    path, arrays, applied_logits = by_readme
    if format == "npz":
        close(applied_logits, logits)
    else:
        path, of_npz = exported(net, format, tmp_path), arrays
        arrays = pytest.importorskip("safetensors.numpy").load_file(path)
        assert arrays.keys() == of_npz.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, of_npz[name])
    readme = (path.parent / "README.md").read_text()
    for name, value in arrays.items():
        assert f"| {name} | {list(value.shape)} | float32 |" in readme
    for row in models.layer_table(models.make_model(net.variant), IMAGE_SHAPE):
        assert f"| {row.name} | {row.layer} |" in readme


def applied(layers, arrays, images):
    """The logits by NumPy in float64, written from the README alone."""
    x = images.astype(np.float64) / 255
    for name, layer in zip(models.layer_names(layers), layers, strict=True):
        own = {
            key.split(".", 2)[2]: value.astype(np.float64) for key, value in arrays.items() if key.split(".")[1] == name
        }
        x = APPLY[type(layer)](x, layer, own)
    return x


def windows(x, size, stride):
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]


def activated(x, activation):
    return {"relu": lambda: np.maximum(x, 0), "tanh": lambda: np.tanh(x), None: lambda: x}[activation]()


def convolved(x, kernel, bias, stride=1, same=True, activation="relu"):
    size = len(kernel)
    if same:
        pads = [max((-(-side // stride) - 1) * stride + size - side, 0) for side in x.shape[1:3]]
        x = np.pad(x, [(0, 0), *[(total // 2, total - total // 2) for total in pads], (0, 0)])
    return activated(np.einsum("nyxcij,ijco->nyxo", windows(x, size, stride), kernel) + bias, activation)


def inception(x, layer, own):
    def conv(x, part):
        return convolved(x, own[f"{part}.kernel"], own[f"{part}.bias"])

    largest = windows(np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf), 3, 1).max((-1, -2))
    parts = [conv(x, "one"), conv(conv(x, "three_reduce"), "three"), conv(conv(x, "five_reduce"), "five")]
    return np.concatenate([*parts, conv(largest, "projection")], -1)


def response_normalised(x, layer, own):
    squares = np.pad(x * x, [(0, 0)] * 3 + [(layer.depth_radius,) * 2])
    total = np.lib.stride_tricks.sliding_window_view(squares, 2 * layer.depth_radius + 1, -1).sum(-1)
    return x / (1 + 2e-5 * total) ** 0.75


def separable(x, layer, own):
    sides = [((layer.kernel_size - 1) // 2, layer.kernel_size // 2)] * 2
    x = np.einsum(
        "nyxcij,ijc->nyxc", windows(np.pad(x, [(0, 0), *sides, (0, 0)]), layer.kernel_size, 1), own["kernel"][:, :, 0]
    )
    return convolved(x, own["pointwise.kernel"], own["pointwise.bias"], activation=layer.activation)


def residual(x, layer, own):
    y = x
    for place, inner in enumerate(layer.layers, 1):
        first = f"{type(inner).__name__.lower()}_{place}."
        arrays = {name.removeprefix(first): value for name, value in own.items() if name.startswith(first)}
        y = APPLY[type(inner)](y, inner, arrays)
    return x + y


APPLY = {
    kinds.Pad: lambda x, layer, own: np.pad(x, [(0, 0), *[(layer.size,) * 2] * 2, (0, 0)]),
    kinds.Conv: lambda x, layer, own: convolved(
        x, own["kernel"], own["bias"], layer.stride, layer.padding == "SAME", layer.activation
    ),
    kinds.AvgPool: lambda x, layer, own: windows(x, layer.window, layer.stride or layer.window).mean((-1, -2)),
    kinds.MaxPool: lambda x, layer, own: windows(x, layer.window, layer.stride or layer.window).max((-1, -2)),
    kinds.LocalResponseNorm: response_normalised,
    kinds.BatchNorm: lambda x, layer, own: own["scale"] * (x - own["mean"]) / np.sqrt(own["var"] + 0.001) + own["bias"],
    kinds.Flatten: lambda x, layer, own: x.reshape(len(x), -1),
    kinds.Dense: lambda x, layer, own: activated(x @ own["kernel"] + own["bias"], layer.activation),
    kinds.Inception: inception,
    blocks.SeparableConv: separable,
    blocks.Residual: residual,
    blocks.GlobalAvgPool: lambda x, layer, own: x.mean((1, 2)),
    kinds.Dropout: lambda x, layer, own: x,
}


def test_a_net_without_biases_and_one_that_drops_units_in_evaluation(images, tmp_path):
    plain = made_net("mlp512", use_bias=False)
    for format in ("jax", "onnx"):
        path = exported(plain, format, tmp_path)
        if format == "jax":
            close(jax.export.deserialize(bytearray(path.read_bytes())).call(images), plain.logits(images))
    dropping = made_net("mlp512", dropout_at_evaluation=True)
    with pytest.raises(UserError, match=r"drops units .* --format=jax"):
        exported(dropping, "onnx", tmp_path / "dropping")
    path = exported(dropping, "jax", tmp_path / "dropping")
    close(call_full(path, images), dropping.logits(images))


def test_every_export_has_a_model_card(images, tmp_path):
    net = made_net("dense")
    for format in ("jax", "npz"):
        path = export.export(net, format, tmp_path / format)
        readme = (path.parent / "README.md").read_text()
        for words in ("mnist", "f0", "protocol reported", "0.980 [0.970, 0.990]", "3 seeds", "Do not use it where"):
            assert words in readme, words
        assert {each.name for each in path.parent.iterdir()} == {path.name, "README.md"}
    assert {each.name for each in tmp_path.iterdir()} == {"jax", "npz"}  # no temporary is left


def test_what_cannot_be_exported_leaves_nothing(monkeypatch, tmp_path):
    net = made_net("dense")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"format onnx needs the package onnx: pip install 'mnistlab\[onnx\]'"):
        export.export(net, "onnx", tmp_path / "out")
    with pytest.raises(UserError, match="expected one of jax, npz, safetensors, onnx"):
        export.export(net, "torch", tmp_path / "out")
    monkeypatch.setitem(export.FORMATS, "jax", export.FORMATS["jax"]._replace(file="a/\0"))
    with pytest.raises((UserError, ValueError)):
        export.export(net, "jax", tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="is there already"):
        export.export(net, "npz", tmp_path / "out")


class Own(nn.Module):
    @nn.compact
    def __call__(self, image):
        return nn.Dense(10)(nn.relu(nn.Dense(8)(image.reshape(len(image), -1))))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of four kinds of networks: named, a user's module, and one by hand."""
    named = Variant("lenet5", limit_examples=400, num_epochs=2, batch_size=100, model_options=(("form", "lax"),))
    by_itself = dataclasses.replace(
        named, program=by_hand.make_step_functions, loss_reduction="sum", model_options=(("use_bias", False),)
    )
    variants = {"lenet5": named, "own": dataclasses.replace(named, model=Own(), model_options=()), "hand": by_itself}
    folder = tmp_path_factory.mktemp("nets") / "run"
    mnistlab.compare(variants, data=few_tested(), seeds=2, workdir=folder)
    return folder


def few_tested():
    """MNIST, tested on 500 images."""
    data = mnistlab.load("mnist")
    return dataclasses.replace(data, test=Split(data.test.image[:500], data.test.label[:500]))


def test_a_net_is_loaded_and_asked_of_arrays_pictures_and_lists(run, images, tmp_path):
    net = mnistlab.load_net(run, "lenet5", seed=1)
    want = mnistlab.predict(mnistlab.read_run(run), "lenet5", images, seed=1)
    assert want.shape == (7, 10) and want.dtype == np.float32
    np.testing.assert_allclose(want.sum(axis=1), 1, rtol=1e-5)
    for given in (images, images[..., 0], list(images), list(images[..., 0]), list(images[:, None])):
        np.testing.assert_allclose(net.predict(given), want, atol=1e-6)
    np.testing.assert_allclose(net.predict(images[0, ..., 0]), want[:1], atol=1e-6)
    paths = []
    for number, image in enumerate(images[..., 0]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.kron(255 - image, np.ones((5, 5), np.uint8))).save(paths[-1])
    np.testing.assert_array_equal(net.predict(paths[0]), net.predict(str(paths[0])))
    np.testing.assert_allclose(net.predict(paths), net.predict(net.seen(paths)), atol=1e-6)
    assert np.corrcoef(net.seen(paths).ravel(), images.ravel())[0, 1] > 0.97
    assert "lenet5, seed 1, last weights, 61,706 parameters, mnist" in repr(net) and len(repr(net)) < 200
    assert "<b>lenet5</b>" in net._repr_html_()


def test_a_nets_accuracy_is_the_one_on_its_card(run):
    data = few_tested()
    for variant in ("lenet5", "own"):
        net = mnistlab.load_net(run, variant, seed=1)
        half = data.test.image[250:], data.test.label[250:]  # which half is the test's the split says
        other = data.test.image[:250], data.test.label[:250]
        measured = [np.mean(net.predict(image).argmax(axis=1) == label) for image, label in (half, other)]
        assert np.isclose(net.card.own_accuracy, measured, atol=1e-6).any()


@pytest.mark.parametrize("variant", ["lenet5", "own", "hand"])
def test_nets_of_a_run_are_exported_with_all_their_arrays(run, images, tmp_path, variant):
    net = mnistlab.load_net(run, variant, seed=1, which="best")
    path = exported(net, "jax", tmp_path)
    close(call_full(path, images), net.logits(images))
    assert ("fill up with zeros" in (path.parent / "README.md").read_text()) == (variant != "lenet5")
    arrays = dict(np.load(exported(net, "npz", tmp_path)))
    assert sum(value.size for value in arrays.values()) == net.card.num_parameters
    assert variant == "lenet5" or _raises_on_onnx(net, tmp_path)


def _raises_on_onnx(net, folder):
    with pytest.raises(UserError, match=r"no table of layers|needs the package"):
        export.export(net, "onnx", folder / "onnx")
    return True


@pytest.mark.parametrize(
    "keywords, words",
    [
        ({"variant": "lenet6"}, "expected one of lenet5, own, hand"),
        ({"variant": "lenet5", "seed": 9}, "expected one of 0, 1"),
        ({"variant": "lenet5", "which": "first"}, "expected one of last, best"),
        ({}, "has several variants"),
    ],
)
def test_what_is_not_in_the_run_is_one_line(run, keywords, words):
    with pytest.raises(UserError, match=words):
        mnistlab.load_net(run, **keywords)


@pytest.mark.parametrize(
    "given, words",
    [
        (np.zeros((2, 28, 28, 3), np.uint8), r"takes uint8 \[N, 28, 28, 1\]; a photograph is given by its path"),
        (np.zeros((640, 480), np.uint8), "a photograph is given by its path"),
        (np.zeros((28, 28)), "expected uint8"),
        ([], "at least one"),
    ],
)
@pytest.mark.parametrize("variant", ["lenet5", "hand"])
def test_what_is_no_image_is_one_line(run, given, words, variant):
    with pytest.raises(UserError, match=words):
        mnistlab.load_net(run, variant).predict(given)


def test_pictures_of_other_things_than_digits_are_taken_only_in_their_datas_form(run, tmp_path, images):
    net = mnistlab.load_net(run, "lenet5")
    other = dataclasses.replace(net, card=net.card._replace(data={"name": "fashion_mnist"}))
    Image.fromarray(images[0, ..., 0]).save(tmp_path / "small.png")
    np.testing.assert_array_equal(other.seen(tmp_path / "small.png"), images[:1])
    colour = Image.merge("RGB", [Image.new("L", (28, 28), value) for value in (0, 90, 255)])
    colour.save(tmp_path / "colour.png")
    np.testing.assert_array_equal(other.seen(tmp_path / "colour.png")[0, ..., 0], np.asarray(colour.convert("L")))
    Image.new("L", (90, 90)).save(tmp_path / "large.png")
    with pytest.raises(UserError, match="only a digit is brought to its data's form"):
        other.seen(tmp_path / "large.png")


def call(name, *arguments, cwd=ROOT):
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return forks.run(f"experiments.{name}", list(map(str, arguments)), folder=cwd, environ=environ)


def test_the_command_predict_tells_of_every_variant_and_shows_what_was_seen(run, images, tmp_path):
    for number in range(2):
        Image.fromarray(255 - images[number, ..., 0]).save(tmp_path / f"{number}.png")
    done = call("predict", run, tmp_path / "0.png", tmp_path / "1.png", f"--workdir={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if ".png" in line and " of 2" in line]
    assert [row[1] for row in rows] == ["lenet5", "own", "hand"] * 2
    mean = np.mean([mnistlab.load_net(run, "own", seed=seed).predict(images[:1]) for seed in (0, 1)], axis=0)[0]
    assert rows[1][2] == str(mean.argmax()) and float(rows[1][3]) == pytest.approx(mean.max(), abs=6e-3)
    saw = np.asarray(Image.open(tmp_path / "out" / "saw.png"))
    assert saw.shape == (8 * 30, 8 * 60)
    assert np.abs(saw[12:228:8, 12:228:8].astype(int) - images[0, ..., 0][:27, :27]).max() <= 8


def test_a_network_that_diverged_says_nothing():
    probability = np.array([[0.1, 0.9], [np.nan, np.nan], [0.2, 0.8]], np.float32)
    assert predict._words(probability) == ("1", "0.850", "2 of 2, 1 diverged", "0 (0.150)")
    assert predict._words(probability[1:2])[2] == "0 of 0, 1 diverged"


def test_the_command_export_leaves_a_folder_and_refuses_in_one_line(run, tmp_path):
    done = call("export", run, "lenet5", "--format=npz", "--seed=1", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"net.npz", "README.md"}
    kept = np.load(tmp_path / "out" / "net.npz")["params.conv_1.kernel"]
    np.testing.assert_array_equal(kept, mnistlab.load_net(run, "lenet5", seed=1).weights["params"]["conv_1"]["kernel"])
    for arguments, words in (
        ((run, "lenet5", f"--output={tmp_path / 'out'}"), "is there already"),
        ((run, "lenet7", f"--output={tmp_path / 'b'}"), "expected one of lenet5"),
        ((run,), "VARIANT is missing"),
        ((run, "lenet5", "--format=torch"), "format"),
    ):
        done = call("export", *arguments)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_named_net_on_images_of_another_size_is_read_back_and_exported(tmp_path):
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (120, 8, 8, 1)).astype(np.uint8), rng.integers(0, 10, 120)
    data = mnistlab.from_arrays((image, label), (image[:40], label[:40]), name="small")
    variant = Variant("dense", num_epochs=1, batch_size=50)
    mnistlab.compare({"dense": variant}, data=data, seeds=1, workdir=tmp_path / "run", playground=False)
    net = mnistlab.load_net(tmp_path / "run")
    want = net.logits(image[:7])
    assert want.shape == (7, 10) and net.image.shape == (8, 8, 1)
    called = jax.export.deserialize(bytearray(exported(net, "jax", tmp_path).read_bytes())).call(image[:7])
    np.testing.assert_allclose(called, want, atol=1e-5)
    path = exported(net, "npz", tmp_path)
    assert "8, 8, 1" in (path.parent / "README.md").read_text()


def test_fractions_are_asked_as_they_were_trained_and_another_run_leaves_nothing_of_them(tmp_path):
    rng = np.random.default_rng(0)
    image, label = rng.normal(size=(120, 28, 28, 1)), rng.integers(0, 10, 120)
    data = mnistlab.from_arrays((image, label), (image[:40], label[:40]), name="mnist")
    variant = Variant("dense", num_epochs=1, batch_size=50)
    mnistlab.compare({"dense": variant}, data=data, workdir=tmp_path / "run", playground=False)
    net = mnistlab.load_net(tmp_path / "run")
    np.testing.assert_array_equal(net.predict(image[:3]), net.predict(image[:3].astype(np.float32)))
    assert "| pixel_scale | 1.0 |" in card.markdown(net.card)
    Image.fromarray(np.kron(np.eye(28, dtype=np.uint8) * 255, np.ones((3, 3), np.uint8))).save(tmp_path / "one.png")
    with pytest.raises(UserError, match=r"images are uint8 .* takes float32 \[N, 28, 28, 1\]$"):
        net.predict(tmp_path / "one.png")
    with pytest.raises(UserError, match="no images; expected at least one"):
        net.predict(image[:0])
    with pytest.raises(UserError, match=r"takes fractions, so it has no ONNX form|needs the package"):
        export.export(net, "onnx", tmp_path / "onnx")

    few = dataclasses.replace(variant, limit_examples=200)
    variants = {"dense": few, "fewer": dataclasses.replace(few, limit_examples=100)}
    summary = mnistlab.compare(
        variants, data=mnistlab.load("mnist"), workdir=tmp_path / "run", resume=False, playground=False
    )
    net, fewer = (mnistlab.load_net(tmp_path / "run", name) for name in variants)
    assert (net.image.dtype, net.exported) == (np.uint8, None)
    assert summary["data"]["limit_examples"] is None
    assert "the first 100 training" in card.markdown(fewer.card) and "the first 200" in card.markdown(net.card)


def test_a_name_that_stands_for_another_network_and_a_lost_function_are_refused(run, monkeypatch, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "own" / nets.EXPORTED).unlink()
    with pytest.raises(UserError, match=r"logits\.exported is missing; repeat the run's command"):
        mnistlab.load_net(tmp_path / "run", "own")
    monkeypatch.setitem(models.MODELS, "lenet5", models.MODELS["dense"])
    with pytest.raises(UserError, match=r"MODELS\['lenet5'\] is not the network of"):
        mnistlab.load_net(run, "lenet5")


def test_neighbouring_seeds_are_told_apart_however_large_they_are(tmp_path):
    variant = Variant("dense", num_epochs=1, batch_size=100, limit_examples=200)
    data = mnistlab.load("mnist")
    seeds = (2**31 - 2, 2**31 - 1)
    mnistlab.compare(
        {"dense": variant}, data=data, seeds=2, first_seed=seeds[0], workdir=tmp_path / "run", playground=False
    )
    one, other = (mnistlab.load_net(tmp_path / "run", seed=seed).predict(data.test.image[:5]) for seed in seeds)
    assert np.abs(one - other).max() > 0.01


class Listed(NamedTuple):
    """Weights whose names do not rise."""

    second: list
    first: jax.Array


def test_weights_of_any_structure_come_back_in_their_places(tmp_path):
    def predict(state, image):
        x = image.reshape(len(image), -1).astype(jnp.float32)[:, :3] / 255
        for number, scale in enumerate(state.params.second):
            x = x * scale[None] + number
        return x @ state.params.first

    rng = np.random.default_rng(0)
    params = Listed([rng.normal(size=(1, 3)).astype(np.float32) for _ in range(12)], rng.normal(size=(1, 3, 2)))
    state = TrainState(np.zeros(1, np.int32), params, {}, (), np.zeros((1, 2), np.uint32))
    image = rng.integers(0, 256, (nets.EVAL_BATCH_SIZE, 2, 2, 1)).astype(np.uint8)
    nets.save_function(tmp_path, predict, state, jax.ShapeDtypeStruct(image.shape[1:], image.dtype))
    kept = {"params": {"second": {f"{n}": leaf[0] for n, leaf in enumerate(params.second)}, "first": params.first[0]}}
    kept |= {"model_state": {}, "rng": state.rng[0], "step": state.step[0]}
    called = loaded._exported(tmp_path / nets.EXPORTED).call(jax.tree.leaves(kept), image)
    want = predict(jax.tree.map(lambda leaf: leaf[0], state), image)
    np.testing.assert_allclose(called, want, rtol=1e-5)
