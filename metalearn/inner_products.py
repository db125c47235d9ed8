"""Several gradients of one function in fewer numbers, with the inner products that they have.

The gradient of a dense layer's kernel is xᵀ y: what went into the layer, `[n, d]`, and what comes back, `[n, F]`. In K
gradients at the same parameters x is the same. With fewer examples than inputs, and xᵀ = Q R where Q has orthonormal
columns, R y has n·F numbers in place of d·F and the same inner products, for Qᵀ Q = I. So whoever asks for inner
products alone, as nearly all ways to weigh gradients do, never needs the K gradients themselves.
Nor are they needed for inner products with gradients at other examples.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

_PIECE = 8192  # numbers: of more LAPACK's products use threads
_WORTH = 0.5  # of all numbers must be saved, for the sum of gradients then needs a backward pass of its own


class _Dense(NamedTuple):
    """A kernel's gradient xᵀ y, or its transpose, in a program: its two variables, and the axis of examples of each."""

    x: Any
    y: Any
    x_examples: int
    y_examples: int


def same_products(pull: Callable[[Any], Any], cotangents: Any) -> Any | None:
    """A tree like `jax.vmap(pull)(cotangents)`, whose leaves `[K, ...]` have the same inner products and fewer numbers.

    `pull` is linear, as `jax.vjp` gives it. None where that would not save half of the numbers.
    """
    found = _factors(pull, cotangents)
    if found is None:
        return None
    structure, factors = found

    def fewer(x, y):
        if x is None:
            return y
        return jnp.einsum("mn,knf->kmf", _triangle(x.T), y, precision=jax.lax.Precision.HIGHEST)

    return jax.tree.unflatten(structure, [fewer(x, y) for x, y in factors])


