"""One seed alone on one device, on two, and in a population of two: `python tests/halves.py NET`, a JSON line.

Needs two devices: XLA_FLAGS=--xla_force_host_platform_device_count=2 makes them of a CPU.
"""

import json
import sys

import jax
import numpy as np
import training

from mnistlab.config import AugmentConfig, TrainConfig
from mnistlab.data import datasets
from mnistlab.devices import mesh

net = sys.argv[1]
dataset = datasets.load("mnist")
config = TrainConfig(
    net, augment=AugmentConfig(shift_pixels=2, rotate_degrees=5.0), limit_examples=600, batch_size=256, num_epochs=2
)
layout = mesh.make_layout()


def bits(seeds, layout):
    """The digits of the curves and of the final weights of seed 3."""
    states = []
    result = training.run(
        config, dataset, seeds, layout=layout, on_epoch=lambda epoch: states.append(epoch.snapshot.carry.state.params)
    )
    weights = [np.asarray(leaf)[seeds.index(3)].tobytes().hex() for leaf in jax.tree.leaves(states[-1])]
    curves = [curve[seeds.index(3)].tolist() for curve in result.history.values()]
    return weights, curves


alone, halved, in_company = bits((3,), None), bits((3,), layout), bits((3, 5), layout)
print(
    json.dumps(
        {
            "devices": [mesh.make_grid(layout, 1, halves).num_devices for halves in (False, True)],
            "halved": alone == halved,
            "in_company": alone == in_company,
        }
    )
)
