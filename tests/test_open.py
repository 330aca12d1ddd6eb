"""A user's own model, data, optimiser, loss, metric and claim through the public interface alone."""

import dataclasses
import itertools
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import forks
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import mnistlab
from mnistlab import Claim, TrainConfig, Variant
from mnistlab.comparison import run, saved, spec
from mnistlab.comparison.spec import Experiment, Options
from mnistlab.errors import UserError

pytestmark = pytest.mark.usefixtures("undrawn_pages")
ROOT = Path(__file__).parents[1]


class Net(nn.Module):
    width: int

    @nn.compact
    def __call__(self, image):
        return nn.Dense(3)(nn.relu(nn.Dense(self.width)(image.reshape(len(image), -1))))


def hinge(logits, label):
    right = jnp.take_along_axis(logits, label[:, None], 1)
    return jnp.maximum(0, 1 + logits - right).sum(1) - 1


def top2(logits, label):
    return (jnp.argsort(logits, axis=1)[:, -2:] == label[:, None]).any(1).astype(jnp.float32)


def blobs(num_examples, seed):
    centre = np.random.default_rng(0).integers(60, 196, (3, 6, 6, 3))
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, num_examples)
    return np.clip(centre[label] + rng.normal(0, 90, (num_examples, 6, 6, 3)), 0, 255).astype(np.uint8), label


TX = optax.chain(optax.clip_by_global_norm(1.0), optax.lion(optax.cosine_decay_schedule(3e-3, 30)))
NARROW = Variant(Net(1), optimizer=TX, loss=hinge, batch_size=50, num_epochs=2, split="own")
WIDE = dataclasses.replace(NARROW, model=Net(16))
SCHEDULED = optax.inject_hyperparams(optax.sgd)(learning_rate=optax.cosine_decay_schedule(0.1, 30))
CLAIM = Claim("a", "wider is more accurate", "test_accuracy", "wide", ">", "narrow")


@pytest.fixture(scope="module")
def data():
    return mnistlab.from_arrays(blobs(300, 1), blobs(200, 2), blobs(100, 3), name="blobs")


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    variants = {"narrow": NARROW, "wide": WIDE}
    keywords = {"data": data, "claims": [CLAIM], "metrics": {"top2": top2}, "workdir": folder}
    mnistlab.compare(variants, seeds=1, **keywords)
    before = (folder / "history.csv").read_text().splitlines()
    summary = mnistlab.compare(variants, seeds=2, **keywords)
    after = (folder / "history.csv").read_text().splitlines()
    assert {line.rpartition(",")[0] for line in before} <= {line.rpartition(",")[0] for line in after}
    return folder, summary


def test_it_leaves_what_a_comparison_of_the_sources_leaves(folder):
    path, summary = folder
    assert {"config.json", "summary.json", "history.csv", "report.html", "checkpoints", "figures"} <= {
        each.name for each in path.iterdir()
    }
    assert summary == json.loads((path / "summary.json").read_text())
    assert summary["data"]["name"] == "blobs" and summary["n_seeds"] == 2
    assert summary["claims"][0]["n"] == 2
    run = mnistlab.read_run(path)
    assert run.seeds == (0, 1)
    np.testing.assert_array_equal(
        run.variants["wide"].metrics["test_top2"], summary["variants"]["wide"]["metrics"]["test_top2"]["values"]
    )


def test_a_network_read_back_predicts_what_its_metrics_say(folder, data):
    path, summary = folder
    run = mnistlab.read_run(path)
    for seed in range(2):
        probability = mnistlab.predict(run, "wide", data.test.image, seed=seed)
        np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
        accuracy = (probability.argmax(axis=1) == data.test.label).mean()
        metrics = summary["variants"]["wide"]["metrics"]
        assert accuracy == pytest.approx(metrics["test_accuracy"]["values"][seed], abs=1e-6)
        second = np.argsort(probability, axis=1)[:, -2:] == data.test.label[:, None]
        assert second.any(axis=1).mean() == pytest.approx(metrics["test_top2"]["values"][seed], abs=1e-6)


