"""Sampling a meta-batch of Omniglot tasks on the device, against NumPy, and against the step of the row `maml_conv4`.

1,100 characters of 20 images, each in four rotations: 4,400 classes. The images are made up; only their number matters.
`tasks_per_s` of each sampler is in the JSON.
"""

import time
from typing import Any

import jax
import numpy as np

import metalearn as ml
from benchmarks.comparison import compare
from benchmarks.contender import contender, first_moment, work_of
from benchmarks.floor import Work
from benchmarks.measure import Contender, Options, repeated
from benchmarks.rows import maml


def run(row: str, options: Options) -> dict[str, Any]:
    """Ours, two samplers in NumPy, and the meta-step."""
    size = maml.size_of("maml_conv4", options)
    sample, key = sample_of(size, options.quick), jax.random.key(0)
    start = time.perf_counter()
    draw = jax.jit(lambda sample, key: sample(key)).lower(sample, key).compile()
    batch = jax.block_until_ready(draw(sample, key))
    ours = Contender("metalearn, in jit", repeated(lambda: jax.block_until_ready(draw(sample, key))), _since(start))

    pixels = images(options.quick)
    samplers = {"NumPy, task by task": one_by_one, "NumPy, all tasks at once": all_at_once}
    numpy = [_in_numpy(name, sampler, pixels, size) for name, sampler in samplers.items()]
    algorithm = maml.algorithm_of(size)
    state = algorithm.init(key, batch)
    step = contender(algorithm, state, batch, first_moment, "the meta-step")
    written = float(sum(leaf.nbytes for leaf in jax.tree.leaves(batch)))
    copying = Work(0.0, 1.25 * written, written)  # a pixel is read as a byte and written as four
    works = {one.name: copying for one in (ours, *numpy)} | {step.name: work_of(algorithm, state, batch)}
    result = compare([ours, *numpy, step], options, work=works)
    for entry in result["entries"][:3]:
        entry["tasks_per_s"] = size.tasks / entry["seconds"]["median"]
    return {"setting": size._asdict() | {"classes": 4 * len(pixels)}, **result}


def images(quick: bool) -> np.ndarray:
    """As many as Omniglot's training characters have, `[1100, 20, 28, 28]`, uint8."""
    return (np.random.RandomState(0).rand(110 if quick else 1100, 20, 28, 28) < 0.1).astype(np.uint8) * np.uint8(255)


def sample_of(size: maml.Size, quick: bool) -> Any:
    """`key -> batch of tasks`."""
    sample = ml.data.few_shot(
        ml.data.ClassImages(images(quick)),
        num_ways=size.ways,
        num_support=size.shots,
        num_query=size.queries,
        rotations=True,
    )
    return ml.data.batched(sample, size.tasks)


def one_by_one(pixels: np.ndarray, size: maml.Size, random: np.random.Generator) -> tuple[np.ndarray, ...]:
    """As most code does it: `choice` without replacement, class by class; support x, y, query x, y, `[K, n, …]`."""
    drawn = []
    for _ in range(size.tasks):
        chosen = []
        for label in random.choice(4 * len(pixels), size.ways, replace=False):
            picked = random.choice(pixels.shape[1], size.shots + size.queries, replace=False)
            chosen.append(np.rot90(pixels[label % len(pixels)][picked], label // len(pixels), axes=(1, 2)))
        drawn.append(np.stack(chosen))
    return _split(np.stack(drawn), size)


def all_at_once(pixels: np.ndarray, size: maml.Size, random: np.random.Generator) -> tuple[np.ndarray, ...]:
    """The same without a loop over tasks or classes; repeated classes in a task are drawn again."""
    labels = random.integers(4 * len(pixels), size=(size.tasks, size.ways))
    while (again := (np.diff(np.sort(labels, 1), axis=1) == 0).any(1)).any():
        labels[again] = random.integers(4 * len(pixels), size=(again.sum(), size.ways))
    scores = random.random((size.tasks, size.ways, pixels.shape[1]), np.float32)
    picked = np.argsort(scores, -1)[..., : size.shots + size.queries]
    x, turns = pixels[(labels % len(pixels))[..., None], picked], labels // len(pixels)
    for turn in range(1, 4):
        x[turns == turn] = np.rot90(x[turns == turn], turn, axes=(2, 3))
    return _split(x, size)


def _split(x, size):
    x = x.astype(np.float32)[..., None] / np.float32(255)
    parts = []
    for part, count in ((x[:, :, : size.shots], size.shots), (x[:, :, size.shots :], size.queries)):
        y = np.tile(np.repeat(np.arange(size.ways), count), (size.tasks, 1))
        parts += [part.reshape(size.tasks, size.ways * count, *x.shape[3:]), y]
    return tuple(parts)


def _in_numpy(name, sampler, pixels, size):
    random = np.random.default_rng(0)
    start = time.perf_counter()
    sampler(pixels, size, random)
    return Contender(name, repeated(lambda: sampler(pixels, size, random)), _since(start))


def _since(start):
    return time.perf_counter() - start
