"""One process of several: `python _worker.py PROCESS PROCESSES PORT DEVICES FOLDER STEPS`; prints the final state."""

import os
import sys

SIZE = 2048  # large enough for the state to be cut in pieces, so that no process holds all of it


def main(process, processes, port, devices, folder, steps):
    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, process)
    import metalearn as ml
    from metalearn.host.processes import on_host

    def task(key):  # a quadratic: the distance to a target of its own
        return ml.Task(ml.Batch(jax.random.normal(key, (3, SIZE))))

    def loss(params, batch, key):
        value = jnp.mean((params["w"] - batch.x) ** 2)
        return value, ml.Aux({"distance": value})

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("tasks",))
    algorithm = ml.over_tasks(
        lambda key, task: {"w": jnp.zeros(task.support.x.shape[-1])},
        ml.gradient(loss),
        ml.mean(),
        optax.adam(0.1),
        mapping=ml.sharded(mesh),
    )

    def init(key, batch):  # typed keys, one alone and many in pieces, are kept, broadcast and gathered as all else
        return algorithm.init(key, batch), key, jax.random.split(key, SIZE)

    def step(state, batch, key):
        state, one, many = state
        state, metrics = algorithm.step(state, batch, one)
        return (state, jax.random.fold_in(one, 1), jax.vmap(jax.random.fold_in, (0, None))(many, 1)), metrics

    (state, one, many), history = ml.run(
        ml.spread_state(ml.Algorithm(init, step), mesh), ml.data.batched(task, 6), steps,
        key=jax.random.key(0), folder=folder, log_every=2, checkpoint_every=4, tensorboard=False,
    )  # fmt: skip
    assert state.params["w"].addressable_shards[0].data.shape == (SIZE // len(jax.devices()),)
    assert many.addressable_shards[0].data.shape == (SIZE // len(jax.devices()),)
    w = np.asarray(on_host(state).params["w"], np.float64)
    drawn = jax.vmap(jax.random.uniform)(on_host(many)).sum() + jax.random.uniform(one)
    print(history[-1]["train/loss"], w.sum(), np.abs(w).sum(), drawn)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]), sys.argv[5], int(sys.argv[6]))
