"""What the networks of a run say of pictures of a digit: each variant's class, its probability and how many seeds agree.

python -m experiments.predict RUN PICTURE [PICTURE ...] [--variants=lenet5,dense] [--which=best] [--workdir=results/predict]

RUN is a folder that a training experiment left, PICTURE a photograph, scan or drawing of one digit: any size, dark on
light or light on dark. WORKDIR/saw.png shows what the networks saw: each picture as 28 x 28 pixels, in their order.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from mnistlab import files
from mnistlab.comparison import loaded, saved
from mnistlab.comparison.nets import KINDS
from mnistlab.comparison.saved import RunFolder
from mnistlab.report import text

from . import common

NAME = "predict"
FLAGS = flags.FLAGS
ENLARGED = 8  # times
HEADER = ("picture", "variant", "class", "probability", "seeds that agree", "next")


def main(run: str, *pictures: str) -> None:
    """Asks every network, prints the table and leaves what they saw."""
    folder = saved.read_run(Path(run))
    labels = [saved.choose_variant(folder, name) for name in FLAGS.variants] or list(folder.variants)
    seen = loaded.load_net(folder, labels[0], which=FLAGS.which).seen(pictures)
    said = {label: _probabilities(folder, label, seen) for label in labels}
    rows = [
        (picture, label, *_words(said[label][:, number])) for number, picture in enumerate(pictures) for label in labels
    ]
    print(text.text_table(HEADER, rows))
    print("\nprobabilities are means over the seeds, and not calibrated")
    path = common.workdir(NAME) / "saw.png"
    files.write_atomic(path, _sheet(seen))
    print(f"what the networks saw: {path}")


def _probabilities(run: RunFolder, label: str, seen: np.ndarray) -> np.ndarray:
    """float32 [seeds, N, K]."""
    nets = (loaded.load_net(run, label, seed=seed, which=FLAGS.which) for seed in run.seeds_of(label))
    return np.stack([net.predict(seen) for net in nets])


def _words(probability: np.ndarray) -> Sequence[str]:
    """Of one picture, from float32 [seeds, K]: class, probability, seeds that agree, the next class.

    Networks that diverged say nothing, and are counted.
    """
    said = probability[np.isfinite(probability).all(axis=1)]
    lost = f", {len(probability) - len(said)} diverged" if len(said) < len(probability) else ""
    if not len(said):
        return text.MISSING, text.MISSING, f"0 of 0{lost}", text.MISSING
    mean = said.mean(axis=0)
    first, second = np.argsort(-mean)[:2]
    agree = int((said.argmax(axis=1) == first).sum())
    return str(first), f"{mean[first]:.3f}", f"{agree} of {len(said)}{lost}", f"{second} ({mean[second]:.3f})"


def _sheet(seen: np.ndarray) -> bytes:
    """A PNG of the images [N, H, W, C], ten in a row, enlarged, with a grey line around each."""
    from PIL import Image

    framed = np.pad(seen[..., 0], ((0, 0), (1, 1), (1, 1)), constant_values=96)
    columns = min(10, len(framed))
    missing = -len(framed) % columns
    framed = np.concatenate([framed, np.full((missing, *framed.shape[1:]), 96, np.uint8)])
    rows = framed.reshape(-1, columns, *framed.shape[1:]).swapaxes(1, 2)
    sheet = rows.reshape(rows.shape[0] * rows.shape[1], -1)
    buffer = io.BytesIO()
    Image.fromarray(sheet.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)).save(buffer, "png")
    return buffer.getvalue()


def define_flags() -> None:
    """Flags of this entry point beside the common ones."""
    common.define_run_flags()
    flags.DEFINE_list("variants", [], "Which variants are asked; default all.")
    flags.DEFINE_enum("which", "last", KINDS, "The final weights, which were tested, or those best in validation.")


if __name__ == "__main__":
    define_flags()
    common.enter(main, ("RUN", "PICTURE..."))
