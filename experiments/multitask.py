"""From settings to a table over seeds: what every multi-task experiment shares.

Every method is tuned alike, on validation examples; single-task models and equal weighting are tuned too, because they
are what the others must be compared with (Kurin et al. 2022, arXiv 2201.04122).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metalearn as ml
from experiments.command_line import imported, nearest
from metalearn import aggregate as agg
from metalearn import multitask as mt
from metalearn.core import Batch, Criterion, InputError
from metalearn.report.tables import Table, latex, markdown


class Problem(NamedTuple):
    """Several tasks on the same examples.

    `model(tasks) -> Sharing` for any of the tasks; `metrics[task]` is the metric's name in what the criterion reports,
    and whether higher is better.
    """

    name: str
    model: Callable[[list[str]], mt.Sharing]
    criteria: Mapping[str, Criterion]
    metrics: Mapping[str, tuple[str, bool]]
    train: Batch
    validation: Batch
    test: Batch

    @property
    def tasks(self) -> list[str]:
        return list(self.criteria)


class Method(NamedTuple):
    """`make(settings, pieces, optimizer, count, epoch) -> Algorithm`: `pieces` are `(init, trunk, heads)` of
    `over_losses`, `count` is the number of tasks, `epoch` that of steps in an epoch."""

    title: str
    cite: str | None
    make: Callable[..., ml.Algorithm]


def _by(aggregator: Callable, looks: bool = True) -> Callable[..., ml.Algorithm]:
    """An aggregator of K tasks in `over_losses`; one that looks at gradients goes by the settings' at and every."""

    def make(s, pieces, optimizer, count, epoch):
        options = {"at": s.at, "every": s.every} if looks else {}
        return ml.over_losses(*pieces, aggregator(count, epoch), optimizer, **options)

    return make


def _step(method: Callable, **options: Any) -> Callable[..., ml.Algorithm]:
    return lambda s, pieces, optimizer, count, epoch: method(*pieces, optimizer, **options)


_LEARNED = optax.adam(1e-2)
METHODS = {
    "single": Method("Single task", None, _by(lambda k, epoch: agg.total(), looks=False)),
    "equal": Method("Equal weighting", None, _by(lambda k, epoch: agg.mean(), looks=False)),
    # from losses
    "uncertainty": Method(
        "Uncertainty", "kendall2018uncertainty", _by(lambda k, epoch: agg.uncertainty(k, _LEARNED), False)
    ),
    "imtl_l": Method("IMTL-L", "liu2021imtl", _by(lambda k, epoch: agg.imtl_l(k, _LEARNED), False)),
    "dwa": Method("DWA", "liu2019mtan", _by(agg.dwa, False)),
    "random": Method("Random weights", "lin2022rlw", _by(lambda k, epoch: agg.random(), False)),
    "geometric": Method("Geometric mean", "chennupati2019multinet", _by(lambda k, epoch: agg.geometric(), False)),
    "priority": Method("Task priority", "guo2018dtp", _by(lambda k, epoch: agg.priority(k), False)),
    "tchebycheff": Method("Smooth Tchebycheff", "lin2024stch", _by(lambda k, epoch: agg.tchebycheff(), False)),
    "famo": Method("FAMO", "liu2023famo", _step(mt.famo)),
    # from gradients
    "gradnorm": Method("GradNorm", "chen2018gradnorm", _by(lambda k, epoch: agg.gradnorm(k, _LEARNED))),
    "excess": Method("ExcessMTL", "he2024excess", _by(lambda k, epoch: agg.excess(k, 0.01))),
    "mgda": Method("MGDA", "sener2018mgda", _by(lambda k, epoch: agg.mgda("loss+"))),
    "pcgrad": Method("PCGrad", "yu2020pcgrad", _by(lambda k, epoch: agg.pcgrad())),
    "gradvac": Method("GradVac", "wang2021gradvac", _by(lambda k, epoch: agg.gradvac(k))),
    "graddrop": Method("GradDrop", "chen2020graddrop", _by(lambda k, epoch: agg.graddrop())),
    "cagrad": Method("CAGrad", "liu2021cagrad", _by(lambda k, epoch: agg.cagrad())),
    "nash": Method("Nash-MTL", "navon2022nash", _by(lambda k, epoch: agg.nash())),
    "imtl_g": Method("IMTL-G", "liu2021imtl", _by(lambda k, epoch: agg.imtl_g())),
    "aligned": Method("Aligned-MTL", "senushkin2023aligned", _by(lambda k, epoch: agg.aligned())),
    "upgrad": Method("UPGrad", "quinton2024upgrad", _by(lambda k, epoch: agg.upgrad())),
    "dualproj": Method("DualProj", "lopezpaz2017gem", _by(lambda k, epoch: agg.dualproj())),
    "config": Method("ConFIG", "liu2025config", _by(lambda k, epoch: agg.config())),
    "fairgrad": Method("FairGrad", "ban2024fairgrad", _by(lambda k, epoch: agg.fairgrad())),
    "moco": Method("MoCo", "fernando2023moco", _step(mt.moco)),
}


