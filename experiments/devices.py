"""Tasks or clients over several devices, as a setting."""

import jax
import numpy as np
from jax.sharding import Mesh

import metalearn as ml
from metalearn.core import InputError
from metalearn.mapping import Mapping


def spread(devices: int) -> Mapping:
    """The mapping over the first `devices` of all; `InputError` where there are not so many."""
    if not 1 <= devices <= jax.device_count():
        raise InputError(f"devices must be between 1 and the {jax.device_count()} there are, but is {devices}.")
    return ml.auto if devices == 1 else ml.sharded(Mesh(np.array(jax.devices()[:devices]), ("tasks",)))
