"""Sharing: each architecture reduces to a simpler one where it must, and differs from it elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _toys import plain_mlp

import metalearn as ml
from metalearn import multitask as mt
from metalearn.core import Batch

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (5, 3))
HEADS = {"a": plain_mlp(2), "b": plain_mlp(1)}
LAYER = plain_mlp(4)
HARD = mt.hard(LAYER, HEADS)
CRITERIA = {"a": ml.squared_error, "b": ml.squared_error}


def architectures():
    return {
        "hard": mt.hard(plain_mlp(6, 4), HEADS),
        "soft": mt.soft({"a": plain_mlp(4, 2), "b": plain_mlp(4, 1)}),
        "cross_stitch": mt.cross_stitch([LAYER, LAYER], HEADS),
        "cross_stitch, by channel": mt.cross_stitch([LAYER, LAYER], HEADS, by_channel=True),
        "sluice": mt.sluice([LAYER, LAYER], HEADS),
        "mmoe": mt.mmoe(plain_mlp(6, 4), 3, HEADS),
        "cgc": mt.cgc(plain_mlp(4), 2, 1, HEADS),
        "ple": mt.ple([plain_mlp(4), plain_mlp(4)], 2, 1, HEADS),
        "mtan": mt.mtan([(LAYER, LAYER), (LAYER, LAYER)], [LAYER, LAYER], HEADS, width=3),
        "layer_ordering": mt.layer_ordering(plain_mlp(4), plain_mlp(4), 3, HEADS),
        "hypernetwork": mt.hypernetwork(plain_mlp(4), lambda size: plain_mlp(5, size), 3, HEADS),
    }


def outputs(model, params, x=X):
    return mt.predict(model)(params, x)


def targets():
    r = np.random.RandomState(0)
    return {"a": jnp.asarray(r.randn(5, 2), jnp.float32), "b": jnp.asarray(r.randn(5, 1), jnp.float32)}


@pytest.mark.parametrize(
    "name", [n if n == "hard" else pytest.param(n, marks=pytest.mark.slow) for n in architectures()]
)
def test_every_architecture_learns_and_keeps_what_is_own_apart(name):
    model = architectures()[name]
    batch = Batch(X, targets())
    algorithm = ml.over_losses(*mt.losses(model, CRITERIA), ml.mean(), optax.adam(3e-2))
    state, step, history = algorithm.init(KEY, batch), jax.jit(algorithm.step), []
    own = outputs(model, state.params)
    assert own["a"].shape == (5, 2) and own["b"].shape == (5, 1)

    def loss_of(params, task):
        return jnp.mean((outputs(model, params)[task] - batch.y[task]) ** 2)

    for task, other in (("a", "b"), ("b", "a")):
        grads = jax.grad(loss_of)(state.params, task)
        assert all(not np.any(g) for g in jax.tree.leaves(grads["tasks"][other]))
        assert any(np.any(g) for g in jax.tree.leaves(grads["tasks"][task]))
        assert name == "soft" or any(np.any(g) for g in jax.tree.leaves(grads["shared"]))
    for t in range(150):
        state, metrics = step(state, batch, jax.random.fold_in(KEY, t))
        history.append(float(metrics["loss"]))
    assert history[-1] < 0.3 * history[0]
    found = mt.measure(model, CRITERIA)(state.params, batch)
    np.testing.assert_allclose(found["a/loss"], loss_of(state.params, "a"), rtol=1e-5)


def test_hard_sharing_is_trunk_then_head():
    model, trunk = mt.hard(plain_mlp(6, 4), HEADS), plain_mlp(6, 4)
    params = model.init(KEY, X)
    for name, head in HEADS.items():
        expected = head.apply(params["tasks"][name], trunk.apply(params["shared"], X))
        np.testing.assert_allclose(outputs(model, params)[name], expected, rtol=1e-6)


def columns(model, params, k):
    """Task k's column by itself: layer, then head."""
    x = X
    for layer in params["shared"]["columns"]:
        x = LAYER.apply(jax.tree.map(lambda a: a[k], layer), x)
    name = list(HEADS)[k]
    return HEADS[name].apply(params["tasks"][name], x)


