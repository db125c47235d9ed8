import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import distance, plain_mlp, regression_tasks

import metalearn as ml
from metalearn.core import InputError
from metalearn.metrics import squared_error

KEY = jax.random.key(5)


def _setting():
    task = jax.tree.map(lambda a: a[0], regression_tasks(KEY, 1))
    model = plain_mlp(3, 1)
    return model, jax.jit(model.init)(KEY, task.support.x), task


def test_adaptation_changes_the_head_and_not_the_body():
    model, params, task = _setting()
    state = jax.jit(ml.meta.anil(model, squared_error, optax.adam(0.1, eps_root=1e-16), 3).adapt)(
        params, task.support, KEY
    )
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(state.params["hidden_0"][name], params["hidden_0"][name])
        assert (state.params["head"][name] != params["head"][name]).all()


def test_the_head_learns_as_linear_regression_on_the_features_does():
    model, params, task = _setting()
    state = jax.jit(ml.meta.anil(model, squared_error, optax.sgd(0.1), 1).adapt)(params, task.support, KEY)
    layer = params["hidden_0"]
    features = jnp.tanh(task.support.x @ layer["kernel"] + layer["bias"].reshape(1, -1))
    error = features @ params["head"]["kernel"] + params["head"]["bias"].reshape(1, -1) - task.support.y
    expected = params["head"]["kernel"] - 0.1 * 2 * features.T @ error / len(error)
    np.testing.assert_allclose(state.params["head"]["kernel"], expected, rtol=1e-5)


def test_the_outer_loop_trains_the_body_too_and_by_another_gradient_than_mamls():
    model, params, task = _setting()
    anil, maml = (
        jax.jit(ml.episodic(method(model, squared_error, optax.sgd(0.2), 2), squared_error))(
            params, task, KEY
        ).direction
        for method in (ml.meta.anil, ml.meta.maml)
    )
    assert float(jnp.abs(anil["hidden_0"]["kernel"]).min()) > 1e-5
    assert distance(anil["hidden_0"], maml["hidden_0"]) > 0.01


def test_a_model_without_such_a_head_is_refused():
    model, params, task = _setting()
    with pytest.raises(InputError, match="where='classifier' matches no trainable parameter"):
        ml.meta.anil(model, squared_error, optax.sgd(0.1), head="classifier").adapt(params, task.support, KEY)
