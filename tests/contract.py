"""A user's own comparison through the public interface, as a script: python contract.py FOLDER [SEEDS]."""

import sys

import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import mnistlab
from mnistlab import Claim, Variant


class Net(nn.Module):
    width: int

    @nn.compact
    def __call__(self, image):  # float32 [N, H, W, C] -> logits [N, K]
        return nn.Dense(5)(nn.relu(nn.Dense(self.width)(image.reshape(len(image), -1))))


rng = np.random.default_rng(0)
centre = rng.integers(60, 196, (5, 12, 12, 3))
label = rng.integers(0, 5, 6000)
image = np.clip(centre[label] + rng.normal(0, 90, (6000, 12, 12, 3)), 0, 255).astype(np.uint8)
data = mnistlab.from_arrays(train=(image[:4000], label[:4000]), test=(image[4000:], label[4000:]), name="blobs")


def hinge(logits, label):  # float32 [N, K], int32 [N] -> float32 [N]
    right = jnp.take_along_axis(logits, label[:, None], 1)
    return jnp.maximum(0, 1 + logits - right).sum(1) - 1


def top2(logits, label):  # float32 [N]
    return (jnp.argsort(logits, axis=1)[:, -2:] == label[:, None]).any(1).astype(jnp.float32)


tx = optax.chain(optax.clip_by_global_norm(1.0), optax.lion(optax.cosine_decay_schedule(1e-3, 120)))
summary = mnistlab.compare(
    {
        "narrow": Variant(model=Net(1), optimizer=tx, loss=hinge, batch_size=100, num_epochs=3),
        "wide": Variant(model=Net(64), optimizer=tx, loss=hinge, batch_size=100, num_epochs=3),
    },
    data=data,
    claims=[Claim("a", "wider is more accurate", "test_accuracy", "wide", ">", "narrow")],
    metrics={"top2": top2},
    seeds=int(sys.argv[2]) if len(sys.argv) > 2 else 6,
    workdir=sys.argv[1],
)
print(summary["claims"][0]["verdict"], summary["variants"]["wide"]["metrics"]["test_top2"]["mean"])
run = mnistlab.read_run(sys.argv[1])
print(mnistlab.predict(run, "wide", image[:3], seed=2).shape)  # class probabilities float32 [3, 5]
