"""The playground: the browser's logits are JAX's, drawings become images as MNIST's did, and the page stays small."""

import base64
import dataclasses
import io
import json
import re
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from browser import evaluate, needs_chromium
from PIL import Image

from mnistlab.comparison import nets as kept_nets
from mnistlab.comparison import run
from mnistlab.comparison.spec import Experiment, Options, Variant
from mnistlab.data import datasets, idx
from mnistlab.data.datasets import Split
from mnistlab.nets import blocks, layers, models
from mnistlab.nets.layers import Dense, Flatten
from mnistlab.nets.models import Network
from mnistlab.report import page, playground
from mnistlab.report.playground import Trained
from mnistlab.training import by_hand

pytestmark = pytest.mark.usefixtures("quick_compiling", "undrawn_pages")
ARCHIVES = Path(datasets.__file__).parent / "archives"
SHAPE = (28, 28, 1)
NO_LIMIT = 10**9


@pytest.fixture(scope="module")
def mnist():
    return idx.read_shipped(ARCHIVES / "mnist")["test"]


def variables_of(model, seed, num_runs=1):
    """Random weights, biases and batch statistics of `num_runs` runs, float16 as float32: as a page holds them."""
    rng = np.random.default_rng(seed)

    def drawn(path, leaf):
        size = np.sqrt(3 / np.prod(leaf.shape[:-1])) if path[-1].key == "kernel" else 0.2
        values = rng.normal(0, size, (num_runs, *leaf.shape)) + (path[-1].key == "scale")
        values = 0.5 + abs(values) if path[-1].key == "var" else values
        return values.astype(np.float16).astype(np.float32)

    return jax.tree_util.tree_map_with_path(drawn, shapes_of(model, ("params", "batch_stats")))


def shapes_of(model, kinds):
    image = jax.ShapeDtypeStruct((1, *SHAPE), np.float32)
    shapes = jax.eval_shape(lambda image: model.init(jax.random.key(0), image), image)
    return {kind: shapes[kind] for kind in kinds if kind in shapes}


def trained(model, scale=1 / 255, num_runs=1):
    return Trained(model, variables_of(model, 3, num_runs), scale, range(num_runs))


def dataset_of(name, split):
    return datasets.Dataset(name, "1", tuple(map(str, range(10))), split, split, "none")


def page_of(nets, split, name="mnist", room=NO_LIMIT):
    made = playground.build(nets, dataset_of(name, split), split.image[:3], split.label[:3], room)
    return page.html_page("Nets", [page.Html(made.html)]), made


def data_of(text):
    (found,) = re.findall(r'<script type="application/json" class="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def expected_logits(model, variables, scale, image):
    settings = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes_of(model, ("settings",)))
    return np.asarray(jax.jit(model.apply)({**variables, **settings}, image.astype(np.float32) * np.float32(scale)))


ALL_LOGITS = """
document.querySelector("#playground").nets.map((net) => net.weights.map((_, seed) =>
  given.map((image) => Array.from(Net.logits(net, seed, Net.bytes(image))))))
"""


def in_base64(images):
    return [base64.b64encode(image.tobytes()).decode() for image in images]


@needs_chromium
def test_logits_in_the_page_are_those_of_jax_for_every_network(mnist, tmp_path):
    nets = {name: trained(models.make_model(name, form="lax")) for name in models.MODELS}
    nets |= {f"{name} raw": trained(models.make_model(name, form="lax"), 1.0) for name in ("cnn_a", "cnn_c", "cnn_e")}
    nets["no biases"] = trained(models.make_model("mlp512", use_bias=False))
    nets["sigmoid"] = trained(Network((Flatten(), Dense(20, "sigmoid"), Dense(10))), num_runs=2)
    text, made = page_of(nets, mnist)
    assert not made.notes
    image = mnist.image[:20]
    found = evaluate(text, ALL_LOGITS, tmp_path, in_base64(image))
    for (name, net), seeds in zip(nets.items(), found, strict=True):
        assert len(seeds) == len(net.seeds)
        for number, logits in enumerate(seeds):
            variables = jax.tree.map(lambda leaf, number=number: leaf[number], net.variables)
            expected = expected_logits(net.model, variables, net.pixel_scale, image)
            assert np.ptp(expected, axis=0).min() > 1e-2, name  # it looks at the image
            # float32 itself is no finer than a ten-millionth of the raw pixels' logits.
            bound = max(1e-4, 1e-6 * abs(expected).max())
            print(f"{name:24} |logit| up to {abs(expected).max():8.2f}  differs by {abs(logits - expected).max():.1e}")
            np.testing.assert_allclose(logits, expected, rtol=0, atol=bound, err_msg=name)


