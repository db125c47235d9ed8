"""What travels, counted by hand for a model of two parameters."""

import jax
import jax.numpy as jnp
import optax
import pytest
from _regression import ALGORITHMS, KEY, MODEL, clients, criterion

from metalearn import federated as fl
from metalearn.core import Model, Statistic

COUNTS = {
    "fedsgd": (2, 2),
    "fedavg": (2, 2),
    "fedprox": (2, 2),
    "scaffold": (4, 4),  # and a control variate
    "fednova": (2, 3),  # and how much work it was
    "feddyn": (2, 2),  # the server's h stays with the server, and g_k with the client
    "mime": (6, 4),  # momentum and mean gradient; the full gradient
    "mimelite": (7, 4),  # Adam's two moments and its count
    "agnostic": (3, 3),  # its own λ; its loss
    "qffl": (2, 3),  # and h_k
    "perfedavg": (2, 2),
    "pfedme": (2, 2),
    "ditto": (2, 2),
    "apfl": (2, 2),
    "fedper": (1, 1),
    "fedrep": (1, 1),
    "fedbn": (1, 1),
    "feddf": (2, 2),
    "ifca": (4, 3),  # both models; one of them, and which
    "local_only": (0, 0),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm(name):
    algorithm = ALGORITHMS[name](num_steps=1)
    shapes = jax.eval_shape(algorithm.init, KEY, clients()).params
    assert fl.sent(algorithm, shapes) == COUNTS[name]


def test_statistics_travel_both_ways_and_what_is_frozen_one():
    def init(key, x):
        return {"body": jnp.zeros((3, 2)), "head": jnp.zeros(5), "mean": Statistic(jnp.zeros(4))}

    model = Model(init, MODEL.apply)
    whole = fl.fedavg(model, criterion, optax.sgd(0.1), num_steps=1)
    head = fl.fedavg(model, criterion, optax.sgd(0.1), num_steps=1, where="head")
    params = init(KEY, None)
    assert fl.sent(whole, params) == fl.Sent(down=15, up=15)
    assert fl.sent(head, params) == fl.Sent(down=15, up=9)


@pytest.mark.parametrize(
    "name",
    ["fedavg", "fedprox", "fednova", "feddyn", "agnostic", "qffl", "ditto", "pfedme", "apfl", "scaffold", "ifca"],
)
def test_what_a_client_does_not_train_is_not_returned(name):
    algorithm = ALGORITHMS[name](num_steps=1, where="head")
    shapes = jax.eval_shape(algorithm.init, KEY, clients()).params
    down, up = COUNTS[name]
    assert fl.sent(algorithm, shapes) == (down, up - (2 if name == "scaffold" else 1))  # its control variate neither


@pytest.mark.parametrize(("name", "counts"), [("mime", (4, 2)), ("mimelite", (5, 2))])
def test_mime_sends_moments_and_gradients_of_what_is_trained(name, counts):
    algorithm = ALGORITHMS[name](num_steps=1, where="head")
    assert fl.sent(algorithm, jax.eval_shape(algorithm.init, KEY, clients()).params) == counts