class Tested(NamedTuple):
    """One method: its best rate, and every seed's test metric of every task, `[S, K]`."""

    name: str
    rate: float
    values: np.ndarray
    validation: dict[float, float]


def main(s: Any, problem_of: Callable[[Any], Problem]) -> None:
    """Trains, tunes, tests and reports every method on the same examples."""
    check_settings(s)
    problem = problem_of(s)
    counts = {part: len(jax.tree.leaves(getattr(problem, part).x)[0]) for part in ("train", "validation", "test")}
    print(f"{problem.name}: {len(problem.tasks)} tasks, {counts['train']:,} examples to learn from, "
          f"{counts['validation']:,} to choose by, {counts['test']:,} for test")  # fmt: skip
    found = []
    for name in s.methods:
        print(f"{method_of(name).title}: {s.folder}/{name.replace(':', '.')}")
        found.append(tuned(s, problem, name))
    table = table_of(s, problem, found)
    write(s, problem, found, table)


def tuned(s: Any, problem: Problem, name: str) -> Tested:
    """A method at the rate that validation chose."""
    values, rates = {}, {}
    for rate in s.rates:
        try:
            validation, test = trained(s, problem, name, rate)
        except FloatingPointError as error:  # one rate too large ends nothing but itself
            print(f"  rate {rate:g}: {error}")
            validation = test = np.full((len(s.seeds), len(problem.tasks)), np.nan)
        values[rate], rates[rate] = test, score(problem, validation)
        if len(s.rates) > 1:
            print(f"  rate {rate:g}: {rates[rate]:.4g} in validation")
    best = max(rates, key=lambda rate: (np.nan_to_num(rates[rate], nan=-np.inf), -rate))
    return Tested(name, best, values[best], rates)


def score(problem: Problem, values: np.ndarray) -> float:
    """What chooses a rate: the mean over seeds and tasks, errors with a minus sign. `values`: `[S, K]`."""
    signs = np.array([1.0 if problem.metrics[task][1] else -1.0 for task in problem.tasks])
    return float((signs * values).mean())