def test_the_network_by_hand_is_the_one_that_the_page_computes(mnist):
    shapes = (784, by_hand.NUM_HIDDEN), (by_hand.NUM_HIDDEN, by_hand.NUM_CLASSES)
    weights = by_hand.Weights(*(np.random.default_rng(0).normal(0, 0.05, shape).astype(np.float32) for shape in shapes))
    image = mnist.image[:20].astype(np.float32) / 255
    expected = by_hand.forward(weights, image.reshape(20, -1), 0.0, jax.random.key(0))
    network = models.make_model("mlp512", use_bias=False)
    settings = {"dropout_1": {"rate": np.float32(0.2)}}
    found = network.apply({"params": by_hand.as_layers(weights), "settings": settings}, image)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@needs_chromium
def test_half_precision_numbers_are_read_as_numpy_reads_them(mnist, tmp_path):
    bits = np.arange(65536, dtype=np.uint16)
    values = bits.view(np.float16)[np.isfinite(bits.view(np.float16))]
    text, _ = page_of({"dense": trained(models.make_model("dense"))}, mnist)
    found = evaluate(text, "Array.from(Net.halves(given))", tmp_path, in_base64([values])[0])
    np.testing.assert_array_equal(np.array(found, np.float64), values.astype(np.float64))


# Drawings


def placed(ink, side=28, box=20):
    """What Net.place does by mass, through integrals of the drawing instead of shares of its pixels."""
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float64)
    step = max(cut.shape) / box
    for axis in (0, 1):
        length = cut.shape[axis]
        count = max(1, int(length / step + 0.5))
        edges = (length - count * step) / 2 + step * np.arange(count + 1)
        integral = np.insert(cut.cumsum(axis), 0, 0, axis)
        at = np.apply_along_axis(lambda line, e=edges, n=length: np.interp(e, np.arange(n + 1), line), axis, integral)
        cut = np.diff(at, axis=axis) / step
    centre = [(cut.sum(1 - axis) @ np.arange(cut.shape[axis])) / cut.sum() for axis in (0, 1)]
    down, along = (int(np.ceil(side / 2 - value - 0.5 - 1e-9)) for value in centre)
    big = np.zeros((3 * side, 3 * side))
    big[side + down : side + down + cut.shape[0], side + along : side + along + cut.shape[1]] = cut
    return np.floor(big[side : 2 * side, side : 2 * side] + 0.5)


PLACED = """given.inks.map((ink, n) => Array.from(
  Net.place(Net.bytes(ink), given.widths[n], given.heights[n], given.how)))"""


def place_in_browser(text, inks, how, folder):
    widths, heights = [ink.shape[1] for ink in inks], [ink.shape[0] for ink in inks]
    given = {"inks": in_base64(inks), "widths": widths, "heights": heights, "how": how}
    return np.array(evaluate(text, PLACED, folder, given)).reshape(len(inks), how["side"], how["side"])


@needs_chromium
def test_drawings_are_scaled_and_centred_as_mnist_is(mnist, tmp_path):
    text, _ = page_of({"dense": trained(models.make_model("dense"))}, mnist)
    how = data_of(text)["place"]
    assert how == {"side": 28, "box": 20, "byMass": True}
    drawn = mnist.image[:200, ..., 0] > 0
    full = [n for n in range(200) if max(np.ptp(np.flatnonzero(drawn[n].any(axis))) for axis in (0, 1)) == 19][:30]
    digits = mnist.image[full][..., 0]
    # MNIST's own digits, ten times as large and off the centre, come back bit by bit.
    large = [np.pad(np.kron(digit, np.ones((10, 10), np.uint8)), ((7, 0), (0, 13))) for digit in digits]
    np.testing.assert_array_equal(place_in_browser(text, large, how, tmp_path), digits)
    rng = np.random.default_rng(0)
    odd = [
        np.kron(digit, np.ones((a, b), np.uint8))
        for digit, a, b in zip(digits, *rng.integers(2, 9, (2, 30)), strict=True)
    ]
    odd += [np.full((1, 1), 255, np.uint8), np.eye(90, 7, dtype=np.uint8) * 200]
    np.testing.assert_allclose(place_in_browser(text, odd, how, tmp_path), [placed(ink) for ink in odd], atol=1)


