import time

import jax
import jax.numpy as jnp
import numpy as np

from mnistlab import timing

PAUSE = 0.02  # seconds


class Pending:
    """A result that is there a PAUSE after it is asked for, as that of an asynchronous device."""

    def block_until_ready(self):
        time.sleep(PAUSE)
        return self


def test_dispatch_ends_before_the_result_is_there():
    measured = timing.time_calls(Pending, num_repeats=5)
    assert (measured.finished_seconds >= PAUSE).all()
    assert (measured.dispatch_seconds < PAUSE).all()


def test_what_the_call_itself_takes_is_dispatch():
    measured = timing.time_calls(time.sleep, PAUSE, num_repeats=3)
    assert (measured.dispatch_seconds >= PAUSE).all()
    assert (measured.finished_seconds >= measured.dispatch_seconds).all()


def test_warm_up_is_called_but_not_measured():
    calls = []

    def slow_at_first():
        calls.append(None)
        time.sleep(PAUSE if len(calls) <= 2 else 0)

    measured = timing.time_calls(slow_at_first, num_warmup=2, num_repeats=4)
    assert len(calls) == 6
    assert measured.dispatch_seconds.shape == measured.finished_seconds.shape == (4,)
    assert np.median(measured.finished_seconds) < PAUSE


def test_no_call_starts_before_the_last_result_is_there():
    log = []

    class Logged:
        def block_until_ready(self):
            log.append("finished")
            return self

    def call():
        log.append("called")
        return Logged()

    timing.time_calls(call, num_warmup=1, num_repeats=2)
    assert log == ["called", "finished"] * 3


def test_compiling_is_not_measured():
    @jax.jit
    def chain(x):
        for _ in range(30):
            x = jnp.sin(x) @ x
        return x

    start = time.perf_counter()
    measured = timing.time_calls(chain, jnp.ones((4, 4)), num_repeats=3)
    total = time.perf_counter() - start
    assert measured.finished_seconds.sum() < total / 2
