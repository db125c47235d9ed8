"""FedDyn: dynamic regularisation (Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama 2021, arXiv 2111.04263)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate import mean, parts, total
from metalearn.core import Criterion, Model
from metalearn.federated.client import Federated, moved, proposal, shared_params, using, zeros
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
    **options: Any,
) -> Federated:
    """Every client's optimum is moved, round by round, to where the sum of all of them is stationary.

    θ_k ← argmin F_k(θ) - ⟨g_k, θ⟩ + (α / 2) ‖θ - θ_t‖²;  g_k ← g_k - α (θ_k - θ_t);  h ← h - (α / N) Σ_S (θ_k - θ_t);
    θ_{t+1} = mean_S θ_k - h / α, with α = `strength`. g_k is client k's row of the table.
    """
    learn = fit(supervised(model, criterion), optimizer, penalty=together(linear(), proximal(strength)), **options)

    def init(key, task):
        params = model.init(key, task.support.x)
        return {"params": params, "pull": zeros(params)}, zeros(params)

    def client(shared, own, task, key):
        params = shared["params"]
        pull = jax.tree.map(jnp.negative, own)
        fitted = learn(params, task.support, key, penalty_state=(pull, proximal(strength).init(params)))
        change = moved(params, fitted.params)
        scaled = jax.tree.map(lambda d: strength * d, change)
        direction = {"params": change, "pull": scaled}
        update = proposal(direction, task.support, fitted, {"params": fitted.params, "pull": shared["pull"]})
        return update, jax.tree.map(jnp.add, own, scaled)

    def server(direction, shared):
        pull = jax.tree.map(jnp.add, shared["pull"], direction["pull"])
        back = jax.tree.map(lambda d, h: -d - h / strength, direction["params"], pull)
        return {"params": back, "pull": direction["pull"]}

    aggregator = parts({"params": mean(), "pull": total(1 / num_clients)})
    return Federated(
        *over_clients(init, client, aggregator, optax.stateless(server), num_clients=num_clients, mapping=mapping),
        using(model, shared_params),
    )