@needs_chromium
def test_pictures_for_fashion_mnist_fill_the_frame(tmp_path):
    fashion = idx.read_shipped(ARCHIVES / "fashion_mnist")["test"]
    text, _ = page_of({"dense": trained(models.make_model("dense"))}, fashion, "fashion_mnist")
    how = data_of(text)["place"]
    assert how == {"side": 28, "box": 28, "byMass": False} and not data_of(text)["draws"]
    full = [n for n in range(100) if fashion.image[n].any(axis=(1, 2)).all() or fashion.image[n].any(axis=(0, 2)).all()]
    images = fashion.image[full[:10]][..., 0]
    centred = [image for image in images if all(_is_centred(image.any(axis)) for axis in (0, 1))]
    assert len(centred) > 3
    large = [np.pad(np.kron(image, np.ones((3, 3), np.uint8)), ((5, 40), (2, 9))) for image in centred]
    np.testing.assert_array_equal(place_in_browser(text, large, how, tmp_path), centred)


def _is_centred(used):
    first, last = np.flatnonzero(used)[[0, -1]]
    return 27 - last - first in (0, 1)


@needs_chromium
def test_padding_in_small_letters_is_what_it_is_in_training(mnist, tmp_path):
    net = trained(Network((layers.Conv(3, 5, padding="same", activation="relu"), Flatten(), Dense(10)), form="lax"))
    text, _ = page_of({"small": net}, mnist)
    (found,) = evaluate(text, ALL_LOGITS, tmp_path, in_base64(mnist.image[:3]))
    variables = jax.tree.map(lambda leaf: leaf[0], net.variables)
    expected = expected_logits(net.model, variables, net.pixel_scale, mnist.image[:3])
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-4)


# What one sees


def sure_of(number, others=()):
    """A network that says `number` of every image; its further seeds say `others`."""
    model = Network((Flatten(), Dense(10)))
    bias = 5 * np.eye(10, dtype=np.float32)[[number, *others]]
    kernel = np.zeros((len(bias), 784, 10), np.float32)
    return Trained(model, {"params": {"dense_1": {"kernel": kernel, "bias": bias}}}, 1.0, range(len(bias)))


SEEN = """(async () => {
  const find = (name) => document.querySelector(`#playground ${name}`);
  const words = (name) => Array.from(document.querySelectorAll(`#playground ${name}`), (e) => e.textContent);
  const state = async () => {
    await pause(200);
    const odd = Array.from(document.querySelectorAll("#playground .net"), (e) => e.classList.contains("odd"));
    const spread = document.querySelectorAll("#playground .spread:not([hidden])").length;
    return { answer: find(".answer").textContent, says: words(".says"), odd, spread,
             percents: words(".bars .number").slice(0, 10), what: find(".what").textContent };
  };
  const paper = find(".paper");
  const point = (type, x, y) => {
    const box = paper.getBoundingClientRect();
    const at = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
    paper.dispatchEvent(new PointerEvent(type, { ...at, pointerId: 1, bubbles: true }));
  };
  const key = (name, shiftKey = false) => paper.dispatchEvent(new KeyboardEvent("keydown", { key: name, shiftKey }));
  const states = { blank: await state() };
  point("pointerdown", 0.4, 0.2); point("pointermove", 0.6, 0.8); point("pointerup", 0.6, 0.8);
  states.drawn = await state();
  find(".clear").click();
  states.cleared = await state();
  key("ArrowDown", true);
  states.moved = await state();
  key("ArrowDown"); key("ArrowRight");
  states.keyed = await state();
  find(".next").click();
  states.image = await state();
  find(".next").click();
  states.second = await state();
  key("Delete");
  states.deleted = await state();
  return states;
})()"""


DROPPED = """(async () => {
  const bytes = Uint8Array.from(atob(given), (letter) => letter.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], "one.png", { type: "image/png" }));
  const input = document.querySelector("#playground .file input");
  input.files = files.files;
  input.dispatchEvent(new Event("change"));
  // Decoding takes real time, which a pause of the browser's own clock does not give.
  const turn = () => new Promise((done) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = done;
    port2.postMessage(0);
  });
  const what = () => document.querySelector("#playground .what").textContent;
  for (let n = 0; n < 300000 && !what().startsWith("one.png"); n++) await turn();
  const canvas = document.querySelector("#playground .image");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return { seen: data.filter((_, i) => i % 4 === 3).join(), what: what() };
})()"""


