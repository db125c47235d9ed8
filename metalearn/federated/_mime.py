"""Mime and MimeLite: clients follow the server's optimizer (Karimireddy, Jaggi, Kale, Mohri, Reddi, Stich, Suresh 2020,
arXiv 2008.03606)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate import mean
from metalearn.core import Criterion, Model, Penalty
from metalearn.federated.client import Federated, changes, moved, proposal, shared_params, using, zeros
from metalearn.inner import fit, supervised
from metalearn.mapping import Mapping, auto
from metalearn.outer import gradient, over_tasks
from metalearn.tree import merge, partition


def mime(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    *,
    lite: bool = False,
    server_rate: float | jax.Array = 1.0,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
    **options: Any,
) -> Federated:
    """Every local step applies the server's optimizer with its state s held fixed; s moves once a round.

    y_i ← x, then y_i ← y_i - U(g, s) with g = ∇F_i(y_i; ζ) - ∇F_i(x; ζ) + c for Mime and g = ∇F_i(y_i; ζ) for MimeLite;
    c = mean_S ∇F_i(x);  s ← V(c, s);  x ← mean_S y_i. Of a round's two exchanges, c comes first. Both means are the
    algorithm, so it takes no `aggregator`.

    Args:
      optimizer: (U, V), any Optax transformation with a state, such as `optax.sgd(0.1, momentum=0.9)`. A local
        step sees its own gradient's part in every moment: of momentum β s + g, as in the paper; deviation: of Adam also
        in the second moment, whose bias is corrected.
      lite: MimeLite; c is then used for s alone.
      server_rate: 1 takes the mean of y_i; the paper's.
      drop_nonfinite: in each exchange by itself: the metrics are `dropped_gradients` and `dropped`.
    """
    loss = supervised(model, criterion)
    where = options.get("where")
    penalty = None if lite else _correction(loss, where)
    learn = fit(loss, _held(optimizer), penalty=penalty, **options)
    full = gradient(loss)

    def init(key, task):
        params = model.init(key, task.support.x)
        trained, _ = partition(params, where)
        return {"params": params, "moments": optimizer.init(trained), "gradient": zeros(trained)}

    def ask(shared, task, key):
        update = full(shared["params"], task, key)
        # the mean of ones is 0 where nobody answered: the old gradient and moments then stay
        direction = {"gradient": partition(update.direction, where)[0], "anyone": jnp.ones(())}
        return update._replace(direction=direction, statistics=None)

    def keep(direction, shared):
        new, old = direction["gradient"], shared["gradient"]
        change = jax.tree.map(lambda n, o: n - direction["anyone"].astype(o.dtype) * o, new, old)
        return jax.tree.map(jnp.zeros_like, shared) | {"gradient": change}

    def client(shared, task, key):
        params = shared["params"]
        state = None if lite else (params, shared["gradient"])
        fitted = learn(params, task.support, key, penalty_state=state, opt_state=shared["moments"])
        carried = shared | {"params": fitted.params}
        direction = {"params": moved(params, fitted.params), "anyone": jnp.ones(())}
        return proposal(direction, task.support, fitted, carried)

    def server(direction, shared):
        trained, _ = partition(shared["params"], where)
        _, moments = optimizer.update(shared["gradient"], shared["moments"], trained)
        return jax.tree.map(jnp.zeros_like, shared) | {
            "params": jax.tree.map(lambda d: -server_rate * d, direction["params"]),
            "moments": jax.tree.map(
                lambda n, o: jnp.where(direction["anyone"] > 0, n - o, jnp.zeros_like(o)), moments, shared["moments"]
            ),
        }

    first = over_tasks(init, ask, mean(), optax.stateless(keep), mapping=mapping, drop_nonfinite=drop_nonfinite)
    second = over_tasks(init, client, mean(), optax.stateless(server), mapping=mapping, drop_nonfinite=drop_nonfinite)

    def step(state, batch, key):
        asked, before = first.step(state, batch, jax.random.fold_in(key, 0))
        state, metrics = second.step(asked, batch, jax.random.fold_in(key, 1))
        return state, metrics | ({"dropped_gradients": before["dropped"]} if "dropped" in before else {})

    def down(shared):
        return {name: part for name, part in shared.items() if name != "gradient" or not lite}

    def up(shared):
        return changes(shared["params"], where), shared["gradient"]

    # the two exchanges have one state: their aggregators and optimizers keep nothing
    return Federated(first.init, step, using(model, shared_params), down, up)


def _held(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same updates, with a state that never changes."""
    optimizer = optax.with_extra_args_support(optimizer)

    def update(gradients, state, params=None, **extra):
        return optimizer.update(gradients, state, params, **extra)[0], state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def _correction(loss, where) -> Penalty:
    """⟨c - ∇F(x; ζ), y⟩ on the minibatch ζ of the step; its state is (x, c)."""

    def value(params, state, batch, key):
        anchor, mean_gradient = state
        trained, rest = partition(anchor, where)
        here = jax.grad(lambda t: loss(merge(t, rest), batch, key)[0])(trained)
        pull = jax.lax.stop_gradient(jax.tree.map(jnp.subtract, mean_gradient, here))
        return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, partition(params, where)[0], pull)))

    return Penalty(lambda params: (params, zeros(partition(params, where)[0])), value)
