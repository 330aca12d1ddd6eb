"""A dataset of few images as those of MNIST, whose test is soon done."""

import io

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image


class Little(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """300 + 100 images as those of MNIST: a run ends with a pass over all test images, 10,000 of MNIST."""

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent

    def _info(self):
        image, label = tfds.features.Image(shape=(28, 28, 1)), tfds.features.ClassLabel(num_classes=10)
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"image": image, "label": label}))

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._examples(300), "test": self._examples(100)}

    def _examples(self, num_examples):
        rng = np.random.default_rng(num_examples)
        for number in range(num_examples):
            png = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (28, 28)).astype(np.uint8)).save(png, "png")
            yield number, {"image": png.getvalue(), "label": number % 10}

    def _generate_examples(self):
        raise NotImplementedError