@needs_chromium
def test_a_picture_for_data_of_ones_own_is_seen_as_it_is(mnist, tmp_path):
    rng = np.random.default_rng(0)
    picture = (255 - mnist.image[0, ..., 0] // 2 - rng.integers(0, 9, (28, 28))).astype(np.uint8)  # ink on grey paper
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    text, _ = page_of({"dense": trained(models.make_model("dense"))}, mnist, "my_scans")
    found = evaluate(text, DROPPED, tmp_path, base64.b64encode(file.getvalue()).decode())
    seen = np.array(found["seen"].split(","), int).reshape(28, 28)
    np.testing.assert_allclose(seen, picture, atol=1)
    assert found["what"] == "one.png, scaled to 28 × 28 pixels."


FINGERS = """(async () => {
  const paper = document.querySelector("#playground .paper");
  const point = (type, pointerId, x, y) => {
    const box = paper.getBoundingClientRect();
    const at = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
    paper.dispatchEvent(new PointerEvent(type, { ...at, pointerId, bubbles: true }));
  };
  const inked = () => paper.getContext("2d").getImageData(0, 0, paper.width, paper.height).data.filter(Boolean).length;
  point("pointerdown", 1, 0.2, 0.2); point("pointermove", 1, 0.4, 0.2);
  const one = inked();
  point("pointerdown", 2, 0.8, 0.8); point("pointermove", 2, 0.9, 0.9); point("pointerup", 2, 0.9, 0.9);
  const two = inked();
  point("pointermove", 1, 0.6, 0.2); point("pointerup", 1, 0.6, 0.2);
  const on = inked();
  point("pointermove", 1, 0.6, 0.9);
  return [one, two, on, inked()];
})()"""


@needs_chromium
def test_a_second_finger_draws_nothing_and_ends_no_stroke(mnist, tmp_path):
    text, _ = page_of({"dense": trained(models.make_model("dense"))}, mnist)
    one, two, on, lifted = evaluate(text, FINGERS, tmp_path)
    assert 0 < one == two < on == lifted


@needs_chromium
def test_a_network_of_fewer_logits_than_there_are_classes_has_a_say(mnist, tmp_path):
    two = sure_of(1).variables["params"]["dense_1"]
    weights = {"params": {"dense_1": {name: leaf[..., :2] for name, leaf in two.items()}}}
    small = Trained(Network((Flatten(), Dense(2))), weights, 1.0, range(1))
    text, _ = page_of({"a": sure_of(1), "small": small}, mnist)
    assert evaluate(text, SEEN, tmp_path)["image"]["answer"] == "Both say 1."


@needs_chromium
def test_one_draws_with_a_pointer_and_with_keys_and_sees_who_disagrees(mnist, tmp_path):
    text, _ = page_of({"a": sure_of(3), "b": sure_of(5, (5, 5, 1)), "c": sure_of(3)}, mnist)
    seen = evaluate(text, SEEN, tmp_path)
    for name in ("blank", "cleared", "moved", "deleted"):
        assert seen[name]["answer"] == "Draw a digit." and seen[name]["says"] == ["", "", ""], name
    for name in ("drawn", "keyed", "image", "second"):
        assert seen[name]["answer"] == "They disagree: 3 (a, c), 5 (b).", name
        assert seen[name]["odd"] == [False, True, False]
        assert seen[name]["says"][1] == "≠ 5: 3 of 4 seeds (others: 1)"
        assert seen[name]["spread"] == 2  # classes 1 and 5 of b
    share = np.exp(5) / (np.exp(5) + 9)
    assert seen["drawn"]["percents"][3] == f"{100 * share:.0f} %" and seen["drawn"]["percents"][0] == "0.6 %"
    assert [seen[name]["what"] for name in ("image", "second")] == [
        f"A test image: {label}." for label in mnist.label[:2]
    ]


# What is in the page


@pytest.mark.parametrize("names, least", [(("lenet5", "dense"), 5), (("cnn_a", "cnn_b", "cnn_c", "cnn_d", "cnn_e"), 2)])
def test_as_many_seeds_are_in_the_page_as_3_megabytes_hold(mnist, names, least):
    nets = {name: trained(models.make_model(name), num_runs=10) for name in names}
    rest = 300_000  # of a page
    text, made = page_of(nets, mnist, room=playground.MOST_PAGE_BYTES - rest)
    size = len(text.encode()) + rest
    counts = {len(net["weights"]) for net in data_of(text)["nets"]}
    (count,) = counts  # as many of each
    assert least <= count <= 8 and size < 3_000_000
    assert f"The first {count} seeds are in the playground" in made.notes[0]
    one_more = sum(len(net["weights"][0]) for net in data_of(text)["nets"])
    assert count == 8 or size + one_more > 2_990_000  # no more would fit


def test_networks_for_which_there_is_no_room_are_named(mnist):
    nets = {f"n{number}": trained(models.make_model("mlp512")) for number in range(4)}
    text, made = page_of(nets, mnist, room=2_700_000)
    assert [net["name"] for net in data_of(text)["nets"]] == ["n0", "n1"] and len(text) < 2_700_000
    assert [note.split(" is ")[0] for note in made.notes] == ["n2", "n3"]


class Own(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(x.reshape(len(x), -1))


class OwnDense(Dense):
    pass


def test_networks_that_cannot_be_described_say_why(mnist):
    nothing = {"params": {}}
    nets = {
        "own": Trained(Own(), nothing, 1.0, [0]),
        "layer": Trained(Network((Flatten(), OwnDense(10))), nothing, 1.0, [0]),
    }
    _, made = page_of(nets, mnist)
    assert made.html == ""
    assert made.notes == [
        "own is not in the playground: Own is a module of its own, not a table of layers.",
        "layer is not in the playground: the page cannot compute its layer OwnDense.",
    ]
    floats = Split(mnist.image.astype(np.float32), mnist.label)
    _, made = page_of({"dense": trained(models.make_model("dense"))}, floats)
    assert made.html == "" and "square grey images of pixels 0..255" in made.notes[0]


def test_a_seed_whose_weights_are_not_finite_as_float16_is_left_out(mnist):
    net = trained(models.make_model("dense"), num_runs=3)
    net.variables["params"]["dense_1"]["kernel"][1, 0, 0] = 1e6
    text, made = page_of({"dense": net}, mnist)
    assert data_of(text)["nets"][0]["seeds"] == [0, 2]
    assert made.notes == ["dense: 1 of 3 seeds have weights that are not finite as float16."]


def test_dropout_at_evaluation_is_off_in_the_page_and_that_is_said(mnist):
    model = models.make_model("mlp512", dropout_at_evaluation=True)
    _, made = page_of({"noisy": trained(models.make_model("mlp512"))._replace(model=model)}, mnist)
    assert made.notes == ["noisy was evaluated with dropout on; in the playground it is off."]


def test_no_name_ends_the_data(mnist):
    text, _ = page_of({"</script><b>": sure_of(1)}, mnist)
    assert data_of(text)["nets"][0]["name"] == "</script><b>" and "<b>" not in text


KERNELS = Variant("mlp512", split="test_is_validation", num_epochs=1, program=by_hand.make_step_functions)
VARIANTS = {
    "dense": dataclasses.replace(KERNELS, model="dense", program=None),
    "by_hand": dataclasses.replace(KERNELS, model_options=(("use_bias", False),)),
    "other": dataclasses.replace(KERNELS, program=lambda config: by_hand.make_step_functions(config)),
}


@needs_chromium
def test_the_page_of_a_run_answers_from_the_weights_that_the_run_kept(dataset, tmp_path):
    experiment = Experiment("drawn", "Drawn", reported=VARIANTS, data=dataclasses.replace(dataset, name="mnist"))
    run.run(experiment, Options(tmp_path, num_seeds=2))  # of the larger net one seed fits
    text = (tmp_path / "report.html").read_text()
    assert "other is not in the playground: it has a program of its own." in text
    image = dataset.test.image
    assert len(image) == 100
    found = dict(zip(("dense", "by_hand"), evaluate(text, ALL_LOGITS, tmp_path, in_base64(image)), strict=True))
    for name in found:
        folder = tmp_path / "checkpoints" / name / "last"
        kept = kept_nets.checkpoint.restore_once(folder, None, kept_nets.run_of(folder))["params"]
        params = (
            {"dense_1": {"kernel": kept["hidden"]}, "dense_2": {"kernel": kept["output"]}}
            if name == "by_hand"
            else kept
        )
        variant = VARIANTS[name]
        model = models.make_model(variant.model, **dict(variant.model_options))
        assert found[name]
        for number in range(len(found[name])):
            rounded = jax.tree.map(lambda leaf, n=number: np.float32(np.float16(leaf[n])), params)
            expected = expected_logits(model, {"params": rounded}, 1 / 255, image)
            np.testing.assert_allclose(found[name][number], expected, rtol=0, atol=1e-4)

    run.run(experiment, Options(tmp_path, num_seeds=2, playground=False))  # nothing is trained anew
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text and "playground" not in text


def test_the_forward_pass_is_short_and_asks_nobody():
    folder = Path(playground.__file__).parent
    assert len((folder / "net.js").read_text().splitlines()) < 300
    for name in ("net.js", "draw.js", "templates/playground.html.j2", "playground.css"):
        assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\b|@import|url\(", (folder / name).read_text()), (
            name
        )


def test_every_layer_of_the_tables_is_described():
    kinds = [*vars(layers).values(), *vars(blocks).values()]
    known = {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, layers.Layer)}
    assert set(playground._DESCRIBE) == known - {layers.Layer, layers._Pool}
