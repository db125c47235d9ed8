"""From settings to a trained, tested and reported few-shot learner: what every few-shot experiment shares."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

import metalearn as ml
from experiments.command_line import nearest
from metalearn.core import Algorithm, InputError, Learner, Model
from metalearn.run import run


class Recipe(NamedTuple):
    """A method on an experiment.

    `algorithm` trains on `sample: key -> batch`; `learner(num_ways, num_steps, trajectory)` is what is validated and
    tested with. `adapts`: whether adaptation goes in steps.
    """

    algorithm: Algorithm
    sample: Callable
    learner: Callable[[int, int, bool], Learner]
    adapts: bool = True


def network(method: str, num_ways: int, width: int) -> Model:
    """Conv-4 as the method's paper has it."""
    from flax import linen as nn

    if method == "protonet":
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        return ml.from_linen(
            ml.nets.Conv4(
                features=width, norm="running", strides=1, pool=True, head="none", epsilon=1e-5, kernel_init=uniform
            )
        )
    if method == "reptile":
        return ml.from_linen(ml.nets.Conv4(num_ways, features=width, head="flatten"))
    if method == "finetune":
        return ml.from_linen(ml.nets.Conv4(features=width, scale=False, head="none"))
    return ml.from_linen(ml.nets.Conv4(num_ways, features=width, scale=False, head_init=nn.initializers.normal(1.0)))


def outer_optimizer(settings: Any) -> optax.GradientTransformation:
    """The outer optimizer with its decay."""
    rate: Any = settings.outer_rate
    if settings.outer_decay == "linear":
        rate = optax.linear_schedule(rate, 0.0, settings.steps)
    elif settings.outer_decay == "halving":
        rate = optax.exponential_decay(rate, settings.halve_every, 0.5, staircase=True)
    elif settings.outer_decay != "none":
        raise InputError(f"outer_decay must be none, linear or halving, but is {settings.outer_decay!r}.")
    return _one_of("outer", settings.outer, {"adam": optax.adam, "sgd": optax.sgd})(rate)


def _inner_optimizer(settings: Any) -> optax.GradientTransformation:
    smooth = 0.0 if settings.method == "reptile" else 1e-16  # Adam has to be differentiated through elsewhere
    adam = lambda rate: optax.adam(rate, b1=0.0, eps_root=smooth)  # noqa: E731
    return _one_of("inner", settings.inner, {"adam": adam, "sgd": optax.sgd})(settings.inner_rate)


def _one_of(name: str, value: str, known: dict) -> Any:
    if value not in known:
        raise InputError(f"{name} is {value!r}, which is unknown; {nearest(value, known)}.")
    return known[value]


