"""The peers' best settings: every setting of a family trains one short round, and the quickest stays."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mnistlab.errors import UserError

from .processes import Peer

FAMILIES = {
    "pytorch": (
        "pytorch",
        "pytorch_ordered",
        "pytorch_ordered_channels_last",
        "pytorch_ordered_one_thread",
        "pytorch_ordered_channels_last_one_thread",
    ),
    "pytorch_compiled": (
        "pytorch_compiled_ordered",
        "pytorch_compiled_ordered_channels_last",
        "pytorch_compiled_ordered_one_thread",
        "pytorch_compiled_tuned_ordered",
        "pytorch_compiled_graphs_ordered",
    ),
    "keras_tensorflow": (
        "keras_tensorflow",
        "keras_tensorflow_jit",
        "keras_tensorflow_nojit",
        "keras_tensorflow_one_thread",
    ),
    "flax": ("flax_step", "flax_scan"),
}
"""What is asked for by one name -> its settings; the first is taken where none is looked for. What is compiled takes long,
so that whether gathering costs anything is asked of PyTorch alone."""


class Tuned(NamedTuple):
    """The best of a family: its process is running, the others have ended."""

    peer: Peer
    first_round: dict[str, Any]
    tried: dict[str, float]  # setting -> seconds of a pass in its short round; NaN where it failed


def settings(name: str, has_convolutions: bool, on_gpu: bool, num_cores: int) -> tuple[str, ...]:
    """What to try for a peer that was asked for: the settings of a family that differ here, or the peer itself.

    Without convolutions images have no channels to put last. On a CPU there are no CUDA graphs, and Keras compiles
    only when told to; on a GPU it does unless told not to, and threads wait for the GPU alone.
    """
    if name not in FAMILIES:
        return (name,)
    pointless = {
        "channels_last": not has_convolutions,
        "one_thread": on_gpu or num_cores == 1,
        "graphs": not on_gpu,
        "_jit": on_gpu,
        "_nojit": not on_gpu,
    }
    return tuple(one for one in FAMILIES[name] if not any(no and part in one for part, no in pointless.items()))


def best_of(tried: Sequence[str], start: Callable[[str], Peer], say: Callable[[str], None]) -> Tuned:
    """Trains one round of every setting in turn, no two processes of the family at a time but for the best so far.

    A setting that fails is said and left out.

    Raises:
      UserError: all of them fail.
    """
    best: Tuned | None = None
    seconds: dict[str, float] = {}
    for name in tried:
        try:
            peer = start(name)
            first = peer.round()
        except UserError as error:
            if best is None and name == tried[-1]:
                raise
            say(f"left out: {error}")
            seconds[name] = math.nan
            continue
        seconds[name] = first["seconds"]
        if best is not None and best.first_round["seconds"] <= first["seconds"]:
            peer.end()
            continue
        if best is not None:
            best.peer.end()
        best = Tuned(peer, first, seconds)
    assert best is not None
    return best
