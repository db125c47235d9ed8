"""Clients over eight devices: the numbers of one device, whether the devices divide the cohort or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _regression import ALGORITHMS, KEY, TABLES, clients
from jax.sharding import Mesh

import metalearn as ml
from metalearn.tree import num_rows

pytestmark = pytest.mark.usefixtures("double")


def cohort(count):
    """So many clients, ragged, every fifth absent, made of the three that the toy has."""
    tasks = jax.tree.map(lambda a: a[jnp.arange(count) % 3], clients(query=True))
    absent = (jnp.arange(count) % 5 == 4)[:, None]
    support = tasks.support._replace(
        y=tasks.support.y + 0.1 * jnp.arange(count)[:, None], mask=jnp.where(absent, 0.0, tasks.support.mask)
    )
    return tasks._replace(support=support, id=jnp.arange(count))


def rounds(name, mapping, tasks):
    of_the_table = {"num_clients": num_rows(tasks)} if name in TABLES else {}
    algorithm = ALGORITHMS[name](num_steps=2, mapping=mapping, **of_the_table)
    step, state, seen = jax.jit(algorithm.step), algorithm.init(KEY, tasks), []
    for t in range(2):
        state, metrics = step(state, tasks, jax.random.fold_in(KEY, t))
        seen.append(metrics)
    return state, seen


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("scaffold", 11),
        *(pytest.param(n, 11, marks=pytest.mark.slow) for n in ALGORITHMS if n != "scaffold"),
        *(pytest.param(n, 3, marks=pytest.mark.slow) for n in ("scaffold", "fedavg")),  # fewer than devices
    ],
)
def test_clients_over_devices_give_the_numbers_of_one(name, count):
    mesh = Mesh(np.array(jax.devices()), ("clients",))
    assert mesh.size == 8
    one = rounds(name, ml.vmapped(), cohort(count))
    many = rounds(name, ml.sharded(mesh, "clients"), cohort(count))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
