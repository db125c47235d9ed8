"""Updates that lie in pieces on eight devices: the numbers of one device, and what moves between the devices."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from test_gradients import METHODS, SIZED, some_slow

from metalearn import aggregate as agg

K = 4
KEY = jax.random.key(1)
# by parameter: along a leaf's first axis, along its last, and a leaf that every device has
PLACES = {"first": PartitionSpec(None, "p"), "last": PartitionSpec(None, None, "p"), "whole": PartitionSpec()}


def _updates():
    draw = np.random.default_rng(0).normal
    sizes = {"first": (16, 3), "last": (3, 24), "whole": (5,)}
    return {name: jnp.asarray(draw(size=(K, *size)), jnp.float32) for name, size in sizes.items()}


def _step(name):
    aggregator = METHODS[name](*[K] if name in SIZED else [])
    params = jax.tree.map(lambda u: u[0], _updates())
    losses = jnp.asarray([1.0, 0.5, 2.0, 0.8])
    return lambda u: aggregator.update(u, aggregator.init(params), params, losses=losses, key=KEY)[0]


def _placed(updates):
    mesh = Mesh(np.array(jax.devices()), ("p",))
    return {name: jax.device_put(u, NamedSharding(mesh, PLACES[name])) for name, u in updates.items()}


def _moved(step, *arguments):
    """How many numbers each collective brings to a device."""
    program = jax.jit(step).lower(*arguments).compile().as_text()
    lines = re.findall(r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute)(?:-start)?\(", program)
    shapes = [shape for line in lines for shape in re.findall(r"(?:f32|pred|s32|u32)\[([\d,]*)\]", line)]
    return [math.prod(map(int, filter(None, shape.split(",")))) for shape in shapes]


@pytest.mark.parametrize("name", some_slow(METHODS))
def test_pieces_have_the_numbers_of_one_device_and_only_inner_products_move(name):
    step, updates = _step(name), _updates()
    expected, found = jax.jit(step)(updates), jax.jit(step)(_placed(updates))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)
    # a Gramian [K, K] at most, where the smallest leaf's K gradients are 20 numbers and all of them are 500
    assert max(_moved(step, _placed(updates)), default=0) <= K * K


def test_the_assertion_sees_what_is_gathered():
    def gathered(updates):
        whole = jnp.sort(updates["last"], -1)  # needs all of the axis that lies in pieces
        return jax.tree.map(lambda u: u.mean(0), updates | {"last": whole})

    assert max(_moved(gathered, _placed(_updates()))) > K * K


@pytest.mark.parametrize(
    "make",
    [agg.mean, lambda: agg.uncertainty(K, optax.adam(1e-2)), lambda: agg.dwa(K, 2)],
    ids=["mean", "learned", "dwa"],
)
def test_weights_from_losses_move_nothing_of_the_updates(make):
    aggregator, updates = make(), _updates()
    params = jax.tree.map(lambda u: u[0], updates)

    def step(u):
        return aggregator.update(u, aggregator.init(params), params, losses=jnp.ones(K), key=KEY)[0]

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        jax.jit(step)(_placed(updates)),
        jax.jit(step)(updates),
    )
    assert max(_moved(step, _placed(updates)), default=0) <= K