def find(name: str) -> Callable:
    """The function that `some.module:function` names."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"method {name!r} cannot be imported: {error}.") from error


def recipe(settings: Any, images: ml.data.Splits) -> Recipe:
    """Puts a method together: its network, learner, task function, aggregator and outer optimizer."""
    from experiments.omniglot import METHODS

    s, criterion = settings, ml.cross_entropy
    if ":" not in s.method and s.method not in METHODS:
        raise InputError(f"there is no method {s.method!r}; {nearest(s.method, METHODS)}.")
    sample = ml.data.batched(
        ml.data.few_shot(images.train, num_ways=s.ways, num_support=s.shots, num_query=s.queries, rotations=s.rotations),
        s.tasks,
    )
    optimizer, outer = _inner_optimizer(s), outer_optimizer(s)

    def over(learner: Learner, task_fn) -> Algorithm:
        return ml.over_tasks(learner.init, task_fn, ml.mean(), outer)

    if s.method in ("maml", "fomaml", "anil"):
        method = ml.meta.anil if s.method == "anil" else ml.meta.maml

        def learner(num_ways, num_steps, trajectory):
            model = network(s.method, num_ways, s.width)
            return method(model, criterion, optimizer, num_steps, first_order=s.method == "fomaml", trajectory=trajectory)

        trained = learner(s.ways, s.inner_steps, False)
        return Recipe(over(trained, ml.episodic(trained, criterion)), sample, learner)

    if s.method == "meta_sgd":

        def learner(num_ways, num_steps, trajectory):
            model = network(s.method, num_ways, s.width)
            return ml.meta.meta_sgd(model, criterion, num_steps, rate=s.inner_rate, trajectory=trajectory)

        trained = learner(s.ways, s.inner_steps, False)
        return Recipe(over(trained, ml.episodic(trained, criterion)), sample, learner)

    if s.method == "reptile":

        def learner(num_ways, num_steps, trajectory, batch_size=s.test_batch):
            model = network(s.method, num_ways, s.width)
            return ml.meta.reptile(
                model, criterion, optimizer, num_steps, batch_size=batch_size, transductive=s.transductive, trajectory=trajectory
            )

        trained = learner(s.ways, s.inner_steps, False, s.inner_batch)
        return Recipe(over(trained, ml.difference(trained.adapt)), sample, learner)

    if s.method == "protonet":
        learner = lambda num_ways, num_steps, trajectory: ml.meta.protonet(network(s.method, num_ways, s.width), num_ways)  # noqa: E731
        trained = learner(s.ways, 0, False)
        return Recipe(over(trained, ml.episodic(trained, criterion)), sample, learner, adapts=False)

    if s.method == "finetune":
        body = network(s.method, s.ways, s.width)
        num_classes = images.train.images.shape[0] * (4 if s.rotations else 1)
        model = ml.nets.with_head(body, num_classes)

        def learner(num_ways, num_steps, trajectory):
            return ml.meta.finetune(
                model, criterion, optimizer, num_steps, new_head=num_ways, where="head", batch_size=s.test_batch, trajectory=trajectory
            )

        # as many images a step as a meta-batch of the other methods has
        images_a_step = s.tasks * s.ways * (s.shots + s.queries)
        sample = ml.data.batched(ml.data.examples(images.train, images_a_step, rotations=s.rotations), 1)
        return Recipe(over(learner(s.ways, 0, False), ml.gradient(ml.supervised(model, criterion))), sample, learner)

    if s.method == "scratch":

        def learner(num_ways, num_steps, trajectory):
            return ml.meta.scratch(network(s.method, num_ways, s.width), criterion, optimizer, num_steps, trajectory=trajectory)

        return Recipe(over(learner(s.ways, 0, False), ml.episodic(learner(s.ways, 0, False), criterion)), sample, learner)

    user = find(s.method)

    def learner(num_ways, num_steps, trajectory):
        made = user(network("own", num_ways, s.width), criterion)
        if not isinstance(made, Learner):
            raise InputError(f"method {s.method!r} must return a metalearn Learner, but returned {type(made).__name__}.")
        return made

    trained = learner(s.ways, 0, False)
    return Recipe(over(trained, ml.episodic(trained, criterion)), sample, learner, adapts=False)


def omniglot(settings: Any) -> dict:
    """Trains on Omniglot as `settings` say, tests the best checkpoint on unseen characters, writes the report."""
    images = ml.data.omniglot(settings.split, seed=settings.split_seed)
    made = recipe(settings, images)
    ways = settings.test_ways or (settings.ways,)
    shots = settings.test_shots or settings.shots

    def tasks(part, num_ways, count, **options):
        sampler = ml.data.few_shot(
            part, num_ways=num_ways, num_support=shots, num_query=settings.test_queries, rotations=settings.test_rotations,
            **options,
        )  # fmt: skip
        return ml.data.batched(sampler, count)

    validation = tasks(images.validation, ways[0], settings.validation_tasks)
    chooser = ml.evaluate(made.learner(ways[0], settings.test_steps[-1], False), ml.cross_entropy)

    def evaluate(state, key):
        task_key, adapt_key = jax.random.split(key)
        return chooser(state.params, validation(task_key), adapt_key)

    keys = jax.vmap(jax.random.key)(jax.numpy.asarray(settings.seeds)) if len(settings.seeds) > 1 else jax.random.key(settings.seeds[0])
    if settings.steps:
        run(made.algorithm, made.sample, settings.steps, key=keys, evaluate=evaluate, every=settings.validate_every,
            log_every=settings.log_every, folder=settings.folder, config=settings,
            free=("folder", "test_ways", "test_queries", "test_tasks"))  # fmt: skip
    return {}

