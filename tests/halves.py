"""One seed alone on two devices, and in a population of two: `python tests/halves.py NET [one_core]`, a JSON line.

With one_core also alone on one device.

Needs two devices: XLA_FLAGS=--xla_force_host_platform_device_count=2 makes them of a CPU.
"""

import dataclasses
import json
import sys

import jax
import numpy as np
import training

from mnistlab.config import AugmentConfig, TrainConfig
from mnistlab.data import datasets
from mnistlab.devices import mesh

AUGMENT = AugmentConfig(shift_pixels=2)


def main(net, one_core=""):
    dataset, layout = datasets.load("mnist"), mesh.make_layout()
    few = datasets.Split(dataset.test.image[:500], dataset.test.label[:500])
    dataset = dataclasses.replace(dataset, test=few)
    config = TrainConfig(net, augment=AUGMENT, limit_examples=600, batch_size=256, num_epochs=2)

    def bits(seeds, layout):
        """The digits of the curves and of the final weights of seed 3."""
        states = []

        def on_epoch(epoch):
            states.append(epoch.snapshot.carry.state.params)

        result = training.run(config, dataset, seeds, layout=layout, on_epoch=on_epoch)
        number = seeds.index(3)
        weights = [np.asarray(leaf)[number].tobytes().hex() for leaf in jax.tree.leaves(states[-1])]
        return weights, [curve[number].tolist() for curve in result.history.values()]

    halved, in_company = bits((3,), layout), bits((3, 5), layout)
    devices = [mesh.make_grid(layout, 1, halves).num_devices for halves in (False, True)]
    said = {"devices": devices, "company": halved == in_company}
    print(json.dumps({**said, "one_core": bits((3,), None) == halved} if one_core else said))


if __name__ == "__main__":
    main(*sys.argv[1:])
