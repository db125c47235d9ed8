"""Several gradients of one function in fewer numbers, with the inner products that they have.

The gradient of a dense layer's kernel is xᵀ y: what went into the layer, `[n, d]`, and what comes back, `[n, F]`. In K
gradients at the same parameters x is the same. With fewer examples than inputs, and xᵀ = Q R where Q has orthonormal
columns, R y has n·F numbers in place of d·F and the same inner products, for Qᵀ Q = I. So whoever asks for inner
products alone, as nearly all ways to weigh gradients do, never needs the K gradients themselves.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

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

    def fewer(dense, y):
        if dense is None:
            return y
        x, y = jnp.moveaxis(next(entering), dense.x_examples, 0), jnp.moveaxis(y, 1 + dense.y_examples, 1)
        return jnp.einsum("mn,knf->kmf", jnp.linalg.qr(x.T, mode="r"), y, precision=jax.lax.Precision.HIGHEST)

    entering = iter(entered)
    return jax.tree.unflatten(jax.tree.structure(shapes), [fewer(*pair) for pair in zip(found, back, strict=True)])


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
