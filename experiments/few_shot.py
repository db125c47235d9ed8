"""From settings to a trained, tested and reported learner: what every few-shot experiment shares."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metalearn as ml
from experiments.command_line import imported, nearest
from experiments.devices import spread
from metalearn.core import Algorithm, Criterion, InputError, Learner, Model, Params, TaskFn
from metalearn.files import write_whole
from metalearn.report import Row, diverging, print_table, read_results, report, write_results

METHODS = ("maml", "fomaml", "anil", "meta_sgd", "reptile", "protonet", "finetune", "scratch")
TITLES = {
    "maml": ("MAML", "finn2017maml"), "fomaml": ("FOMAML", "finn2017maml"), "anil": ("ANIL", "raghu2020anil"),
    "meta_sgd": ("Meta-SGD", "li2017metasgd"), "reptile": ("Reptile", "nichol2018reptile"),
    "protonet": ("ProtoNet", "snell2017prototypical"), "finetune": ("Fine-tuning", "chen2019closer"),
    "scratch": ("From scratch", None),
}  # fmt: skip
TUNED = "tuned.json"  # what validation chose after training
_VALIDATION, _TEST = 1, 2  # keys of the validation and test tasks: the same whatever the seed and the method


class Problem(NamedTuple):
    """What is learned: a network for a number of ways, a criterion, and samplers.

    `train`, `validation` and `test` are `(num_ways, num_support, num_query) -> sample`; `joint() -> sample` is for
    plain training on everything at once, of the model `pretrained`. `metric` is what is reported.
    """

    name: str
    network: Callable[[int], Model]
    criterion: Criterion
    metric: str
    train: Callable[..., Any]
    joint: Callable[[], Any]
    validation: Callable[..., Any]
    test: Callable[..., Any]
    pretrained: Model
    new_head: bool = False
    adapted: str | None = None  # which parameters MAML and Meta-SGD adapt, a regular expression; all by default


class Trained(NamedTuple):
    """A learner and the shared parameters that a run arrived at; `state = learner.adapt(params, support, key)`."""

    learner: Learner
    params: Params


def learner_of(s: Any, problem: Problem, num_ways: int, num_steps: int, *, batch_size=None, **options: Any) -> Learner:
    """The learner that settings describe, for any number of ways and inner steps."""
    criterion, model = problem.criterion, problem.network(num_ways)
    inner = _inner_optimizer(s)
    match s.method:
        case "maml" | "fomaml":
            options |= {"first_order": s.method == "fomaml", "where": problem.adapted}
            return ml.meta.maml(model, criterion, inner, num_steps, **options)
        case "anil":
            return ml.meta.anil(model, criterion, inner, num_steps, **options)
        case "meta_sgd":
            return ml.meta.meta_sgd(model, criterion, num_steps, rate=s.inner_rate, where=problem.adapted, **options)
        case "reptile":
            options |= {"batch_size": batch_size, "transductive": s.transductive}
            return ml.meta.reptile(model, criterion, inner, num_steps, **options)
        case "protonet":
            return ml.meta.protonet(model, num_ways)
        case "finetune":
            options |= {"new_head": num_ways, "where": "head"} if problem.new_head else {}
            return ml.meta.finetune(problem.pretrained, criterion, inner, num_steps, **options)
        case "scratch":
            return ml.meta.scratch(model, criterion, inner, num_steps, **options)
    return _own(s.method, model, criterion)


def task_fn_of(s: Any, problem: Problem, learner: Learner) -> TaskFn:
    """What a task proposes in training."""
    if s.method == "reptile":
        return ml.difference(learner.adapt)
    if s.method == "finetune":
        return ml.gradient(ml.supervised(problem.pretrained, problem.criterion))
    return ml.episodic(learner, problem.criterion)


def algorithm_of(s: Any, problem: Problem) -> Algorithm:
    """The outer loop that settings describe."""
    learner = learner_of(s, problem, s.ways, s.inner_steps, batch_size=s.inner_batch)
    task_fn = task_fn_of(s, problem, learner)
    return ml.over_tasks(learner.init, task_fn, ml.mean(), _outer_optimizer(s), mapping=spread(s.devices))


def train(s: Any, problem: Problem) -> list[Params]:
    """Trains (or goes on training) in `s.folder`; returns the parameters of the best checkpoint, one for each seed."""
    check_settings(s)
    if s.method == "scratch":  # nothing is shared between tasks, so there is nothing to train
        learner = learner_of(s, problem, s.ways, 0)
        task = problem.train(s.ways, s.shots, s.queries)(jax.random.key(0))
        return [learner.init(jax.random.key(seed), task) for seed in s.seeds]
    algorithm = algorithm_of(s, problem)
    sample = (
        problem.joint()
        if s.method == "finetune"
        else ml.data.batched(problem.train(s.ways, s.shots, s.queries), s.tasks)
    )
    ways, shots, steps = _test_ways(s)[0], _test_shots(s)[0], s.validation_steps
    judge = ml.evaluate(learner_of(s, problem, ways, steps, batch_size=s.test_batch), problem.criterion)
    tasks = ml.data.batched(problem.validation(ways, shots, s.test_queries), s.validation_tasks)

    def evaluate(state, key):
        return judge(state.params, tasks(jax.random.key(_VALIDATION)), key)

    keys = jax.vmap(jax.random.key)(jnp.asarray(s.seeds)) if len(s.seeds) > 1 else jax.random.key(s.seeds[0])
    best = {"accuracy": "accuracy"}.get(problem.metric, "loss")
    ml.run(
        algorithm, sample, s.steps, key=keys, evaluate=evaluate, every=s.validate_every, log_every=s.log_every,
        folder=s.folder, config=s, free=("folder", "devices", "test_ways", "test_queries", "test_tasks"), best=best,
    )  # fmt: skip
    return best_params(s, problem)


def best_params(s: Any, problem: Problem) -> list[Params]:
    """The parameters of the best checkpoint in `s.folder`, one for each seed."""
    algorithm = algorithm_of(s, problem)
    task = jax.eval_shape(problem.train(s.ways, s.shots, s.queries), jax.random.key(0))
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((1, *a.shape), a.dtype), task)
    one = jax.eval_shape(algorithm.init, jax.random.key(0), batch)
    several = len(s.seeds) > 1
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct((len(s.seeds), *a.shape), a.dtype), one) if several else one
    state, _ = ml.restore(s.folder, like, step="best")
    if not several:
        return [state.params]
    return [jax.tree.map(lambda a, i=i: a[i], state.params) for i in range(len(s.seeds))]


def tested(s: Any, problem: Problem, params: Sequence[Params], published: dict) -> list[Row]:
    """Query metrics on unseen tasks, for every number of test ways, shots and adaptation steps."""
    own_steps = s.method != "protonet" and s.method in METHODS
    at = s.test_steps if own_steps else (0,)
    classes = problem.metric == "accuracy"
    rows = []
    for ways in _test_ways(s):
        for shots in _test_shots(s):
            options = {"trajectory": True} if own_steps else {}
            learner = learner_of(s, problem, ways, max(at), batch_size=s.test_batch, **options)
            measure = ml.evaluate(learner, problem.criterion, at=at if own_steps else None)
            tasks = problem.test(ways, shots, s.test_queries)
            measured = [_measured(measure, one, tasks, s.test_tasks, seed) for one, seed in zip(params, s.seeds)]
            # [S, K, number of adaptation steps]
            values, losses = (
                np.stack([one[name].reshape(s.test_tasks, len(at)) for one in measured])
                for name in (problem.metric, "loss")
            )
            for i, steps in enumerate(at):
                rows.append(
                    Row(
                        method=title(s.method),
                        cite=TITLES.get(s.method, ("", None))[1],
                        metric=problem.metric,
                        higher_is_better=classes,
                        ways=ways if classes else None,
                        shots=shots,
                        queries=s.test_queries,
                        adapt_steps=steps if own_steps else None,
                        transductive=s.transductive and s.method != "protonet" if classes else None,
                        split=getattr(s, "split", None),
                        rotations=getattr(s, "test_rotations", None),
                        budget=0 if s.method == "scratch" else s.steps,
                        protocol=_protocol(s, problem, ways, shots),
                        values=values[..., i],
                        published=published.get((s.method, ways, shots, steps)),
                        failed=diverging(losses[..., i], losses[..., 0] if at[0] == 0 else None),
                    )
                )
    return rows


def main(s: Any, problem_of: Callable[[Any], Problem], published: dict) -> list[tuple[Any, Problem, list[Params]]]:
    """Trains, tests and reports `s.method` and the methods beside it on the same tasks, each in its own folder."""
    methods = (s.method, *s.beside)
    each = [replace(s, method=m, beside=(), folder=f"{s.folder}/{m}") for m in methods] if s.beside else [s]
    for one in each:
        check_settings(one)
    done = []
    for one in each:
        problem = problem_of(one)
        print(f"{title(one.method)}: {one.folder}")
        params = train(one, problem)
        one = tuned(one, problem, params)
        write_results(one.folder, tested(one, problem, params, published))
        done.append((one, problem, params))
    folders = [one.folder for one in each]
    against = title(s.method) if s.beside else None
    written = report(folders, out=s.folder, against=against)
    print_table([row for folder in folders for row in read_results(folder)], against=against)
    print("written: " + ", ".join(str(path) for path in written if path.suffix in (".md", ".png")))
    return done


def check_settings(s: Any) -> None:
    """Refuses what no run could be made of, before anything is computed."""
    if s.method not in METHODS:
        imported(s.method, METHODS)
    if not s.seeds or not s.test_steps or min(s.test_steps) < 0:
        raise InputError("seeds and test_steps each need at least one value, and steps are not negative.")
    if s.validation_tasks < 1 or s.test_tasks < 2:
        raise InputError("validation_tasks must be at least 1, and test_tasks at least 2 for an interval.")
    spread(s.devices)


def title(method: str) -> str:
    """A method's name as tables show it."""
    return TITLES.get(method, (method, None))[0]


