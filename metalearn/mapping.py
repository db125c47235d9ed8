"""How a function is mapped over tasks and devices.

A mapping is `(fn, shared, xs) -> (total, kept, compared)`: of what `fn(shared, x_k)` returns, the sum over k of the
first, and stacks over k of the other two, `[K, ...]`. What is kept belongs to its task and stays with it; what is
compared goes into something that needs all K at once, such as inner products, and lies where that is cheap. A mapping
knows nothing of tasks or aggregators, and the numbers are the same whichever is used. What all calls share is an
argument, because what a function merely closes over cannot follow it onto a mesh.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from metalearn.arguments import whole
from metalearn.core import InputError
from metalearn.tree import num_rows

Mapping = Callable[[Callable[[Any, Any], tuple[Any, Any, Any]], Any, Any], tuple[Any, Any, Any]]


def _traced_once(fn):
    """The same function, whose trace is remembered: that of second derivatives takes as long as a step."""
    return jax.jit(fn, inline=True)


def _total(stacked: Any) -> Any:
    return jax.tree.map(lambda a: a.sum(0), stacked)


def vmapped() -> Mapping:
    """All tasks at once: the fastest where memory allows, on a GPU or TPU."""

    def mapping(fn, shared, xs):
        summands, kept, compared = jax.vmap(fn, in_axes=(None, 0))(shared, xs)
        return _total(summands), kept, compared

    return mapping


def scanned(chunk: int = 1) -> Mapping:
    """`chunk` tasks at a time, one chunk after another: memory for one chunk, and on a CPU the fastest for networks.

    A number of tasks that `chunk` does not divide leaves a smaller last chunk.

    Raises `InputError` where `chunk` is no whole number of at least 1.
    """
    chunk = whole("chunk", chunk)

    def mapping(fn, shared, xs):
        fn = _traced_once(fn)
        count = num_rows(xs)
        full, rest = divmod(count, min(chunk, count))
        size = min(chunk, count)
        at_once = vmapped()

        def several(part):
            if size > 1:
                return at_once(fn, shared, part)
            summand, *stacks = fn(shared, jax.tree.map(lambda a: a[0], part))
            return summand, *jax.tree.map(lambda a: jnp.asarray(a)[None], stacks)

        # as rows: a loop over arrays with an axis of one, such as images of one channel, makes XLA copy them all
        main = jax.tree.map(lambda a: a[: full * size].reshape(full, -1), xs)

        def part_of(rows):
            return jax.tree.map(lambda row, a: row.reshape((size,) + a.shape[1:]), rows, xs)

        shapes = jax.eval_shape(lambda rows: several(part_of(rows))[0], jax.tree.map(lambda a: a[0], main))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def body(total, rows):
            summand, *stacks = several(part_of(rows))
            return jax.tree.map(jnp.add, total, summand), stacks

        total, stacks = jax.lax.scan(body, zero, main)
        stacks = jax.tree.map(lambda a: a.reshape((full * size,) + a.shape[2:]), stacks)
        if rest:
            last_total, *last = at_once(fn, shared, jax.tree.map(lambda a: a[full * size :], xs))
            total = jax.tree.map(jnp.add, total, last_total)
            stacks = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), stacks, last)
        return total, *stacks

    return mapping


def sharded(mesh: Mesh, axis: str | None = None, inner: Mapping | None = None, *, pieces: str | None = None) -> Mapping:
    """Tasks spread over one axis of a device mesh; each device maps its share with `inner` (by default `auto`).

    What tasks share is gathered whole on each device, unless `pieces` names the other axis along which `spread_state`
    has cut it: then the devices of that axis work on a task together, each with its piece of every layer.

    Uneven numbers of tasks are padded with copies that count for nothing. Sums cross devices, and what is kept stays
    where it was computed. What is compared changes hands once (all-to-all): a device gives away its tasks' numbers,
    and receives all K of its share of the numbers, so that nobody holds K whole updates. A scalar goes to everybody.
    What is then made of it lies in pieces too, unless somebody says otherwise, as `run` does.

    Raises `InputError` where the mesh has no such axis, or `pieces` is that of the tasks.
    """
    mesh, axis = along(mesh, axis)
    inner = inner or auto
    size = mesh.shape[axis]
    if pieces == axis:
        raise InputError(f"pieces={pieces!r} must be another axis than that of the tasks")
    by_hand = set(mesh.axis_names) - ({along(mesh, pieces)[1]} if pieces else set())

    def mapping(fn, shared, xs):
        fn = _traced_once(fn)
        count = num_rows(xs)
        padding = -count % size
        padded = jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], padding, 0)]) if padding else a, xs)
        present = jnp.arange(count + padding) < count

        def guarded(shared, pair):
            x, real = pair
            summand, *stacks = fn(shared, x)
            return jax.tree.map(lambda a: jnp.where(real, a, jnp.zeros_like(a)), summand), *stacks

        def local(shared, part):
            total, kept, compared = inner(
                guarded if padding else lambda shared, pair: fn(shared, pair[0]), shared, part
            )
            return jax.lax.psum(total, axis), kept, jax.tree.map(lambda a: _by_number(a, size, axis), compared)

        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
        shapes = jax.eval_shape(fn, shared, one)[2]
        cut = jax.tree.map(
            lambda a: PartitionSpec(*[None] * _longest(a.shape), axis) if a.shape else PartitionSpec(), shapes
        )
        # check_vma=True would sum gradients taken inside over the axis once more, without a word
        spread = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(axis)),
            out_specs=(PartitionSpec(), PartitionSpec(axis), cut),
            axis_names=by_hand,
            check_vma=False,
        )
        total, kept, compared = spread(shared, (padded, present))
        trimmed = jax.tree.map(lambda a, one: a[:count, *map(slice, one.shape)], compared, shapes)
        return total, jax.tree.map(lambda a: a[:count], kept), trimmed

    return mapping


def _by_number(a: jax.Array, size: int, axis: str) -> jax.Array:
    """From some tasks' whole leaves `[k, ...]` to all tasks' pieces of them, cut along the longest dimension."""
    cut = _longest(a.shape[1:])
    if not cut:
        return jax.lax.all_gather(a, axis, tiled=True)
    padded = jnp.pad(a, [(0, -n % size if i == cut else 0) for i, n in enumerate(a.shape)])
    return jax.lax.all_to_all(padded, axis, cut, 0, tiled=True)


def _longest(shape: tuple[int, ...]) -> int:
    """The number of a task's longest dimension, counted from 1; 0 where it has none."""
    return 1 + max(range(len(shape)), key=lambda i: shape[i], default=-1)


