"""A comparison asked of other data than its own: --dataset, from the command line and from Python."""

import dataclasses
import io
import json
from pathlib import Path

import forks
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments import cnn_variants
from experiments.lenet_vs_dense import EXPERIMENT
from mnistlab.comparison import run
from mnistlab.comparison.spec import Experiment, Options, Variant
from mnistlab.data import datasets
from mnistlab.errors import UserError

ROOT = Path(__file__).parents[1]
SMALL = {"num_epochs": 1, "batch_size": 50}


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Images of 12 by 12 by 3 of as many classes as its configuration says."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=str(number)) for number in (3, 12)]  # noqa: RUF012

    def _info(self):
        image = tfds.features.Image(shape=(12, 12, 3))
        label = tfds.features.ClassLabel(num_classes=int(self.builder_config.name))
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"image": image, "label": label}))

    def _split_generators(self, dl_manager):
        return {"train": self._examples(100), "test": self._examples(40)}

    def _examples(self, num_examples):
        rng = np.random.default_rng(num_examples)
        for number in range(num_examples):
            label = number % int(self.builder_config.name)
            png = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)).save(png, "png")
            yield number, {"image": png.getvalue(), "label": label}

    def _generate_examples(self):
        raise NotImplementedError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for config in ("3", "12"):
        Tiny(data_dir=folder, config=config).download_and_prepare(file_format="array_record")
    return folder


def asked(workdir, data_dir, dataset, **options):
    return Options(
        workdir,
        protocol="controlled",
        variants=("dense",),
        overrides={"dataset": dataset, **SMALL},
        data_dir=data_dir,
        **options,
    )


def test_a_comparison_on_mnist_is_asked_of_fashion_mnist(tmp_path, shared_cache):
    small = "--dataset=fashion_mnist --epochs=1 --batch_size=1000 --limit_examples=2000 --variants=dense"
    small += f" --progress=none --workdir={tmp_path / 'run'} --data_dir={shared_cache / 'mnistlab' / 'datasets'}"
    done = forks.run("experiments.lenet_vs_dense", small.split(), pictures=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["data"]["name"] == "fashion_mnist"
    assert summary["departures"][0] == "dataset mnist -> fashion_mnist"
    assert "dataset mnist -&gt; fashion_mnist" in (tmp_path / "run" / "report.html").read_text()


def test_any_prepared_dataset_is_taken_by_its_name(tmp_path, data_dir):
    summary = run.run(EXPERIMENT, asked(tmp_path / "run", data_dir, "tiny/3"))
    assert summary["data"]["name"] == "tiny/3" and "dataset mnist -> tiny/3" in summary["departures"]
    assert summary["variants"]["dense"]["params"] == 12 * 12 * 3 * 128 + 128 + 128 * 10 + 10
    loaded = datasets.load("tiny/3", data_dir=data_dir)
    builder = tfds.builder("tiny/3", data_dir=data_dir)
    expected = list(builder.as_data_source("test"))
    np.testing.assert_array_equal(loaded.test.image, [example["image"] for example in expected])
    np.testing.assert_array_equal(loaded.test.label, [example["label"] for example in expected])


@pytest.mark.parametrize(
    "dataset, variant, message",
    [
        pytest.param(
            "tiny/12", "dense", "dense cannot be trained on tiny/12: .* take a model of 12 logits", id="labels"
        ),
        pytest.param("tiny/3", "A", "A cannot be trained on tiny/3: .* leaves nothing of the image", id="shape"),
        pytest.param("tiny/4", "dense", "unknown dataset 'tiny/4'", id="no such configuration"),
        pytest.param(
            "nowhere", "dense", "unknown dataset 'nowhere' .*expected one of mnist, fashion_mnist", id="no name"
        ),
        pytest.param("cifar10", "dense", "cifar10.* is not prepared", id="a name of TFDS that is not on disk"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_before_anything_is_written(
    tmp_path, data_dir, dataset, variant, message
):
    experiment = cnn_variants.EXPERIMENT if variant == "A" else EXPERIMENT
    with pytest.raises(UserError, match=message) as caught:
        run.run(experiment, dataclasses.replace(asked(tmp_path / "run", data_dir, dataset), variants=(variant,)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "config.json").exists()


def test_data_of_ones_own_is_not_replaced(tmp_path, dataset):
    own = Experiment("own", controlled={"dense": Variant("dense")}, data=dataset)
    with pytest.raises(UserError, match="leave --dataset out"):
        run.run(own, asked(tmp_path, None, "mnist"))
