"""How many numbers travel between the server and a client."""

import math
from typing import Any, NamedTuple

import jax

from metalearn.core import Params
from metalearn.federated.client import Federated


class Sent(NamedTuple):
    """Numbers that one client receives (`down`) and returns (`up`) in one round."""

    down: int
    up: int


def sent(algorithm: Federated, params: Params) -> Sent:
    """What one client of a round receives and returns, in numbers, from the shapes of `state.params` alone.

    Counted are parameters, their statistics, and what else the server's formula needs (a control variate, a momentum,
    FedNova's ‖a_k‖₁); the number of examples and the metrics, a few numbers in every algorithm, are not. Leaves that a
    client does not train are received, for it may be new, and not returned. Candidates whom `power_of_choice` asks for
    their loss and does not choose receive the model too, which is not counted. `params` may be arrays or
    `jax.ShapeDtypeStruct`s.

    >>> import optax, metalearn as ml
    >>> model, x = ml.from_linen(ml.nets.MLP([10])), jax.ShapeDtypeStruct((1, 784), float)
    >>> scaffold = ml.federated.scaffold(model, ml.cross_entropy, 0.1, num_clients=100, num_epochs=1)
    >>> sent(scaffold, {name: jax.eval_shape(model.init, jax.random.key(0), x) for name in ("params", "control")})
    Sent(down=15700, up=15700)
    """

    def count(travels: Any) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(travels, params)))

    return Sent(count(algorithm.down), count(algorithm.up))