def _triangle(x: jax.Array) -> jax.Array:
    """R of x = Q R, x `[d, n]`, from the R of pieces of x (tall and skinny QR: Demmel, Grigori, Hoemmen, Langou 2012,
    arXiv 0808.2664).

    On a CPU LAPACK's threads, woken by a larger matrix, would wait busily for tens of milliseconds afterwards, on the
    cores that the next steps need. A piece has twice as many rows as columns at least, so of more than 64 columns
    (examples) it is larger.
    """
    size, columns = x.shape
    each = max(2 * columns, _PIECE // columns)
    if size <= each:
        return jnp.linalg.qr(x, mode="r")
    x = jnp.pad(x, ((0, -size % each), (0, 0)))  # rows of zeros change no inner product
    pieces = jnp.linalg.qr(x.reshape(-1, each, columns), mode="r")
    return _triangle(pieces.reshape(-1, columns))


def products_between(first: tuple[Any, Any], second: tuple[Any, Any]) -> jax.Array | None:
    """The inner products `[K, L]`, up to one factor, of K gradients and of L others of the same parameters at other
    examples; both are `(pull, cotangents)`. None where that would not save half of the numbers.

    Of two kernels' gradients x₁ᵀ y₁ and x₂ᵀ y₂ the inner product is that of y₁ and (x₁ x₂ᵀ) y₂.
    """
    found = [_factors(*one) for one in (first, second)]
    if None in found:
        return None
    pairs = list(zip(*(factors for _, factors in found), strict=True))
    if any((x is None) != (z is None) for (x, _), (z, _) in pairs):
        return None

    def across(x, z, w):
        return w if x is None else jnp.einsum("md,nd,lnf->lmf", x, z, w, precision=jax.lax.Precision.HIGHEST)

    left, right = [y for (_, y), _ in pairs], _scaled([w for _, (_, w) in pairs])
    return rows_by_rows(left, [across(x, z, w) for ((x, _), (z, _)), w in zip(pairs, right, strict=True)])


def rows_by_rows(first: Any, second: Any) -> jax.Array:
    """The inner products `[K, L]` of the rows of two trees, `[K, ...]` and `[L, ...]`, up to one factor: each tree is
    divided by its largest entry, for squares of small numbers would vanish."""

    def inner(a, b):
        return jnp.tensordot(a, b, (tuple(range(1, a.ndim)),) * 2, precision=jax.lax.Precision.HIGHEST)

    return jnp.stack(jax.tree.leaves(jax.tree.map(inner, _scaled(first), _scaled(second)))).sum(0)


def _scaled(tree):
    largest = jnp.stack([jnp.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(tree)]).max()
    return jax.tree.map(lambda leaf: leaf / jnp.where(largest > 0, largest, 1), tree)


def _factors(pull, cotangents):
    """For each leaf of the gradients what went into its layer, `[n, d]`, and what comes back, `[K, n, F]`; or None and
    its gradients; and how the leaves are put together. None where it is not worth it."""
    one = jax.tree.map(lambda c: c[0], cotangents)
    closed, shapes = jax.make_jaxpr(pull, return_shape=True)(one)
    program, leaves = closed.jaxpr, jax.tree.leaves(shapes)
    found = [_dense(program, out) for out in program.outvars]
    saved = sum(leaf.size - dense.y.aval.size for leaf, dense in zip(leaves, found) if dense)
    if saved < _WORTH * sum(leaf.size for leaf in leaves):
        return None

    wanted = [dense.y if dense else out for dense, out in zip(found, program.outvars)]
    back = jax.vmap(lambda c: _values(program, closed.consts, jax.tree.leaves(c), wanted))(cotangents)
    entered = _values(program, closed.consts, jax.tree.leaves(one), [dense.x for dense in found if dense])

    def pair(dense, y):
        if dense is None:
            return None, y
        return jnp.moveaxis(next(entering), dense.x_examples, 0), jnp.moveaxis(y, 1 + dense.y_examples, 1)

    entering = iter(entered)
    return jax.tree.structure(shapes), [pair(dense, y) for dense, y in zip(found, back, strict=True)]


def _dense(program: Jaxpr, out: Any) -> _Dense | None:
    """Whether an output is one product over examples, of something known beforehand and something that comes back."""
    made_by = {id(var): (equation, i) for equation in program.eqns for i, var in enumerate(equation.outvars)}
    var = out
    while id(var) in made_by:
        equation, i = made_by[id(var)]
        name, params = equation.primitive.name, equation.params
        if name == "optimization_barrier" or (name == "transpose" and params["permutation"] == (1, 0)):
            var = equation.invars[i]
        elif name == "dot_general":
            return _product_of(program, equation)
        else:
            return None
    return None


def _product_of(program, equation):
    (contracted, batched), (left, right) = equation.params["dimension_numbers"], equation.invars
    if any(batched) or [len(axes) for axes in contracted] != [1, 1] or {left.aval.ndim, right.aval.ndim} != {2}:
        return None
    sides = [(left, contracted[0][0]), (right, contracted[1][0])]
    moving = _coming_back(program)
    known = [pair for pair in sides if id(pair[0]) not in moving]
    if len(known) != 1:
        return None
    ((x, x_examples),) = known
    ((y, y_examples),) = (pair for pair in sides if id(pair[0]) in moving)
    examples, inputs = x.aval.shape[x_examples], x.aval.shape[1 - x_examples]
    # of half precision there is no factorisation
    fits = equation.outvars[0].aval.dtype == x.aval.dtype == y.aval.dtype in (jnp.float32, jnp.float64)
    return _Dense(x, y, x_examples, y_examples) if fits and examples < inputs else None


def _coming_back(program):
    """The variables that depend on the cotangent."""
    moving = {id(var) for var in program.invars}
    for equation in program.eqns:
        if any(id(var) in moving for var in equation.invars):
            moving |= {id(var) for var in equation.outvars}
    return moving


def _values(program: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any], wanted: Sequence[Any]) -> list[Any]:
    """What some variables of a program are; whatever else it computes is left out when this is compiled."""
    return jax.core.eval_jaxpr(program.replace(outvars=list(wanted)), constants, *arguments)