@pytest.mark.parametrize(
    "change, named",
    [
        ({"model": Net(17)}, "program"),
        ({"loss": lambda logits, label: 2 * hinge(logits, label)}, "program"),
        ({"optimizer": optax.sgd(0.1)}, "program"),
        ({"num_epochs": 3}, "epochs 2 -> 3"),
    ],
)
def test_another_network_loss_or_optimiser_is_another_run(folder, data, change, named):
    path, _ = folder
    changed = {"narrow": NARROW, "wide": dataclasses.replace(WIDE, **change)}
    with pytest.raises(UserError, match=f"another run .*{named}"):
        mnistlab.compare(changed, data=data, claims=[CLAIM], metrics={"top2": top2}, seeds=2, workdir=path)


@pytest.mark.parametrize(
    "change, named",
    [
        ({"loss": lambda logits, label: logits.sum()}, "loss gives .* expected one number per example"),
        ({"model": nn.Dense(3)}, "expected logits"),
        ({"patience_epochs": 2, "split": "own"}, None),
        ({"learning_rates": (0.1, 0.2)}, "learning_rate cannot be swept"),
        ({"learning_rates": (0.1, 0.2), "optimizer": SCHEDULED}, "in the optimizer it is a schedule"),
    ],
)
def test_what_cannot_work_is_one_line(data, tmp_path, change, named):
    variants = {"wide": dataclasses.replace(WIDE, num_epochs=1, **change)}
    if named is None:
        assert mnistlab.compare(variants, data=data, workdir=tmp_path)["variants"]
        return
    with pytest.raises(UserError, match=named) as raised:
        mnistlab.compare(variants, data=data, workdir=tmp_path)
    assert "\n" not in str(raised.value)


def test_labels_beyond_the_logits_and_a_claim_on_no_variant_are_one_line(data, tmp_path):
    image, label = blobs(60, 4)
    wrong = mnistlab.from_arrays((image, label + 1), (image, label), name="wrong")
    with pytest.raises(UserError, match="3 logits"):
        mnistlab.compare({"wide": WIDE}, data=wrong, workdir=tmp_path / "labels")
    claim = dataclasses.replace(CLAIM, right="narow")
    with pytest.raises(UserError, match=r"claim a .*narow.* did you mean narrow"):
        mnistlab.compare({"narrow": NARROW, "wide": WIDE}, data=data, claims=[claim], workdir=tmp_path / "claim")
    for matters in (-0.1, float("nan"), float("inf")):
        claim = dataclasses.replace(CLAIM, matters=matters)
        with pytest.raises(UserError, match="would matter; expected a finite number"):
            mnistlab.compare({"narrow": NARROW, "wide": WIDE}, data=data, claims=[claim], workdir=tmp_path / "claim")


