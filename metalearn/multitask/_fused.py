"""Several modalities, or views, into one trunk."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from metalearn.arguments import check_models
from metalearn.core import InputError, Model
from metalearn.multitask.sharing import keys_for


def fused(encoders: Mapping[str, Model], body: Model) -> Model:
    """A model of inputs `{modality: x}`: every modality through its encoder, to `[n, d_m]`, and all of them, side by
    side, through `body`. Use it as the trunk of `hard`.

    Encoders and body must not keep running statistics. Raises `InputError` where the modalities differ.
    """

    check_models(*encoders.values(), body)

    def encoded(params, x, key=None):
        if set(x) != set(encoders):
            raise InputError(f"inputs must have the modalities {sorted(encoders)}, but have {sorted(x)}")
        keys = keys_for(key, encoders)
        return jnp.concatenate([one.apply(params[name], x[name], keys[name]) for name, one in encoders.items()], -1)

    def init(key, x):
        encoder_key, body_key = jax.random.split(key)
        keys = keys_for(encoder_key, encoders)
        params = {name: one.init(keys[name], x[name]) for name, one in encoders.items()}
        return {"encoders": params, "body": body.init(body_key, encoded(params, x))}

    def apply(params, x, key=None):
        encoder_key, body_key = (None, None) if key is None else jax.random.split(key)
        return body.apply(params["body"], encoded(params["encoders"], x, encoder_key), body_key)

    return Model(init, apply)