def test_tasks(problem: Problem, ways: int, shots: int, queries: int, count: int) -> ml.Task:
    """The first `count` test tasks: task i is drawn with its own key, whatever is compared on it."""
    sample = problem.test(ways, shots, queries)
    return jax.vmap(lambda i: sample(jax.random.fold_in(jax.random.key(_TEST), i)))(jnp.arange(count))


def _measured(
    measure: Callable, params: Params, tasks: Any, count: int, seed: int, at_once: int = 100
) -> dict[str, np.ndarray]:
    """Metrics of the first `count` test tasks, `[count, ...]`, a hundred at a time. The tasks are the same for every
    seed, what is random in adapting to them is not."""

    def one_part(params, sample, first, key):
        ids = first + jnp.arange(at_once)
        drawn = jax.vmap(lambda i: sample(jax.random.fold_in(jax.random.key(_TEST), i)))(ids)
        return measure(params, drawn._replace(id=ids), key)

    compiled = jax.jit(one_part)
    passed = tasks if isinstance(tasks, jax.tree_util.Partial) else jax.tree_util.Partial(tasks)
    key = jax.random.key(_TEST + seed)
    parts = [jax.tree.map(np.asarray, compiled(params, passed, first, key)) for first in range(0, count, at_once)]
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


def tuned(s: Any, problem: Problem, params: Sequence[Params]) -> Any:
    """A baseline's settings with the inner rate that validation tasks choose, after the most steps."""
    if s.method not in ("finetune", "scratch") or not s.tuned_rates:
        return s
    ways, shots = _test_ways(s)[0], _test_shots(s)[0]
    tasks = ml.data.batched(problem.validation(ways, shots, s.test_queries), s.validation_tasks)(
        jax.random.key(_VALIDATION)
    )

    def loss(rate):
        learner = learner_of(replace(s, inner_rate=rate), problem, ways, s.test_steps[-1])
        return ml.evaluate(learner, problem.criterion)(params[0], tasks, jax.random.key(_VALIDATION))["loss"].mean()

    losses = np.asarray(jax.jit(jax.vmap(loss))(jnp.asarray(s.tuned_rates)))
    best = s.tuned_rates[int(np.nanargmin(losses))]
    found = ", ".join(f"{rate:g}: {value:.4g}" for rate, value in zip(s.tuned_rates, losses))
    print(f"{title(s.method)}: inner rate {best:g}, by validation loss ({found})")
    Path(s.folder).mkdir(parents=True, exist_ok=True)
    tried = {f"{rate:g}": float(value) if np.isfinite(value) else None for rate, value in zip(s.tuned_rates, losses)}
    text = json.dumps({"inner_rate": best, "validation_loss": tried}, indent=1)
    write_whole(Path(s.folder) / TUNED, f"{text}\n")
    return replace(s, inner_rate=best)


