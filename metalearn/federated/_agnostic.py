"""Agnostic federated learning: the worst mixture of clients (Mohri, Sivek, Suresh 2019, arXiv 1902.00146)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate import mean, parts
from metalearn.arguments import number, whole
from metalearn.core import Aggregator, Criterion, InputError, Model
from metalearn.federated.client import EQUALLY, PLAIN, Federated, changes, moved, proposal, shared_params, using
from metalearn.inner import fit, supervised
from metalearn.mapping import Mapping, auto
from metalearn.outer import over_clients


def agnostic(
    model: Model,
    criterion: Criterion,
    optimizer: optax.GradientTransformation,
    *,
    mixture_rate: float | jax.Array,
    num_clients: int,
    server: optax.GradientTransformation = PLAIN,
    aggregator: Aggregator = EQUALLY,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
    **options: Any,
) -> Federated:
    """min over w, max over λ in the simplex, of Σ_k λ_k F_k(w).

    With a uniform cohort S: w ← w - (N / |S|) Σ_S λ_k (w - w_k);  λ ← Proj(λ + γ (N / |S|) Σ_S F_k(w) e_k), with
    γ = `mixture_rate`.
    A client's λ is found by `task.id`. Deviation: clients may take several local steps, where the paper's stochastic
    algorithm takes one gradient; with `num_steps=1` and no `batch_size` it is that. It returns the last iterate, the
    paper the average of all. The loss of an id that is not below `num_clients` is NaN, at which `run` stops.

    Raises `InputError` where `mixture_rate` is negative, `num_clients` no whole number of at least 1, or a task has no
    `id`.
    """
    number("mixture_rate", mixture_rate, least=0)
    num_clients = whole("num_clients", num_clients)
    loss = supervised(model, criterion)
    learn = fit(loss, optimizer, **options)

    def init(key, task):
        return {"params": model.init(key, task.support.x), "mixture": jnp.full(num_clients, 1 / num_clients)}, ()

    def client(shared, row, task, key):
        if task.id is None:
            raise InputError("agnostic finds a client's weight by task.id, which is None")
        params, mixture = shared["params"], shared["mixture"]
        before, _ = loss(params, task.support, key)
        fitted = learn(params, task.support, key)
        scale = num_clients * mixture[task.id]
        direction = {
            "params": jax.tree.map(lambda d: scale * d, moved(params, fitted.params)),
            "mixture": jnp.zeros(num_clients).at[task.id].set(num_clients * before),
        }
        return proposal(direction, task.support, fitted, {"params": fitted.params, "mixture": mixture}), row

    def ascend(direction, mixture):
        return optax.projections.projection_simplex(mixture + mixture_rate * direction) - mixture

    optimizers = {"params": server, "mixture": optax.stateless_with_tree_map(ascend)}
    servers = optax.partition(optimizers, {"params": "params", "mixture": "mixture"})
    algorithm = over_clients(  # who have no rows, but places in the mixture
        init,
        client,
        parts({"params": aggregator, "mixture": mean()}),
        servers,
        num_clients=num_clients,
        mapping=mapping,
        drop_nonfinite=drop_nonfinite,
    )

    def down(shared):
        return shared["params"], shared["mixture"][0]  # λ_k

    def up(shared):
        return changes(shared["params"], options.get("where")), jnp.zeros(())  # F_k(w)

    return Federated(*algorithm, using(model, shared_params), down, up)
