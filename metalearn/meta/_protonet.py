"""Prototypical networks: classify by the nearest class mean (Snell, Swersky, Zemel 2017, arXiv 1703.05175)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metalearn.arguments import whole
from metalearn.core import Batch, InputError, Learner, Model, Params


class Prototypes(NamedTuple):
    """A class mean each, `[num_ways, D]`, how many examples it is made of, `[num_ways]`, and what they came from."""

    params: Params
    means: jax.Array
    counts: jax.Array
    support: Batch


def protonet(model: Model, num_ways: int) -> Learner:
    """Nearest prototype in the space of `model`'s outputs `[n, D]`; logits are minus squared Euclidean distances.

    Adaptation has no gradient in it. Train with `episodic`, on more ways than are tested (60 in the paper) if you like:
    parameters are interchangeable between learners of different `num_ways`. In training, support and query go through
    the network together and share batch statistics, as in the authors' code. A class without a support example is
    never predicted. Classification only: there is no prototype of a real number.

    Raises:
      InputError: where labels are not integers, or `num_ways` is not positive.
    """
    num_ways = whole("num_ways", num_ways)

    def average(embedded, support):
        if support.y is None or not jnp.issubdtype(support.y.dtype, jnp.integer):
            raise InputError("protonet classifies: it needs integer labels, and cannot be used for regression")
        member = jax.nn.one_hot(support.y, num_ways, dtype=embedded.dtype)
        if support.mask is not None:
            member = member * support.mask.astype(embedded.dtype)[:, None]
        counts = member.sum(0)
        return member.T @ embedded / jnp.maximum(counts, 1)[:, None], counts

    def nearest(embedded, means, counts):
        distances = ((embedded[:, None] - means[None]) ** 2).sum(-1)
        return jnp.where(counts > 0, -distances, jnp.finfo(embedded.dtype).min / 2)

    def adapt(params, support, key):
        return Prototypes(params, *average(model.apply(params, support.x), support), support)

    def predict(state, x, key=None):
        if key is not None:
            return train(state, x, key)[0]
        return nearest(model.apply(state.params, x), state.means, state.counts)

    def train(state: Prototypes, x: Any, key):
        count = state.support.y.shape[0]
        together = jax.tree.map(lambda s, q: jnp.concatenate([s, q]), state.support.x, x)
        embedded, new = (
            (model.apply(state.params, together, key), None)
            if model.train is None
            else model.train(state.params, together, key)
        )
        # split, not two slices: slices add padded gradients, and XLA's fusion of those on CPU crashed (jaxlib 0.10.2)
        support, query = jnp.split(embedded, [count])
        return nearest(query, *average(support, state.support)), new

    return Learner(lambda key, task: model.init(key, task.support.x), adapt, predict, train)
