"""The floor: what a step would take if it did nothing but its matrix products at full speed, or nothing but copy.

Floating-point operations are counted analytically, by walking the traced program: two for each multiplication and
addition of every matrix product and convolution, times the trips of the loops around it (XLA's own cost analysis
counts the body of a loop once). Element-wise work is free here. Bytes are those that no program can avoid, and both
speeds are measured on this machine in the same run.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.environment import cores

_PEAKS: list[float] = []  # measured in this run, of which the highest counts


class Work(NamedTuple):
    """Floating-point operations, and bytes read or written, in pieces of `piece` bytes (what is small is cached)."""

    flops: float
    bytes: float
    piece: float


def work(step: Callable[..., Any], *arguments: Any) -> Work:
    """Of one step: its arguments have to be read once and its results written once."""
    # a function of its own, for the trace of one known already would be reused
    jaxpr, results = jax.make_jaxpr(lambda *given: step(*given), return_shape=True)(*arguments)
    size = sum(_size(leaf) for leaf in jax.tree.leaves((arguments, results)))
    return Work(flops(jaxpr.jaxpr), size, size / 2)


def flops(jaxpr: Any) -> float:
    """Of all matrix products and convolutions in a jaxpr; of the branches of a condition, the dearest.

    Raises `NotImplementedError` at a loop whose trips are not known.
    """
    return sum(_flops(eqn) for eqn in jaxpr.eqns)


def _flops(eqn) -> float:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2.0 * eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        summed = math.prod(kernel) / kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2.0 * eqn.outvars[0].aval.size * summed / math.prod(params["lhs_dilation"])
    if name == "while":
        if any(map(flops, _inner(params))):
            raise NotImplementedError("the trips of a while loop with matrix products are not known")
        return 0.0
    inner = [flops(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _inner(params):
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                yield one


def _size(leaf) -> float:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return 0.0
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def floor(work: Work, quick: bool = False) -> dict[str, Any]:
    """The larger of operations over the peak and bytes over the bandwidth, and all four numbers."""
    _PEAKS.append(matmul_peak(256 if quick else 2048))
    peak, bandwidth = max(_PEAKS), copy_bandwidth(work.piece)
    return {
        "seconds": max(work.flops / peak, work.bytes / bandwidth),
        "flops": work.flops,
        "bytes": work.bytes,
        "peak_flops_per_s": peak,
        "copied_bytes_per_s": bandwidth,
    }


def matmul_peak(size: int = 2048, tries: int = 5) -> float:
    """Operations a second of a square product in float32: the best of several, by XLA and by NumPy."""
    a = np.random.RandomState(0).rand(size, size).astype(np.float32)
    on_device, product = jnp.asarray(a), jax.jit(jnp.matmul)
    jax.block_until_ready(product(on_device, on_device))
    xla = _fastest(lambda: jax.block_until_ready(product(on_device, on_device)), tries)
    numpy = _fastest(lambda: a @ a, tries)
    return 2.0 * size**3 / min(xla, numpy)


def copy_bandwidth(piece: float, tries: int = 5) -> float:
    """Bytes read and written a second by copying arrays of `piece` bytes, 64 KiB to 256 MiB, each core its own part."""
    count = cores()
    each = int(min(max(piece, 2**16), 2**28)) // (4 * count)
    repeats = max(1, 2**24 // (4 * each * count))
    sources = [np.ones(each, np.float32) for _ in range(count)]
    targets = [np.zeros(each, np.float32) for _ in range(count)]

    def copy(i):
        for _ in range(repeats):
            np.copyto(targets[i], sources[i])

    with ThreadPoolExecutor(count) as pool:
        seconds = _fastest(lambda: list(pool.map(copy, range(count))), tries)
    return 2.0 * 4 * each * count * repeats / seconds


def _fastest(call, tries):
    best = math.inf
    for _ in range(tries):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
