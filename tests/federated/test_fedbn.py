"""FedBN: normalisation, running statistics included, stays with the client."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metalearn as ml
from metalearn.federated import fedbn

KEY = jax.random.key(0)


@pytest.mark.slow
def test_fedbn_keeps_statistics_with_their_client():
    model = ml.from_linen(ml.nets.Conv4(2, features=2, norm="running"))
    tasks = ml.data.batched(ml.data.few_shot(_images(), num_ways=2, num_support=2, num_query=1), 2)(KEY)
    algorithm = fedbn(model, ml.cross_entropy, optax.sgd(0.1), num_clients=2, num_steps=1)
    state = algorithm.init(KEY, tasks._replace(id=jnp.arange(2)))
    kept = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.table)}
    shared = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.params)}
    assert kept and shared and not kept & shared
    assert all("norm" in path for path in kept) and not any("norm" in path for path in shared)
    assert any("mean" in path for path in kept)
    after, _ = jax.jit(algorithm.step)(state, tasks._replace(id=jnp.arange(2)), KEY)
    changed = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.table, after.table)
    means = [v for path, v in jax.tree_util.tree_leaves_with_path(changed) if "mean" in jax.tree_util.keystr(path)]
    assert min(means) > 0


def _images():
    return ml.data.images.ClassImages(np.random.default_rng(0).integers(0, 255, (4, 5, 16, 16)).astype(np.uint8))
