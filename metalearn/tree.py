"""Trees of parameters: which leaves are trained (partition, merge, statistics, paths), their types, rows and shapes."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metalearn.arguments import pattern
from metalearn.core import InputError, Params, Statistic


def _is_statistic(leaf: Any) -> bool:
    return isinstance(leaf, Statistic)


def _is_hole(leaf: Any) -> bool:
    return leaf is None or _is_statistic(leaf)


def path_name(path: tuple) -> str:
    """A leaf's path as the user writes it: `params/head/kernel`."""
    return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def partition(params: Params, where: str | None = None) -> tuple[Params, Params]:
    """Splits a tree into (trained, rest): two trees of the same structure with `None` in each other's places.

    `where` is a regular expression searched in each leaf's path (`params/head/kernel`); `None` trains every leaf.
    `Statistic` leaves are never trained. Raises `InputError` where `where` is no pattern or
    matches nothing.

    >>> partition({"body": 1.0, "head": 2.0}, "head")
    ({'body': None, 'head': 2.0}, {'body': 1.0, 'head': None})
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_statistic)
    wanted = re.compile("") if where is None else pattern("where", where)
    trained = [not _is_statistic(v) and bool(wanted.search(path_name(p))) for p, v in leaves]
    if where is not None and not any(trained):
        names = [path_name(p) for p, v in leaves if not _is_statistic(v)]
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise InputError(f"where={where!r} matches no trainable parameter; the paths are {shown}")
    return (
        jax.tree.unflatten(treedef, [v if t else None for t, (_, v) in zip(trained, leaves)]),
        jax.tree.unflatten(treedef, [None if t else v for t, (_, v) in zip(trained, leaves)]),
    )


def merge(trained: Params, rest: Params) -> Params:
    """The inverse of `partition`."""
    return jax.tree.map(lambda a, b: b if a is None else a, trained, rest, is_leaf=_is_hole)


def statistics(params: Params) -> Any:
    """The `Statistic` leaves of a tree, with `None` in the place of every other leaf."""
    return jax.tree.map(lambda v: v if _is_statistic(v) else None, params, is_leaf=_is_statistic)


def with_statistics(params: Params, new: Any) -> Params:
    """`params` with its `Statistic` leaves replaced by those of `new` (which may be `None`: nothing changes)."""
    return params if new is None else merge(new, params)


def select(condition: jax.Array, on_true: Any, on_false: Any) -> Any:
    """`on_true` where the scalar `condition` holds, leaf by leaf, else `on_false`."""
    return jax.tree.map(lambda a, b: jax.lax.select(condition, jnp.asarray(a), jnp.asarray(b)), on_true, on_false)


def strong(tree: Any) -> Any:
    """The same without weak types: a step returns none and a restored state has none, so that one that begins with some
    would be compiled twice."""

    def one(leaf):
        leaf = jnp.asarray(leaf)
        extended = jnp.issubdtype(leaf.dtype, jax.dtypes.extended)  # keys
        return leaf if extended else jax.lax.convert_element_type(leaf, leaf.dtype)

    return jax.tree.map(one, tree)


def num_rows(tree: Any) -> int:
    """The common leading dimension of all leaves; `InputError` where they disagree or there is none."""
    sizes = {jnp.shape(v)[:1] for v in jax.tree.leaves(tree)}
    if len(sizes) != 1 or () in sizes:
        found = ", ".join(sorted(str(s[0]) if s else "a scalar" for s in sizes)) or "no leaf"
        raise InputError(f"every leaf of a batch needs the same leading dimension, got {found}")
    return sizes.pop()[0]


def narrow(shape: tuple[int, ...]) -> bool:
    """Whether a matrix `[d, F]` has so few columns that a CPU is several times slower with it than with `[F, d]`."""
    return jax.default_backend() == "cpu" and len(shape) == 2 and shape[1] <= 16 and shape[1] < shape[0]


def turning(tree: Any) -> Callable[[Any], Any]:
    """A function that turns the narrow matrices of trees structured as this one, and those of what it returns back."""
    which = jax.tree.map(lambda leaf: narrow(leaf.shape), tree)
    return lambda tree: jax.tree.map(lambda leaf, turn: leaf.T if turn else leaf, tree, which)
