"""FedDyn: dynamic regularisation (Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama 2021, arXiv 2111.04263)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate import summed
from metalearn.arguments import number, whole
from metalearn.core import Aggregator, Criterion, Model
from metalearn.federated.client import Federated, changes, moved, proposal, shared_params, using, zeros
from metalearn.inner import fit, supervised
from metalearn.mapping import Mapping, auto
from metalearn.outer import over_clients
from metalearn.penalty import linear, proximal, together


def feddyn(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    *,
    strength: float | jax.Array,
    num_clients: int,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
    **options: Any,
) -> Federated:
    """Every client's optimum is moved, round by round, to where the sum of all of them is stationary.

    θ_k ← argmin F_k(θ) - ⟨g_k, θ⟩ + (α / 2) ‖θ - θ_t‖²;  g_k ← g_k - α (θ_k - θ_t);  h ← h - (α / N) Σ_S (θ_k - θ_t);
    θ_{t+1} = mean_S θ_k - h / α, with α = `strength`. g_k is client k's row of the table.

    Deviation: θ_{t+1} is what is evaluated, where the authors' code evaluates the mean of the θ_k; α is the same for
    all clients, where theirs is divided by a client's share of the examples. How changes are joined is the algorithm,
    so it takes no `aggregator`.

    Raises `InputError` where `strength` is not above 0 or `num_clients` no whole number of at least 1.
    """
    number("strength", strength, above=0)
    num_clients = whole("num_clients", num_clients)
    learn = fit(supervised(model, criterion), optimizer, penalty=together(linear(), proximal(strength)), **options)

    def init(key, task):
        params = model.init(key, task.support.x)
        return {"params": params, "pull": zeros(params)}, zeros(params)

    def client(shared, own, task, key):
        params = shared["params"]
        pull = jax.tree.map(jnp.negative, own)
        fitted = learn(params, task.support, key, penalty_state=(pull, proximal(strength).init(params)))
        change = moved(params, fitted.params)
        update = proposal(change, task.support, fitted, {"params": fitted.params, "pull": shared["pull"]})
        return update, jax.tree.map(lambda g, d: g + strength * d, own, change)

    return Federated(
        *over_clients(
            init,
            client,
            corrected(strength, num_clients),
            optax.sgd(1.0),
            num_clients=num_clients,
            mapping=mapping,
            drop_nonfinite=drop_nonfinite,
        ),
        using(model, shared_params),
        down=lambda shared: shared["params"],
        up=lambda shared: changes(shared["params"], options.get("where")),
    )


def corrected(strength: float | jax.Array, num_clients: int) -> Aggregator:
    """mean_k d_k + h / α, and h ← h + (α / N) Σ_k d_k first, out of directions d_k = θ_t - θ_k; zero where nobody is
    present, for h / α was subtracted already."""

    def each(update, state, key):
        present = update.weight > 0
        change = jax.tree.map(lambda d: jnp.where(present, d, jnp.zeros_like(d)), update.direction)
        return change, present.astype(jnp.result_type(float))

    def finish(total, state, params, key):
        change, count = total
        grown = jax.tree.map(lambda d: strength / num_clients * d, change)

        def back(d, h, more):
            return jnp.where(count > 0, d / jnp.maximum(count, 1).astype(d.dtype) + (h + more) / strength, 0)

        moved_back = jax.tree.map(back, change, params["pull"], grown)
        return {"params": moved_back, "pull": jax.tree.map(jnp.negative, grown)}, state

    return summed(each, finish)