def first_layer(params):
    """What the first layer of every column gives, before anything is mixed."""
    return jax.vmap(LAYER.apply, (0, None))(params["shared"]["columns"][0], X)


@pytest.mark.slow
def test_cross_stitch_without_stitches_is_a_network_a_task():
    model = mt.cross_stitch([LAYER, LAYER], HEADS, own=1.0)
    params = model.init(KEY, X)
    mixed = mt.cross_stitch([LAYER, LAYER], HEADS, own=0.7)
    for k, name in enumerate(HEADS):
        np.testing.assert_allclose(outputs(model, params)[name], columns(model, params, k), rtol=1e-5)
        other = params | {"shared": params["shared"] | {"stitches": mixed.init(KEY, X)["shared"]["stitches"]}}
        assert not np.allclose(outputs(mixed, other)[name], columns(model, params, k), rtol=1e-2)


def test_stitches_mix_the_columns():
    model = mt.cross_stitch([LAYER], HEADS, own=0.75)
    params = model.init(KEY, X)
    first, second = first_layer(params)
    expected = HEADS["a"].apply(params["tasks"]["a"], 0.75 * first + 0.25 * second)
    np.testing.assert_allclose(outputs(model, params)["a"], expected, rtol=1e-5)


@pytest.mark.slow
def test_a_stitch_by_channel_mixes_each_by_itself():
    model = mt.cross_stitch([LAYER], HEADS, by_channel=True)
    params = model.init(KEY, X)
    stitch = params["shared"]["stitches"][0]
    assert stitch.shape == (2, 2, 4)
    swapped = stitch.at[:, :, 0].set(jnp.eye(2)[::-1])  # the first channel of the other task
    first, second = first_layer(params)
    mixed = (0.9 * first + 0.1 * second).at[:, 0].set(second[:, 0])
    changed = params | {"shared": params["shared"] | {"stitches": [swapped]}}
    np.testing.assert_allclose(outputs(model, changed)["a"], HEADS["a"].apply(params["tasks"]["a"], mixed), rtol=1e-5)


