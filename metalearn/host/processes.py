"""Several processes that run the same program, one on each host of a pod: who writes, and how all stay in step.

After `jax.distributed.initialize()` every process calls `run` alike. Process 0 alone touches the run's folder, so
only it needs the disk; what it read is broadcast, and what any of them was told to do, all do.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from metalearn.core import InputError
from metalearn.host import keys


def leads() -> bool:
    """Whether this process writes logs and checkpoints."""
    return jax.process_index() == 0


def agreed(number: int | None) -> int | None:
    """The largest of what the processes say, None being the least: a signal that reached one has reached all."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number or 0)).max()) or None


def on_host(tree: Any) -> Any:
    """The same tree where every process can read every leaf: what is spread over several hosts is gathered."""

    def gathered(leaf):
        if readable(leaf):
            return leaf
        return keys.like(multihost_utils.process_allgather(keys.numbers(leaf), tiled=True), leaf)

    return jax.tree.map(gathered, tree)


def from_lead(read: Callable[[], tuple[Any, Any]], like: Callable[[], Any]) -> tuple[Any, Any]:
    """`read() -> (what JSON can hold, a state or None)` of process 0, for all of them; where it fails, all stop.

    `like()` gives the state's shapes to those that did not read it; keys are their numbers.
    """
    if jax.process_count() == 1:
        return read()
    failed, found, state = None, None, None
    if leads():
        try:
            found, state = read()
        except InputError as error:
            failed = error
    text = np.frombuffer(json.dumps([failed is None, state is not None, found]).encode(), np.uint8)
    text = np.resize(text, int(multihost_utils.broadcast_one_to_all(np.int32(text.size))))
    succeeded, present, found = json.loads(bytes(multihost_utils.broadcast_one_to_all(text)))
    if not succeeded:
        raise failed or InputError("process 0 could not begin; its message says why.")
    if present:
        if not leads():
            state = jax.tree.map(lambda one: np.zeros(one.shape, one.dtype), jax.tree.map(keys.numbers, like()))
        state = multihost_utils.broadcast_one_to_all(state)
    return found, state


def readable(leaf: Any) -> bool:
    """Whether this process can read all of a leaf."""
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
