"""What lives where on a mesh: seeds along one axis, parameters along another.

`sharded` (in `metalearn.mapping`) spreads the work of tasks; these spread what is kept. None changes a number.
"""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metalearn.core import Algorithm, InputError, Key
from metalearn.mapping import along


def spread_seeds(keys: Key, mesh: Mesh, axis: str | None = None) -> Key:
    """`[S]` keys along an axis of a mesh: `run` then trains S / size seeds on each device.

    Raises `InputError` where the axis does not exist or its size does not divide S.
    """
    mesh, axis = along(mesh, axis)
    if keys.ndim != 1 or keys.shape[0] % mesh.shape[axis]:
        size = f"{mesh.shape[axis]} devices of axis {axis!r}"
        raise InputError(f"keys: have shape {keys.shape}; expected [S] with S a multiple of the {size}")
    return jax.device_put(keys, NamedSharding(mesh, PartitionSpec(axis)))


def spread_state(algorithm: Algorithm, mesh: Mesh, axis: str | None = None, *, least: int = 1024) -> Algorithm:
    """The same algorithm with its state (parameters, optimizer, table) in pieces along an axis of a mesh, FSDP-style.

    Each leaf of at least `least` numbers is cut along its longest dimension that the axis divides; the others are
    on every device. A step gathers what it computes with, and keeps of the result only each device's piece, so that
    what rests between steps takes 1 / size of the memory.

    Raises `InputError` where the mesh has no such axis.
    """
    mesh, axis = along(mesh, axis)

    def pieces(leaf):
        spec = PartitionSpec()
        fits = [i for i in range(leaf.ndim) if leaf.shape[i] % mesh.shape[axis] == 0]
        if leaf.size >= least and fits:
            longest = max(fits, key=lambda i: leaf.shape[i])
            spec = PartitionSpec(*[None] * longest, axis)
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    def init(key, batch):
        return jax.tree.map(pieces, algorithm.init(key, batch))

    def step(state, batch, key):
        state, metrics = algorithm.step(state, batch, key)
        return jax.tree.map(pieces, state), metrics

    return Algorithm(init, step)