@pytest.mark.slow
def test_sluice_mixes_subspaces_and_layers():
    model = mt.sluice([LAYER, LAYER], HEADS, own=1.0)
    params = model.init(KEY, X)
    last = params | {"shared": params["shared"] | {"skips": jnp.array([[0.0, 1.0], [0.0, 1.0]])}}
    np.testing.assert_allclose(outputs(model, last)["b"], columns(model, params, 1), rtol=1e-5)
    # the second half of the second task's channels, from the first task
    stitch = jnp.eye(4).at[3].set(jnp.array([0.0, 1.0, 0.0, 0.0]))
    only = params | {
        "shared": params["shared"] | {"stitches": [stitch, stitch], "skips": jnp.array([[1.0, 0.0], [1.0, 0.0]])}
    }
    first, second = first_layer(params)
    expected = HEADS["b"].apply(params["tasks"]["b"], jnp.concatenate([second[:, :2], first[:, 2:]], 1))
    np.testing.assert_allclose(outputs(model, only)["b"], expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("subspaces", [2, 4])
def test_subspaces_are_held_orthogonal(subspaces):
    model = mt.sluice([LAYER, LAYER], HEADS, subspaces=subspaces)
    params = model.init(KEY, X)
    total = 0.0
    for layer in params["shared"]["columns"]:
        for kernel in np.asarray(layer["head"]["kernel"]):
            one, *others = np.split(kernel, subspaces, 1)
            while others:
                total += sum(np.sum((one.T @ other) ** 2) for other in others)
                one, *others = others
    np.testing.assert_allclose(mt.orthogonal(0.3)(params), 0.3 * total, rtol=1e-5)
    shared = params["shared"] | {"columns": [{"weight": jnp.ones((2, 3, 4))}]}
    with pytest.raises(ml.InputError, match="called kernel"):
        mt.orthogonal(0.3)({"shared": shared})


def test_a_share_of_stitches_may_be_traced():
    params = mt.sluice([LAYER, LAYER], HEADS).init(KEY, X)
    outcomes = jax.vmap(lambda own: outputs(mt.sluice([LAYER, LAYER], HEADS, own=own), params)["a"])(
        jnp.array([0.5, 0.9])
    )
    assert outcomes.shape == (2, 5, 2)


@pytest.mark.slow
def test_one_expert_is_hard_sharing_and_gates_choose_among_several():
    expert = plain_mlp(6, 4)
    one, several = mt.mmoe(expert, 1, HEADS), mt.mmoe(expert, 3, HEADS)
    params = one.init(KEY, X)
    alone = jax.tree.map(lambda a: a[0], params["shared"])
    expected = HEADS["a"].apply(params["tasks"]["a"]["tower"], expert.apply(alone, X))
    np.testing.assert_allclose(outputs(one, params)["a"], expected, rtol=1e-5)
    params = several.init(KEY, X)
    chosen = jnp.zeros((3, 3)).at[0, 2].set(1e4)  # the sign of the first number chooses the last expert
    params["tasks"]["a"]["gate"] = chosen
    third = jax.tree.map(lambda a: a[2], params["shared"])
    expected = HEADS["a"].apply(params["tasks"]["a"]["tower"], expert.apply(third, X))
    positive = np.asarray(X[:, 0] > 0)
    assert positive.any()
    np.testing.assert_allclose(outputs(several, params)["a"][positive], expected[positive], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("levels", [1, 2])
def test_ple_is_the_loop_of_the_paper(levels):
    expert = plain_mlp(4)
    model = mt.ple([expert, expert], 2, 1, HEADS) if levels == 2 else mt.cgc(expert, 2, 1, HEADS)
    params = model.init(KEY, X)
    r = np.random.RandomState(0)
    params = jax.tree.map(lambda a: a + 0.3 * r.randn(*a.shape).astype(a.dtype), params)  # gates that are not even

    def run(stack, e, x):
        return expert.apply(jax.tree.map(lambda a: a[e], stack), x)

    def mix(weights, x, found):
        shares = jax.nn.softmax(x @ weights)
        return sum(shares[:, i : i + 1] * f for i, f in enumerate(found))

    stages, enter = params["shared"]["lower"], dict.fromkeys(("a", "b", ""), X)
    assert len(stages) == levels - 1
    for stage in stages:
        of = {n: [run(stage["experts"][n], e, X) for e in range(1 if n else 2)] for n in ("a", "b", "")}
        for n in ("a", "b"):
            enter[n] = mix(stage["gates"][n], X, of[n] + of[""])
        enter[""] = mix(stage["gates"][""], X, of["a"] + of["b"] + of[""])
    common = [run(params["shared"]["top"], e, enter[""]) for e in range(2)]
    for n in ("a", "b"):
        own = params["tasks"][n]
        mixed = mix(own["gate"], enter[n], [run(own["experts"], 0, enter[n]), *common])
        np.testing.assert_allclose(outputs(model, params)[n], HEADS[n].apply(own["tower"], mixed), rtol=1e-4)


@pytest.mark.slow
def test_attention_scales_the_shared_features():
    model = mt.mtan([(LAYER, LAYER), (LAYER, LAYER)], [LAYER, LAYER], HEADS, width=3)
    params = model.init(KEY, X)
    own, x, before = params["tasks"]["a"], X, None
    for block, attention, between in zip(params["shared"]["blocks"], own["attention"], params["shared"]["between"]):
        u = LAYER.apply(block["first"], x)
        x = LAYER.apply(block["second"], u)
        seen = u if before is None else jnp.concatenate([u, before], 1)
        mask = jax.nn.sigmoid(jax.nn.relu(seen @ attention["in"]) @ attention["out"])  # its biases begin at 0
        before = LAYER.apply(between, mask * x)
    np.testing.assert_allclose(outputs(model, params)["a"], HEADS["a"].apply(own["head"], before), rtol=1e-5)


@pytest.mark.slow
def test_what_lies_between_attentions_is_shared():
    model = mt.mtan([(LAYER, LAYER), (LAYER, LAYER)], [LAYER, LAYER], HEADS, width=3)
    params = model.init(KEY, X)
    for name in HEADS:
        slope = jax.grad(lambda p, name=name: outputs(model, p)[name].sum())(params)
        assert all(np.any(leaf) for leaf in jax.tree.leaves(slope["shared"]["between"]))


@pytest.mark.slow
def test_layers_in_an_order_of_their_own():
    model = mt.layer_ordering(plain_mlp(4), LAYER, 2, HEADS)
    params = model.init(KEY, X)
    params["tasks"]["a"]["order"] = 1e4 * jnp.array([[0.0, 1.0], [1.0, 0.0]])  # the second layer, then the first
    x = plain_mlp(4).apply(params["shared"]["encoder"], X)
    for j in (1, 0):
        x = LAYER.apply(jax.tree.map(lambda a, j=j: a[j], params["shared"]["layers"]), x)
    np.testing.assert_allclose(
        outputs(model, params)["a"], HEADS["a"].apply(params["tasks"]["a"]["head"], x), rtol=1e-5
    )


@pytest.mark.slow
def test_a_hypernetwork_writes_each_tasks_weights():
    network = plain_mlp(4)
    model = mt.hypernetwork(network, lambda size: plain_mlp(5, size), 3, HEADS, scale=0.5)
    params = model.init(KEY, X)
    own = params["tasks"]["a"]
    numbers = 0.5 * plain_mlp(5, 16).apply(params["shared"]["writer"], own["embedding"][None])[0]
    base = params["shared"]["base"]["head"]
    layer = {"head": {"bias": base["bias"] + numbers[:4], "kernel": base["kernel"] + numbers[4:].reshape(3, 4)}}
    np.testing.assert_allclose(
        outputs(model, params)["a"], HEADS["a"].apply(own["head"], network.apply(layer, X)), rtol=1e-5
    )


@pytest.mark.slow
def test_soft_sharing_holds_networks_near_each_other():
    same = {"a": plain_mlp(4, 2), "b": plain_mlp(4, 2)}
    params = mt.soft(same).init(KEY, X)
    first, second = (jax.tree.leaves(params["tasks"][n]) for n in same)
    apart = sum(0.5 * np.sum((np.asarray(a) - np.asarray(b)) ** 2) for a, b in zip(first, second))
    np.testing.assert_allclose(mt.near(0.7)(params), 0.7 * apart, rtol=1e-5)
    kernels = np.stack([np.ravel(params["tasks"][n]["head"]["kernel"]) for n in same])
    expected = np.linalg.svd(kernels, compute_uv=False).sum()
    np.testing.assert_allclose(mt.low_rank(1.0, "head/kernel")(params), expected, rtol=1e-3)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(jax.grad(mt.low_rank(1.0))(params)))
    with pytest.raises(ml.InputError, match="same parameters"):
        mt.near(1.0)(mt.soft({"a": plain_mlp(4, 2), "b": plain_mlp(4, 1)}).init(KEY, X))


@pytest.mark.slow
def test_running_statistics_that_nobody_would_update_are_refused():
    norm = ml.from_linen(ml.nets.BatchNorm(running=True))
    batch = Batch(X, targets())
    kept = mt.losses(mt.hard(norm, HEADS), CRITERIA)[0](KEY, batch)  # those of hard sharing's trunk are
    assert jax.tree.leaves(kept["shared"])
    for model in (mt.mmoe(norm, 2, HEADS), mt.hard(plain_mlp(2), {"a": norm, "b": HEADS["b"]})):
        with pytest.raises(ml.InputError, match="running statistics would never be updated"):
            mt.losses(model, CRITERIA)[0](KEY, batch)


@pytest.mark.slow
def test_modalities_meet_in_one_trunk():
    encoders = {"image": plain_mlp(3), "sound": plain_mlp(2)}
    model = mt.hard(mt.fused(encoders, plain_mlp(4)), HEADS)
    x = {"image": X, "sound": X[:, :2]}
    params = model.init(KEY, x)
    encoded = [encoders[m].apply(params["shared"]["encoders"][m], x[m]) for m in encoders]
    features = plain_mlp(4).apply(params["shared"]["body"], jnp.concatenate(encoded, 1))
    np.testing.assert_allclose(
        outputs(model, params, x)["a"], HEADS["a"].apply(params["tasks"]["a"], features), rtol=1e-5
    )
    with pytest.raises(ml.InputError, match="modalities"):
        outputs(model, params, {"image": X})


def test_targets_missing_for_some_tasks():
    model = mt.hard(plain_mlp(4), HEADS)
    mask = jnp.array([[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0, 1.0]])
    y = jax.tree.map(lambda a: a.at[0].set(jnp.nan), targets())
    y = y | {"a": targets()["a"].at[2:].set(jnp.nan)}
    algorithm = ml.over_losses(*mt.losses(model, CRITERIA), ml.mean(), optax.sgd(0.1))
    batch = Batch(X, y, mask)
    state = algorithm.init(KEY, batch)
    found = mt.measure(model, CRITERIA)(state.params, batch)
    own = outputs(model, state.params)
    np.testing.assert_allclose(found["a/loss"], jnp.mean((own["a"][:2] - y["a"][:2]) ** 2), rtol=1e-5)
    np.testing.assert_allclose(found["b/loss"], jnp.mean((own["b"][1:] - y["b"][1:]) ** 2), rtol=1e-5)
    state, metrics = jax.jit(algorithm.step)(state, batch, KEY)
    assert all(np.all(np.isfinite(a)) for a in jax.tree.leaves((state.params, metrics)))
    _, metrics = jax.jit(algorithm.step)(state, batch._replace(mask=mask.at[0].set(0)), KEY)
    assert np.isnan(metrics["a/loss"]) and metrics["loss"] == metrics["b/loss"]  # what was not measured is no zero


RAW = ml.nets.MLP([4])
UNWRAPPED = (
    lambda: mt.hard(RAW, HEADS),
    lambda: mt.hard(LAYER, {"a": RAW}),
    lambda: mt.fused({"x": RAW}, LAYER),
    lambda: mt.soft({"a": RAW}),
    lambda: mt.cross_stitch([RAW], HEADS),
    lambda: mt.sluice([RAW], HEADS),
    lambda: mt.mmoe(RAW, 2, HEADS),
    lambda: mt.ple([RAW], 1, 1, HEADS),
    lambda: mt.mtan([(LAYER, RAW)], [LAYER], HEADS),
    lambda: mt.layer_ordering(RAW, LAYER, 2, HEADS),
    lambda: mt.hypernetwork(RAW, plain_mlp, 3, HEADS),
)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mt.losses(mt.hard(plain_mlp(4), HEADS), {"a": ml.squared_error}), "criteria are for"),
        (lambda: mt.cross_stitch([LAYER], HEADS, own=1.5), "at least 0 and at most 1"),
        (lambda: mt.ple([], 1, 1, HEADS), "at least one level"),
        (lambda: mt.hypernetwork(LAYER, lambda size: plain_mlp(size + 1), 3, HEADS).init(KEY, X), "but gives"),
        (lambda: mt.hypernetwork(LAYER, lambda size: plain_mlp(size - 1), 3, HEADS).init(KEY, X), "but gives"),
        *((make, "a Linen module becomes one by from_linen") for make in UNWRAPPED),
        (lambda: mt.mtan([(LAYER, LAYER)], [], HEADS), "in between for each block"),
        (lambda: mt.mmoe(LAYER, 0, HEADS).init(KEY, X), "the number of experts must be a whole number of at least 1"),
        (lambda: mt.sluice([plain_mlp(3)], HEADS).init(KEY, X), "divide"),
        (lambda: mt.sluice([LAYER], HEADS, subspaces=0), "subspaces must be a whole number of at least 1"),
        (lambda: mt.layer_ordering(plain_mlp(4), LAYER, 0, HEADS), "depth must be a whole number of at least 1"),
        (lambda: mt.layer_ordering(plain_mlp(5), plain_mlp(4), 2, HEADS).init(KEY, X), "must keep the shape"),
        (lambda: mt.measure(HARD, CRITERIA)(HARD.init(KEY, X), Batch(X, X)), "targets must be"),
        (lambda: mt.measure(HARD, CRITERIA)(HARD.init(KEY, X), Batch(X, targets(), jnp.ones((2, 1)))), "mask must be"),
        (lambda: mt.measure(HARD, CRITERIA)(HARD.init(KEY, X), Batch(X, targets(), jnp.ones((3, 5)))), "mask must be"),
        (lambda: mt.measure(HARD, CRITERIA)(HARD.init(KEY, X), Batch(X, targets(), {"a": 1})), "mask must be an array"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ml.InputError, match=words):
        call()
