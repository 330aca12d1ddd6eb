"""One seed alone on two devices, and in a population of two: `python tests/halves.py NET [NET]`, a JSON line for each.

A NET is a name of models.MODELS or of NETS; with a + behind it also alone on one device.

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
from mnistlab.nets import models
from mnistlab.nets.layers import AvgPool, Conv, Dense, Dropout, Flatten

NETS = {  # scales of 2 and 4
    "plain": (Conv(4, 3, padding="SAME", activation="tanh"), AvgPool(2), Flatten(), Dense(10)),
    "dropout": (Conv(4, 3, activation="relu"), AvgPool(2), Dropout(0.5), Flatten(), Dropout(0.75), Dense(10)),
}
AUGMENT = AugmentConfig(shift_pixels=2)


def main(*nets):
    dataset, layout = datasets.load("mnist"), mesh.make_layout()
    few = datasets.Split(dataset.test.image[:500], dataset.test.label[:500])
    dataset = dataclasses.replace(dataset, test=few)
    devices = [mesh.make_grid(layout, 1, halves).num_devices for halves in (False, True)]
    config = TrainConfig("dense", augment=AUGMENT, limit_examples=600, batch_size=256, num_epochs=2)

    def bits(net, seeds, layout):
        """The digits of the curves and of the final weights of seed 3."""
        states = []

        def on_epoch(epoch):
            states.append(epoch.snapshot.carry.state.params)

        model = models.Network(NETS[net]) if net in NETS else models.make_model(net)
        result = training.run(config, dataset, seeds, model=model, layout=layout, on_epoch=on_epoch)
        number = seeds.index(3)
        weights = [np.asarray(leaf)[number].tobytes().hex() for leaf in jax.tree.leaves(states[-1])]
        return weights, [curve[number].tolist() for curve in result.history.values()]

    for asked in nets:
        net = asked.rstrip("+")
        halved, in_company = bits(net, (3,), layout), bits(net, (3, 5), layout)
        said = {"devices": devices, "company": halved == in_company}
        print(json.dumps(said | ({"one_core": bits(net, (3,), None) == halved} if asked != net else {})))


if __name__ == "__main__":
    main(*sys.argv[1:])