def along(mesh: Mesh, axis: str | None) -> tuple[Mesh, str]:
    """The mesh and the name of one of its axes, the first unless given; `InputError` where there is no such axis."""
    axis = axis or mesh.axis_names[0]
    if axis not in mesh.axis_names:
        raise InputError(f"axis={axis!r} is not an axis of the mesh, which has {', '.join(mesh.axis_names)}")
    # `jax.make_mesh` makes axes whose shardings are part of every array's type, which other inputs do not have
    return Mesh(mesh.devices, mesh.axis_names), axis


def auto(fn, shared, xs):
    """The mapping that measurements favour on this backend.

    CPU: one task after another for networks, where what tasks share, or what each keeps, has 20,000 numbers and more
    (among more than 32 tasks, 5,000). Of smaller ones four to ten at a time, so many that none are left over, because a
    smaller last chunk is compiled too; but all of 33 to 128 at once where they have no more than 300,000 numbers
    together, which a cache holds. A model with XLA's own convolution is vmapped, because that is slow inside any loop
    on a CPU. GPU and TPU: all at once, a guess, for none was measured.
    """
    if jax.default_backend() != "cpu":
        return vmapped()(fn, shared, xs)
    fn = _traced_once(fn)
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
    closed, (_, kept, _) = jax.make_jaxpr(fn, return_shape=True)(shared, one)
    if contains_convolution(closed.jaxpr):
        return vmapped()(fn, shared, xs)
    size = max(sum(getattr(leaf, "size", 1) for leaf in jax.tree.leaves(tree)) for tree in (shared, kept))
    count = num_rows(xs)
    if 32 < count <= 128 and count * size <= 300_000:
        return vmapped()(fn, shared, xs)
    if size >= (20_000 if count <= 32 else 5_000):
        return scanned()(fn, shared, xs)
    even = (chunk for chunk in range(10, 3, -1) if count % chunk == 0)
    return scanned(next(even, 8))(fn, shared, xs)


def contains_convolution(jaxpr: Any) -> bool:
    """Whether XLA's convolution occurs anywhere in a jaxpr, inner ones included."""
    return any(equation.primitive.name == "conv_general_dilated" for equation in equations(jaxpr))


def equations(value: Any) -> Iterator[Any]:
    """All equations of a jaxpr, those of inner jaxprs included."""
    if isinstance(value, tuple | list):
        for one in value:
            yield from equations(one)
        return
    for equation in getattr(getattr(value, "jaxpr", value), "eqns", ()):
        yield equation
        yield from equations(tuple(equation.params.values()))
