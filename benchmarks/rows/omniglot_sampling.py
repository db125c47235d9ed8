"""Sampling a meta-batch of Omniglot tasks on the device, as a fraction of the meta-step of the row `maml_conv4`.

1,100 characters of 20 images, each in four rotations: 4,400 classes. The images are made up; only their number matters.
"""

import time
from typing import Any

import jax
import numpy as np

import metalearn as ml
from benchmarks.measure import Options, alternate, summary, timed
from benchmarks.rows import maml_conv4


def run(options: Options) -> dict[str, Any]:
    """Sampling and the step, in turns."""
    size = maml_conv4.QUICK if options.quick else maml_conv4.Size()
    pixels = (np.random.RandomState(0).rand(1100, 20, 28, 28) < 0.1).astype(np.uint8) * np.uint8(255)
    sample = ml.data.few_shot(
        ml.data.ClassImages(pixels), num_ways=size.ways, num_support=size.shots, num_query=size.queries, rotations=True
    )
    sample = ml.data.batched(sample, size.tasks)
    key = jax.random.key(0)
    start = time.perf_counter()
    draw = jax.jit(lambda sample, key: sample(key)).lower(sample, key).compile()
    batch = jax.block_until_ready(draw(sample, key))
    first_s = time.perf_counter() - start

    algorithm = maml_conv4.algorithm_of(size)
    step = maml_conv4.ours(algorithm, algorithm.init(key, batch), batch)
    draw_once = lambda: timed(lambda: jax.block_until_ready(draw(sample, key)))  # noqa: E731
    times = alternate({"sampling": draw_once, "step": step.time_step}, options.rounds)
    share = [a / b for a, b in zip(times["sampling"], times["step"], strict=True)]
    entries = [
        {
            "who": "sampling",
            "status": "ok",
            "first_s": first_s,
            "seconds": summary(times["sampling"]),
            "share": summary(share),
        },
        {"who": "the meta-step", "status": "ok", "first_s": step.first_s, "seconds": summary(times["step"])},
    ]
    return {"setting": size._asdict() | {"classes": 4400}, "entries": entries}
