"""SCAFFOLD: control variates against client drift (Karimireddy, Kale, Mohri, Reddi, Stich, Suresh 2020, arXiv
1910.06378)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn.aggregate import parts, total
from metalearn.arguments import number, whole
from metalearn.core import Aggregator, Criterion, InputError, Model
from metalearn.federated.client import EQUALLY, PLAIN, Federated, changes, moved, proposal, shared_params, using, zeros
from metalearn.inner import fit, supervised
from metalearn.mapping import Mapping, auto
from metalearn.outer import gradient, over_clients
from metalearn.penalty import linear
from metalearn.tree import merge, partition


def scaffold(
    model: Model,
    criterion: Criterion,
    rate: float | jax.Array,
    *,
    num_clients: int,
    option: int = 2,
    server: optax.GradientTransformation = PLAIN,
    aggregator: Aggregator = EQUALLY,
    mapping: Mapping = auto,
    drop_nonfinite: bool = False,
    **options: Any,
) -> Federated:
    """Each client corrects its gradients by c - c_i, the difference of the server's control variate and its own.

    y_i ← y_i - η (g_i(y_i) - c_i + c);  x ← x + η_g mean(y_i - x);  c ← c + (|S| / N) mean(c_i⁺ - c_i), with
    c_i⁺ = ∇F_i(x) (option 1) or c_i - c + (x - y_i) / (K η) (option 2), K being the client's own number of steps.
    Means are plain ones over the cohort, as in the paper.

    Args:
      rate: η of the clients' SGD, which option 2 divides by.
      num_clients: N. A client's control variate is its row of the table, found by `task.id`.
      server: by default SGD with η_g = 1.
      aggregator: of the models' changes; those of the control variates are always summed.
      options: those of `inner.fit`: `num_epochs` or `num_steps`, `batch_size`, …

    Raises `InputError` where `option` is another, `rate` not above 0 or `num_clients` no whole number of at least 1.
    """
    if option not in (1, 2):
        raise InputError(f"option must be 1 or 2, but is {option!r}")
    number("rate", rate, above=0)
    num_clients = whole("num_clients", num_clients)
    learn = fit(supervised(model, criterion), optax.sgd(rate), penalty=linear(), **options)
    full = gradient(supervised(model, criterion))

    def init(key, task):
        params = model.init(key, task.support.x)
        return {"params": params, "control": zeros(params)}, zeros(params)

    def client(shared, own, task, key):
        params, control = shared["params"], shared["control"]
        correction = jax.tree.map(jnp.subtract, control, own)
        fitted = learn(params, task.support, key, penalty_state=correction)
        change = moved(params, fitted.params)
        if option == 1:
            # what is frozen needs no control
            new = merge(partition(full(params, task, key).direction, options.get("where"))[0], zeros(params))
        else:
            scale = 1 / (jnp.maximum(fitted.steps, 1) * rate)
            worked = fitted.steps > 0  # who did no step has learned nothing about its gradient
            new = jax.tree.map(lambda c, d, old: jnp.where(worked, d * scale - c, old), correction, change, own)
        direction = {"params": change, "control": jax.tree.map(jnp.subtract, own, new)}
        return proposal(direction, task.support, fitted, {"params": fitted.params, "control": control}), new

    return Federated(
        *over_clients(
            init,
            client,
            parts({"params": aggregator, "control": total(1 / num_clients)}),
            optax.partition(
                {"params": server, "control": PLAIN},
                {"params": "params", "control": "control"},
            ),
            num_clients=num_clients,
            mapping=mapping,
            drop_nonfinite=drop_nonfinite,
        ),
        using(model, shared_params),
        up=lambda shared: [changes(part, options.get("where")) for part in (shared["params"], shared["control"])],
    )