def trained(s: Any, problem: Problem, name: str, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """One method at one rate: validation and test metrics of every seed and task, `[S, K]` each."""
    if name != "single":
        return learned(s, problem, name, rate, problem.tasks, name)
    each = [learned(s, problem, name, rate, [task], f"single/{task}") for task in problem.tasks]
    validation, test = (np.concatenate(parts, 1) for parts in zip(*each))
    return validation, test


def learned(s: Any, problem: Problem, name: str, rate: float, tasks: list[str], place: str):
    """Trains on some of the tasks in a folder of its own, which the same command resumes."""
    criteria = {task: problem.criteria[task] for task in tasks}
    model = problem.model(tasks)
    steps_an_epoch = max(1, len(jax.tree.leaves(problem.train.x)[0]) // s.batch)
    algorithm = method_of(name).make(
        s, mt.losses(model, criteria), optimizer_of(s, rate, steps_an_epoch), len(tasks), steps_an_epoch
    )
    looked_at = jax.tree.map(lambda a: a[:256], problem.validation)
    measure, wanted = mt.measure(model, criteria), [f"{task}/{problem.metrics[task][0]}" for task in tasks]

    def metrics(state, batch):
        values = measure(state.params, part(batch, tasks))
        return {name: values[name] for name in wanted}

    conflict = mt.cosines(*mt.losses(model, criteria)[1:])

    def validated(state, key):
        found = metrics(state, problem.validation)
        if len(tasks) == 1:
            return found
        cosine = conflict(state.params, part(looked_at, tasks), key)
        pairs = [(i, j) for i in range(len(tasks)) for j in range(i)]
        return found | {f"cosine/{tasks[j]}~{tasks[i]}": cosine[i, j] for i, j in pairs}

    keys = jax.vmap(jax.random.key)(jnp.asarray(s.seeds)) if len(s.seeds) > 1 else jax.random.key(s.seeds[0])
    folder = f"{s.folder}/{place.replace(':', '.')}" + (f"-rate-{rate:g}" if len(s.rates) > 1 else "")
    config = replace(s, methods=(name,), rates=(rate,), folder=folder)
    steps = s.epochs * steps_an_epoch
    state, _ = ml.run(
        algorithm, minibatches(part(problem.train, tasks), s.batch), steps, key=keys,
        evaluate=validated, every=max(1, steps // 5),
        log_every=max(1, steps // 20), checkpoint_every=max(500, steps // 10),
        folder=folder, config=config, free=("folder",), best=None,
    )  # fmt: skip
    judge = jax.jit(metrics)
    states = [jax.tree.map(lambda a, i=i: a[i], state) for i in range(len(s.seeds))] if len(s.seeds) > 1 else [state]
    return tuple(
        np.array([[float(judge(one, batch)[name]) for name in wanted] for one in states])
        for batch in (problem.validation, problem.test)
    )


def part(batch: Batch, tasks: list[str]) -> Batch:
    """The targets of some tasks."""
    return batch._replace(y={task: batch.y[task] for task in tasks})


def minibatches(data: Batch, size: int) -> Callable:
    """`key -> Batch` of `size` examples, none twice in one batch."""
    count = len(jax.tree.leaves(data.x)[0])
    if size > count:
        raise InputError(f"batch must be at most the {count} examples there are, but is {size}.")

    def sample(key):
        _, rows = jax.lax.top_k(jax.random.uniform(key, (count,)), size)
        return jax.tree.map(lambda a: a[rows], data)

    return sample


def optimizer_of(s: Any, rate: float, steps_an_epoch: int) -> optax.GradientTransformation:
    """The parameters' optimizer, its rate multiplied by `s.decay` every ten epochs."""
    schedule = optax.exponential_decay(rate, 10 * steps_an_epoch, s.decay, staircase=True) if s.decay != 1 else rate
    made = {"adam": lambda: optax.adam(schedule), "sgd": lambda: optax.sgd(schedule, 0.9)}
    if s.optimizer not in made:
        raise InputError(f"there is no optimizer {s.optimizer!r}; {nearest(s.optimizer, made)}")
    return made[s.optimizer]()


def method_of(name: str) -> Method:
    """A method by its name, or `some.module:function`, which makes an `Algorithm` as those in `METHODS` do."""
    if name in METHODS:
        return METHODS[name]
    make = imported(name, METHODS)
    return Method(name, None, make)


def check_settings(s: Any) -> None:
    """Refuses what no run could be made of, before anything is computed."""
    if not s.methods or not s.seeds or not s.rates:
        raise InputError("methods, seeds and rates each need at least one value.")
    for name in s.methods:
        method_of(name)
    if min(s.rates) <= 0 or s.epochs < 1 or s.batch < 1:
        raise InputError(f"rates, epochs and batch must be positive, but are {s.rates}, {s.epochs} and {s.batch}.")
    if not 0 < s.validation < 1:
        raise InputError(f"validation must be a share between 0 and 1, but is {s.validation}.")
    unlike = [name for name in s.methods if name in ("graddrop", "famo", "moco")]
    if unlike and (s.every > 1 or (s.at != "params" and unlike[0] != "graddrop")):
        raise InputError(f"{unlike[0]} has neither at nor every, but they are {s.at!r} and {s.every}.")
    if s.at == "features" and "excess" in s.methods:
        raise InputError("excess sums over steps, but at='features' every step has other examples.")
    if s.at not in ("params", "features") or s.every < 1:
        raise InputError(f"at is 'params' or 'features', and every at least 1, but they are {s.at!r} and {s.every}.")
    optimizer_of(s, 1.0, 1)


def table_of(s: Any, problem: Problem, found: list[Tested]) -> Table:
    """Every method's test metrics: mean over seeds with its 95% interval, Δm, and the paired difference to equal
    weighting on the same seeds."""
    better = [problem.metrics[task][1] for task in problem.tasks]
    alone = next((one.values for one in found if one.name == "single"), None)
    equal = next((one.values for one in found if one.name == "equal"), None)
    titles = ["method", *(f"{task} ({_unit(problem.metrics[task][0])})" for task in problem.tasks)]
    titles += (["Δm (%)"] if alone is not None else []) + (["against equal"] if equal is not None else []) + ["rate"]
    lines = []
    for one in found:
        cells = [method_of(one.name).title]
        for k, task in enumerate(problem.tasks):
            cells.append(_shown(ml.interval(one.values[:, k]), problem.metrics[task][0]))
        if alone is not None:
            gains = ml.metrics.multi_task_gain(one.values, alone.mean(0), better)
            cells.append("reference" if one.name == "single" else _shown(ml.interval(gains), "percent", "+"))
        if equal is not None:
            # gains in percent of equal weighting's mean, in pairs of seeds
            theirs, ours = (ml.metrics.multi_task_gain(v, equal.mean(0), better) for v in (equal, one.values))
            cells.append("reference" if one.name == "equal" else _shown(ml.paired(ours, theirs), "percent", "+"))
        lines.append([*cells, f"{one.rate:g}"])
    tuned = "tuned " if len(s.rates) > 1 else ""
    among = ", ".join(f"{rate:g}" for rate in s.rates)
    caption = (
        f"Test metrics on {problem.name}: mean ± 95% interval over {len(s.seeds)} seeds, {s.epochs} epochs. Δm: mean "
        f"relative gain over {tuned}single-task models; against equal: mean relative gain over {tuned}equal weighting, "
        f"in pairs of seeds. " + (f"Rates chosen among {among} on validation examples." if tuned else f"Rate {among}.")
    )
    return Table("", caption, titles, titles, lines, [method_of(one.name).cite for one in found])


def write(s: Any, problem: Problem, found: list[Tested], table: Table) -> None:
    """Prints the table and writes it with all that is behind it."""
    from rich.console import Console
    from rich.table import Table as Grid

    from metalearn.report.bibtex import bibliography

    folder = Path(s.folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        one.name: {
            "rate": one.rate, "tasks": problem.tasks, "test": one.values.tolist(),
            "validation": {f"{rate:g}": value for rate, value in one.validation.items()},
        }
        for one in found
    }  # fmt: skip
    texts = {
        "table.md": markdown(table), "table.tex": latex(table), "table.csv": _csv(problem, found, s.seeds),
        "methods.bib": bibliography([cite for cite in table.cites if cite]),
        "results.json": json.dumps(results, indent=2) + "\n",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    grid = Grid(*table.titles, box=None, padding=(0, 2, 0, 0))
    for line in table.cells:
        grid.add_row(*line)
    Console(width=110, highlight=False).print(grid)
    print(f"written: {folder / 'table.md'}")


def _csv(problem, found, seeds):
    """Every seed's test metric of every task, as plain numbers."""
    lines = ["method,rate,seed,task,metric,value"]
    for one in found:
        for seed, values in zip(seeds, one.values):
            for task, value in zip(problem.tasks, values):
                lines.append(f"{one.name},{one.rate:g},{seed},{task},{problem.metrics[task][0]},{value:.6g}")
    return "\n".join(lines) + "\n"


def _unit(metric: str) -> str:
    return "%" if metric == "accuracy" else metric.upper()


def _shown(value: Any, metric: str, sign: str = "") -> str:
    scale = 100 if metric == "accuracy" else 1
    digits = 2 if metric in ("accuracy", "percent") else 4
    half = "" if not np.isfinite(value.half) else f" ± {scale * value.half:.{digits}f}"
    return f"{scale * value.mean:{sign}.{digits}f}{half}".replace("-", "−")