def _test_ways(s: Any) -> tuple[int, ...]:
    return s.test_ways or (s.ways,)


def _test_shots(s: Any) -> tuple[int, ...]:
    return s.test_shots or (s.shots,)


def _protocol(s: Any, problem: Problem, ways: int, shots: int) -> str:
    """What names the test tasks: rows with the same name were measured on the same ones."""
    parts = [problem.name, f"{ways}-way", f"{shots}-shot", f"{s.test_queries}-query"]
    names = ("split", "split_seed", "test_rotations", "within_alphabet")
    return "/".join([*parts, *(f"{name}={getattr(s, name)}" for name in names if hasattr(s, name))])


def _inner_optimizer(s: Any) -> optax.GradientTransformation:
    smooth = 0.0 if s.method == "reptile" else 1e-16  # Adam has to be differentiated through elsewhere
    adam = lambda rate: optax.adam(rate, b1=0.0, eps_root=smooth)  # noqa: E731
    return _one_of("inner", s.inner, {"adam": adam, "sgd": optax.sgd})(s.inner_rate)


def _outer_optimizer(s: Any) -> optax.GradientTransformation:
    decays: dict[str, Callable[[], Any]] = {
        "none": lambda: s.outer_rate,
        "linear": lambda: optax.linear_schedule(s.outer_rate, 0.0, s.steps),
        "halving": lambda: optax.exponential_decay(s.outer_rate, s.halve_every, 0.5, staircase=True),
    }
    return _one_of("outer", s.outer, {"adam": optax.adam, "sgd": optax.sgd})(
        _one_of("outer_decay", s.outer_decay, decays)()
    )


def _one_of(name: str, value: str, known: dict) -> Any:
    if value not in known:
        raise InputError(f"{name} is {value!r}, which is unknown; {nearest(value, known)}")
    return known[value]


def _own(name: str, model: Model, criterion: Criterion) -> Learner:
    made = imported(name, METHODS)(model, criterion)
    if not isinstance(made, Learner):
        raise InputError(f"method {name!r} must return a metalearn Learner, but returned a {type(made).__name__}.")
    return made


def settings_of(folder: str | Path, kind: type) -> Any:
    """The settings that a run folder was made with, the inner rate that validation tasks chose among them."""
    path, chosen = Path(folder) / "config.json", Path(folder) / TUNED
    try:
        values = json.loads(path.read_text())
        if chosen.exists():
            values["inner_rate"] = json.loads(chosen.read_text())["inner_rate"]
        fields = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return kind(**{**fields, "folder": str(folder)})
    except FileNotFoundError:
        raise InputError(f"{folder} is no run folder: it has no config.json.") from None
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} does not hold settings of this experiment: {error}.") from error