def test_a_direction_that_there_is_not_is_refused_before_training(data, tmp_path):
    claim = dataclasses.replace(CLAIM, direction="=")
    with pytest.raises(UserError, match="the direction of claim a is '='; expected one of >, <, about, same"):
        mnistlab.compare({"narrow": NARROW, "wide": WIDE}, data=data, claims=[claim], workdir=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_comparison_without_a_source_is_its_users_own():
    own = Experiment("mine", controlled={"narrow": NARROW, "wide": WIDE}, claims=(CLAIM,))
    assert (own.title, own.source, own.claims[0].ours) == ("mine", spec.OWN, True)
    theirs = Experiment("mine", source="a paper", controlled={"wide": WIDE}, claims=(CLAIM,))
    assert (theirs.title, theirs.source, theirs.claims[0].ours) == ("mine", "a paper", False)


@pytest.mark.parametrize("name", ["w/o dropout", "", "..", "two\nlines", 201 * "n"])
def test_a_variant_that_cannot_be_a_folder_is_one_line(data, tmp_path, name):
    with pytest.raises(UserError, match="expected up to 200 printable characters, no /"):
        mnistlab.compare({name: WIDE}, data=data, workdir=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_claim_of_two_lines_is_refused_before_it_makes_a_summary_that_cannot_be_read(data, tmp_path):
    claim = CLAIM._replace(text="wider is\nbetter") if hasattr(CLAIM, "_replace") else None
    claim = claim or dataclasses.replace(CLAIM, text="wider is\nbetter")
    with pytest.raises(UserError, match="expected a line of printable characters"):
        mnistlab.compare({"narrow": NARROW, "wide": WIDE}, data=data, claims=[claim], workdir=tmp_path / "run")


def test_without_validation_examples_the_last_epoch_is_the_best(tmp_path):
    data = mnistlab.from_arrays(blobs(100, 1), blobs(50, 2), name="no validation")
    summary = mnistlab.compare({"wide": WIDE}, data=data, workdir=tmp_path)
    metrics = summary["variants"]["wide"]["metrics"]
    assert metrics["val_accuracy"]["values"] == [None] and metrics["best_epoch"]["values"] == [2.0]
    assert metrics["test_accuracy"]["n"] == 1
    run = mnistlab.read_run(tmp_path)
    last, best = (mnistlab.predict(run, "wide", data.test.image, which=which) for which in ("last", "best"))
    np.testing.assert_array_equal(last, best)


def test_a_sweep_of_an_optimiser_of_ones_own(data, tmp_path):
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    variant = Variant(Net(4), optimizer=tx, batch_size=50, num_epochs=1, split="own")
    summary = mnistlab.compare({"net": variant}, data=data, workdir=tmp_path, sweep={"learning_rate": (1e-9, 0.1)})
    still, moving = (summary["variants"][f"net learning_rate={rate!r}"]["metrics"] for rate in (1e-9, 0.1))
    assert moving["train_loss"]["mean"] < still["train_loss"]["mean"]


class Talking(nn.Module):
    """A network that prints, which no function that JAX keeps can do."""

    @nn.compact
    def __call__(self, image):
        jax.debug.callback(lambda: None)
        return nn.Dense(3)(image.reshape(len(image), -1))


def test_what_an_optimiser_holds_and_a_network_does_may_be_anything(data, tmp_path):
    noisy = optax.chain(optax.add_noise(0.01, 0.55, jax.random.key(3)), optax.sgd(0.01))
    variants = {
        "noisy": Variant(Net(4), optimizer=noisy, batch_size=50, num_epochs=1, split="own"),
        "talking": Variant(Talking(), optimizer=optax.sgd(0.01), batch_size=50, num_epochs=1, split="own"),
    }
    summary = mnistlab.compare(variants, data=data, seeds=2, workdir=tmp_path)
    assert {entry["metrics"]["test_loss"]["n"] for entry in summary["variants"].values()} == {2}
    first = (tmp_path / "history.csv").read_text()
    mnistlab.compare(variants, data=data, seeds=2, workdir=tmp_path)  # all of it is read back
    assert (tmp_path / "history.csv").read_text() == first
    read = mnistlab.read_run(tmp_path)
    assert mnistlab.predict(read, "noisy", data.test.image[:2]).shape == (2, 3)
    with pytest.raises(UserError):
        mnistlab.predict(read, "talking", data.test.image[:2])
    (program, optimizer) = (
        [difference for difference in saved.differing_settings(read, "noisy", read, "talking") if difference[0] == name]
        for name in ("program", "optimizer")
    )
    assert program and not optimizer  # "an optax transformation" both


def test_a_variant_whose_name_has_spaces(data, tmp_path):
    variants = {"my": NARROW, "my net": dataclasses.replace(WIDE, optimizer=mnistlab.OptimConfig())}
    mnistlab.compare({"my net": variants["my net"]}, data=data, workdir=tmp_path, sweep={"learning_rate": (0.01, 0.1)})
    run = mnistlab.read_run(tmp_path)
    for label, result in run.variants.items():
        predicted = mnistlab.predict(run, label, data.test.image).argmax(axis=1)
        assert np.mean(predicted == data.test.label) == pytest.approx(result.metrics["test_accuracy"][0], abs=1e-6)
    assert (tmp_path / "figures" / "sweep_val_accuracy.svg").exists()
    mnistlab.compare(variants, data=data, workdir=tmp_path / "both")
    both = mnistlab.read_run(tmp_path / "both")
    assert set(both.variants) == set(variants)
    assert mnistlab.predict(both, "my net", data.test.image).shape == (200, 3)


def test_arrays_that_cannot_be_trained_on_leave_nothing(data, tmp_path):
    bad = data.train._replace(image=data.train.image.astype(np.int64))
    with pytest.raises(UserError, match="train images are int64"):
        named = Variant("dense", num_epochs=1, split="own")  # of no program of its own, whose digest looks at the data
        mnistlab.compare({"a": named}, data=dataclasses.replace(data, train=bad), workdir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_transformation_that_looks_at_the_loss(data, tmp_path):
    tx = optax.chain(optax.sgd(0.01), optax.contrib.reduce_on_plateau(patience=1))
    variant = Variant(Net(4), optimizer=tx, batch_size=50, num_epochs=1, split="own")
    assert mnistlab.compare({"net": variant}, data=data, workdir=tmp_path)["variants"]["net"]["metrics"]


def test_pictures_in_folders(tmp_path):
    from PIL import Image

    for part, count in (("train", 8), ("test", 4)):
        for name, value in (("dark", 10), ("light", 240)):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("L", (40, 30), value).save(tmp_path / part / name / f"{number}.png")
    data = mnistlab.from_folder(tmp_path, image_shape=(8, 8, 1))
    assert data.class_names == ("dark", "light") and data.train.image.shape == (16, 8, 8, 1)
    assert data.test.label.tolist() == [0] * 4 + [1] * 4
    for hidden in ("train/.ipynb_checkpoints", "test/.git"):
        (tmp_path / hidden).mkdir()
    (tmp_path / "train" / "dark" / ".DS_Store").write_text("no picture")
    assert mnistlab.from_folder(tmp_path, image_shape=(8, 8, 1)).fingerprint == data.fingerprint
    with pytest.raises(UserError, match="1 for grey or 3 for colour"):
        mnistlab.from_folder(tmp_path, image_shape=(8, 8, 4))
    (tmp_path / "test" / "dark" / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="as a picture"):
        mnistlab.from_folder(tmp_path)


def test_a_picture_in_a_folder_is_read_as_predict_reads_it(tmp_path):
    from PIL import Image

    for part in ("train", "test"):
        (tmp_path / part / "one").mkdir(parents=True)
        ink = np.zeros((8, 8, 4), np.uint8)  # black, and transparent
        ink[:, 3:5, 3] = 255
        Image.fromarray(ink).save(tmp_path / part / "one" / "0.png")
        lying = Image.fromarray(np.repeat([[0], [255]], 4, axis=0).repeat(8, axis=1).astype(np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: rows become columns
        lying.save(tmp_path / part / "one" / "1.jpg", exif=exif, quality=100)
    first, second = mnistlab.from_folder(tmp_path, image_shape=(8, 8, 1)).train.image[..., 0].astype(int)
    assert (first[:, 3:5] == 0).all() and (first[:, :3] == 255).all()
    assert second[:, :3].min() > 200 and second[:, 5:].max() < 50  # by EXIF's table of orientations


def test_a_name_stands_for_what_it_was_registered_as(data, tmp_path, monkeypatch):
    """An entry of a registry is part of a run: with another one the old weights are foreign."""
    from mnistlab.nets import layers, models
    from mnistlab.training import losses

    def train(activation, loss):
        monkeypatch.setitem(models.MODELS, "mine", (layers.Flatten(), layers.Dense(4, activation), layers.Dense(3)))
        monkeypatch.setitem(losses.LOSSES, "mine", loss)
        variant = Variant("mine", loss="mine", batch_size=50, num_epochs=1)
        return mnistlab.compare({"net": variant}, data=data, workdir=tmp_path / "run")

    first = train("relu", hinge)
    assert train("relu", hinge)["variants"] == first["variants"]
    for activation, loss in (("tanh", hinge), ("relu", lambda logits, label: 2 * hinge(logits, label))):
        with pytest.raises(UserError, match="another run"):
            train(activation, loss)
    net = mnistlab.load_net(tmp_path / "run")
    monkeypatch.undo()  # a process that does not know the name
    assert mnistlab.load_net(tmp_path / "run").logits(data.test.image[:3]).shape == (3, 3) and net.image.shape == (
        6,
        6,
        3,
    )


def test_data_with_a_validation_set_are_validated_on_it_by_every_road(data, tmp_path):
    config = TrainConfig("dense", batch_size=50, num_epochs=1)
    trained = mnistlab.train(config, data, (0,))
    assert trained.result.config.split == "own"
    experiment = Experiment("mine", controlled={"dense": Variant("dense", batch_size=50, num_epochs=1)}, data=data)
    run.run(experiment, Options(tmp_path / "run", protocol="controlled"))
    found = mnistlab.read_run(tmp_path / "run").variants["dense"]
    assert found.config.split == "own"
    np.testing.assert_allclose(found.metrics["val_accuracy"], trained.result.metrics["val_accuracy"], atol=1e-6)
    logits = mnistlab.load_net(tmp_path / "run").logits(data.val.image)
    assert found.metrics["val_accuracy"][0] == pytest.approx(np.mean(logits.argmax(1) == data.val.label), abs=1e-6)


def test_a_module_that_must_be_told_whether_it_trains(data, tmp_path):
    class Told(nn.Module):
        @nn.compact
        def __call__(self, image, train):
            x = nn.Dropout(0.5, deterministic=not train)(image.reshape(len(image), -1))
            return nn.Dense(3)(x)

    variant = Variant(Told(), batch_size=50, num_epochs=1)
    assert mnistlab.compare({"net": variant}, data=data, workdir=tmp_path)["variants"]["net"]["metrics"]


def test_a_metric_of_a_name_that_is_taken_is_refused(data, tmp_path):
    with pytest.raises(UserError, match="a metric is called accuracy"):
        mnistlab.compare({"net": NARROW}, data=data, metrics={"accuracy": top2}, workdir=tmp_path)


def test_images_too_small_for_a_named_network_are_one_line_and_leave_nothing(data, tmp_path):
    with pytest.raises(UserError, match="leaves nothing of the image: it is too small"):
        mnistlab.compare({"net": Variant("lenet5", num_epochs=1)}, data=data, workdir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


COMPARISON = """
    import numpy as np
    from flax import linen as nn
    from mnistlab import Claim, Experiment, Variant, from_arrays

    class Net(nn.Module):
        width: int

        @nn.compact
        def __call__(self, image):
            return nn.Dense(2)(nn.relu(nn.Dense(self.width)(image.reshape(len(image), -1))))

    def data():
        rng = np.random.default_rng(0)
        label = rng.integers(0, 2, 200)
        image = (rng.integers(0, 100, (200, 4, 4)) + 100 * label[:, None, None]).astype(np.uint8)
        return from_arrays((image[:150], label[:150]), (image[150:], label[150:]), name="dark and light")

    EXPERIMENT = Experiment(
        name="mine",
        title="Narrow against wide",
        controlled={f"net_{w}": Variant(Net(w), split="own", batch_size=50, num_epochs=2) for w in (1, 8)},
        claims=(Claim("a", "wider is better", "test_accuracy", "net_8", ">", "net_1"),),
        data=data,
    )
"""


def test_a_file_of_ones_own_runs_through_the_command_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(textwrap.dedent(COMPARISON))

    def run(*flags):
        arguments = ["run", str(path), *flags, "--progress=none"]
        return forks.run("experiments.cli.main", arguments, pictures=False)

    done = run("--seeds=2", "--learning_rate=0.01", f"--workdir={tmp_path / 'w'}")
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "w" / "summary.json").read_text())
    assert summary["n_seeds"] == 2 and summary["data"]["name"] == "dark and light"
    refused = run("--variants=net_9", f"--workdir={tmp_path / 'w'}")
    assert refused.returncode == 2 and "net_9" in refused.stderr and "net_8" in refused.stderr


def test_statistics_need_neither_jax_nor_flax():
    code = (
        "import sys, mnistlab; mnistlab.stats.compare; print([m for m in ('jax', 'flax', 'optax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_public_name_is_there_and_has_a_docstring():
    for name in mnistlab.__all__:
        assert getattr(mnistlab, name).__doc__, name
    assert set(mnistlab.__all__) <= set(dir(mnistlab)) and mnistlab.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mnistlab.nothing


def test_the_same_program_has_the_same_digest_in_every_process(data, tmp_path):
    del data
    code = f"""
        import jax, numpy as np, sys
        sys.path.insert(0, {str(ROOT / "tests")!r})
        import test_open
        from mnistlab.comparison import run
        data = test_open.mnistlab.from_arrays(test_open.blobs(20, 1), test_open.blobs(20, 2))
        print(run._program_digest(test_open.WIDE, data))
    """
    found = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(found) == 1 and jax is not None


def test_an_array_inside_a_jitted_function_belongs_to_the_program(data, tmp_path):
    def weighted(weights):
        scale = jnp.asarray(weights)

        @jax.jit
        def loss(logits, label):
            return scale[label] * hinge(logits, label)

        return {"wide": dataclasses.replace(WIDE, loss=loss, num_epochs=1)}

    mnistlab.compare(weighted([1.0, 1.0, 1.0]), data=data, workdir=tmp_path, playground=False)
    mnistlab.compare(weighted([1.0, 1.0, 1.0]), data=data, workdir=tmp_path, playground=False)
    with pytest.raises(UserError, match=r"another run .*program"):
        mnistlab.compare(weighted([1.0, 1.0, 9.0]), data=data, workdir=tmp_path, playground=False)


def test_pictures_of_sixteen_bits_keep_their_greys(tmp_path):
    from PIL import Image

    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    for part, name in itertools.product(("train", "test"), ("a", "b")):
        (tmp_path / part / name).mkdir(parents=True)
        Image.fromarray(ramp).save(tmp_path / part / name / "ramp.png")
    for channels in (1, 3):
        data = mnistlab.from_folder(tmp_path, image_shape=(8, 8, channels))
        np.testing.assert_allclose(data.train.image[0, ..., 0], ramp / 257, atol=1)


def test_what_may_be_done_to_images_depends_on_their_own_size():
    image = np.zeros((10, 64, 64, 1), np.uint8)
    large = mnistlab.from_arrays((image, np.arange(10) % 3), (image, np.arange(10) % 3), name="large")
    variants = {"a": dataclasses.replace(WIDE, augment=mnistlab.AugmentConfig(cutout_pixels=32))}
    experiment = Experiment("own", controlled=variants, data=large)
    assert spec.resolve(experiment, Options(Path(), protocol="controlled"))
    small = dataclasses.replace(experiment, data=mnistlab.from_arrays(blobs(9, 1), blobs(9, 2), name="small"))
    with pytest.raises(UserError, match="expected at most 6: the images are 6 x 6 pixels"):
        spec.resolve(small, Options(Path(), protocol="controlled"))


def test_ones_own_claims_are_not_a_sources(folder):
    path, summary = folder
    assert summary["claims"][0]["ours"]
    assert "our question" in (path / "report.html").read_text()
