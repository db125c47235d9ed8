"""From settings to a table over seeds: what every multi-task experiment shares.

Every method is tuned alike, on validation examples; single-task models and equal weighting are tuned too, because they
are what the others must be compared with (Kurin et al. 2022, arXiv 2201.04122).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
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
    and whether higher is better. `in_turn`: of networks for which several seeds are the faster in turn on a CPU.
    """

    name: str
    model: Callable[[list[str]], mt.Sharing]
    criteria: Mapping[str, Criterion]
    metrics: Mapping[str, tuple[str, bool]]
    train: Batch
    validation: Batch
    test: Batch
    in_turn: bool = False

    @property
    def tasks(self) -> list[str]:
        return list(self.criteria)


class Method(NamedTuple):
    """`make(settings, pieces, optimizer, count, epoch, **options) -> Algorithm`: settings have one rate, `pieces` are
    `(init, trunk, heads)` of `over_losses`, `count` is the number of tasks, `epoch` that of steps in an epoch. `grid`:
    the options that are tried at every rate, as published. `batches`: how many independent ones a step is given."""

    title: str
    cite: str | None
    make: Callable[..., ml.Algorithm]
    grid: Sequence[Mapping[str, float]] = ({},)
    batches: int = 1


def _by(aggregator: Callable, looks: bool = True, at: str | None = None) -> Callable[..., ml.Algorithm]:
    """An aggregator of K tasks in `over_losses`; one that looks at gradients goes by the settings' at, unless it has
    one of its own, and every."""

    def make(s, pieces, optimizer, count, epoch, **options):
        how = {"at": at or s.at, "every": s.every} if looks else {}
        return ml.over_losses(*pieces, aggregator(count, epoch, **options), optimizer, **how)

    return make


def _step(method: Callable) -> Callable[..., ml.Algorithm]:
    """A method with a step of its own, which has no aggregator that could look elsewhere or wait."""

    def make(s, pieces, optimizer, count, epoch, **options):
        if s.at != "params" or s.every != 1:
            raise InputError(
                f"{method.__name__} has neither at nor every: they must be 'params' and 1, but are {s.at!r}, {s.every}"
            )
        return method(*pieces, optimizer, **options)

    return make


def _emphasis(k: int, first: float) -> np.ndarray:
    """Weights with mean 1, of which the first task has the share `first`, and the others share the rest."""
    return np.ones(1) if k == 1 else k * np.array([first, *[(1 - first) / (k - 1)] * (k - 1)])


def _auto_lambda(s: Any, pieces: Any, optimizer: Any, count: int, epoch: int, weights_rate: float) -> ml.Algorithm:
    """All tasks are primary, and what is looked ahead to is another training batch, as by the authors' code."""
    ahead = s.rates[0] if s.optimizer == "adam" else None  # whose step has no derivative where a gradient is zero
    options = {"look_ahead": ahead, "weights_optimizer": optax.adam(weights_rate), "primary": list(pieces[2])}
    return _step(mt.auto_lambda)(s, pieces, optimizer, count, epoch, **options)


def _nash(s: Any, pieces: Any, optimizer: Any, count: int, epoch: int, length: float | None = None) -> ml.Algorithm:
    """With `length`, the direction of what is shared has it whatever the gradients, as by the authors' code."""
    if length is not None:
        alone = {"shared": optax.normalize_by_update_norm(length), "tasks": optax.identity()}
        optimizer = optax.chain(optax.partition(alone, {name: name for name in alone}), optimizer)
    return _by(lambda k, epoch: agg.nash())(s, pieces, optimizer, count, epoch)


def _grid(name: str, *values: float) -> list[Mapping[str, float]]:
    return [{name: value} for value in values]


_LEARNED = optax.adam(1e-2)
METHODS = {
    "single": Method("Single task", None, _by(lambda k, epoch: agg.total(), looks=False)),
    "equal": Method("Equal weighting", None, _by(lambda k, epoch: agg.mean(), looks=False)),
    # from losses
    "fixed": Method(
        "Fixed weights", None, _by(lambda k, epoch, **o: agg.fixed(_emphasis(k, **o)), False),
        _grid("first", 0.25, 0.75),
    ),
    "uncertainty": Method(
        "Uncertainty", "kendall2018uncertainty", _by(lambda k, epoch: agg.uncertainty(k, _LEARNED), False)
    ),
    "imtl_l": Method("IMTL-L", "liu2021imtl", _by(lambda k, epoch: agg.imtl_l(k, _LEARNED), False)),
    "dwa": Method("DWA", "liu2019mtan", _by(agg.dwa, False)),
    "random": Method("Random weights", "lin2022rlw", _by(lambda k, epoch: agg.random(), False)),
    "geometric": Method("Geometric mean", "chennupati2019multinet", _by(lambda k, epoch: agg.geometric(), False)),
    "priority": Method(
        "Task priority", "guo2018dtp", _by(lambda k, epoch, **o: agg.priority(k, **o), False), _grid("focus", 1.0, 2.0)
    ),
    "tchebycheff": Method(
        "Smooth Tchebycheff", "lin2024stch", _by(lambda k, epoch, **o: agg.tchebycheff(**o), False),
        _grid("smoothness", 0.1, 1.0),
    ),
    "famo": Method("FAMO", "liu2023famo", _step(mt.famo), _grid("decay", 0.001, 0.01)),
    "auto-lambda": Method("Auto-λ", "liu2022autolambda", _auto_lambda, _grid("weights_rate", 1e-4, 1e-3), 2),
    # from gradients
    "gradnorm": Method(
        "GradNorm", "chen2018gradnorm", _by(lambda k, epoch, **o: agg.gradnorm(k, _LEARNED, **o)),
        _grid("alpha", 0.12, 1.5),
    ),
    "excess": Method("ExcessMTL", "he2024excess", _by(lambda k, epoch: agg.excess(k))),
    "mgda": Method("MGDA", "sener2018mgda", _by(lambda k, epoch: agg.mgda())),
    "mgda-ub": Method("MGDA-UB", "sener2018mgda", _by(lambda k, epoch: agg.mgda(), at="features")),
    "pcgrad": Method("PCGrad", "yu2020pcgrad", _by(lambda k, epoch: agg.pcgrad())),
    "gradvac": Method("GradVac", "wang2021gradvac", _by(lambda k, epoch: agg.gradvac(k))),
    "graddrop": Method("GradDrop", "chen2020graddrop", _by(lambda k, epoch: agg.graddrop())),
    "cagrad": Method("CAGrad", "liu2021cagrad", _by(lambda k, epoch, **o: agg.cagrad(**o)), _grid("c", 0.2, 0.4)),
    "nash": Method("Nash-MTL", "navon2022nash", _nash, ({}, {"length": 1.0})),
    "imtl_g": Method("IMTL-G", "liu2021imtl", _by(lambda k, epoch: agg.imtl_g())),
    "aligned": Method("Aligned-MTL", "senushkin2023aligned", _by(lambda k, epoch: agg.aligned())),
    "upgrad": Method("UPGrad", "quinton2024upgrad", _by(lambda k, epoch: agg.upgrad())),
    "dualproj": Method("DualProj", "lopezpaz2017gem", _by(lambda k, epoch: agg.dualproj())),
    "config": Method("ConFIG", "liu2025config", _by(lambda k, epoch: agg.config())),
    "fairgrad": Method(
        "FairGrad", "ban2024fairgrad", _by(lambda k, epoch, **o: agg.fairgrad(**o)), _grid("alpha", 1.0, 2.0)
    ),
    "moco": Method("MoCo", "fernando2023moco", _step(mt.moco)),
    "sdmgrad": Method("SDMGrad", "xiao2023sdmgrad", _step(mt.sdmgrad), _grid("strength", 0.3, 0.6), 3),
}  # fmt: skip


class Candidate(NamedTuple):
    """One of those among which a method is tuned: a rate, and options of the method's own."""

    rate: float
    options: Mapping[str, float]

    @property
    def label(self) -> str:
        return ", ".join([f"{self.rate:g}", *(f"{name} {value:g}" for name, value in self.options.items())])


class Trained(NamedTuple):
    """Every seed's metric of every task, `[S, K]`, and the mean cosine between two tasks' gradients over training, NaN
    of a single task."""

    validation: np.ndarray
    test: np.ndarray
    cosine: float


class Tested(NamedTuple):
    """One method: what it was tuned to (once for each task where each is trained by itself), what every candidate
    reached in validation, relative to the best, every seed's test metric of every task, `[S, K]`, and the mean cosine
    between two tasks' gradients."""

    name: str
    chosen: list[Candidate]
    scores: list[dict[str, float]]
    values: np.ndarray
    cosine: float


def main(s: Any, problem_of: Callable[[Any], Problem]) -> None:
    """Trains, tunes, tests and reports every method on the same examples."""
    check_settings(s)
    problem = problem_of(s)
    check_data(problem)
    for name in s.methods:  # what at and every are not for is refused now, and not hours later
        made(s, problem, name, Candidate(s.rates[0], method_of(name).grid[0]), problem.tasks)
    counts = {part: len(jax.tree.leaves(getattr(problem, part).x)[0]) for part in ("train", "validation", "test")}
    print(f"{problem.name}: {len(problem.tasks)} tasks, {counts['train']:,} examples to learn from, "
          f"{counts['validation']:,} to choose by, {counts['test']:,} for test")  # fmt: skip
    found: list[Tested] = []
    for name in s.methods:
        print(f"{method_of(name).title}: {s.folder}/{name.replace(':', '.')}")
        try:
            found.append(tuned(s, problem, name))
        except FloatingPointError:  # the others' hours are not lost
            print(f"  {method_of(name).title} has no row: every rate diverged")
            if name in ("single", "equal") or (not found and name == s.methods[-1]):
                raise  # what all others are compared with, or the last hope of a row
    probes = "" if s.probe is None else f" after {_epochs(s.probe)} of one seed"
    table = table_of(s, problem.name, problem.metrics, found, _epochs(s.epochs), probes)
    write(s, problem.metrics, found, table)


def tuned(s: Any, problem: Problem, name: str) -> Tested:
    """A method as validation chose it; of models that are trained alone, each by itself."""
    groups = [[task] for task in problem.tasks] if name == "single" else [problem.tasks]
    chosen, scores, runs = zip(*(best_of(s, problem, name, tasks) for tasks in groups))
    cosine = runs[0].cosine if len(groups) == 1 else np.nan
    return Tested(name, list(chosen), list(scores), np.concatenate([run.test for run in runs], 1), cosine)


def best_of(s: Any, problem: Problem, name: str, tasks: list[str]) -> tuple[Candidate, dict[str, float], Trained]:
    """The best of a method's candidates on some tasks, with everybody's score; with `s.probe` they are tried in short
    runs of one seed, and the best is trained anew."""
    candidates = [Candidate(rate, options) for options in method_of(name).grid for rate in s.rates]
    if len(candidates) == 1:
        return candidates[0], {candidates[0].label: 0.0}, learned(s, problem, name, candidates[0], tasks)
    short = s if s.probe is None else replace(s, epochs=s.probe, seeds=s.seeds[:1], folder=f"{s.folder}/probes")
    found: dict[str, Trained] = {}
    failed: FloatingPointError | None = None
    for one in candidates:
        try:
            found[one.label] = learned(short, problem, name, one, tasks, alone=False)
        except FloatingPointError as error:  # one rate too large ends nothing but itself
            print(f"  rate {one.label}: {error}")
            failed = error
            continue
        values = (f"{task} {v:.4g}" for task, v in zip(tasks, found[one.label].validation.mean(0)))
        print(f"  rate {one.label}: {', '.join(values)} in validation")
    if failed is not None and not found:
        raise failed
    gains = relative(problem, tasks, np.stack([run.validation.mean(0) for run in found.values()])).mean(1)
    scores = dict(zip(found, gains.tolist()))
    for best in sorted((one for one in candidates if one.label in found), key=lambda one: -scores[one.label]):
        if short is s:
            return best, scores, found[best.label]
        try:
            return best, scores, learned(s, problem, name, best, tasks)
        except FloatingPointError as error:  # what went well in a short run of one seed
            print(f"  rate {best.label}, trained to the end: {error}")
            failed = error
    assert failed is not None
    raise failed


def relative(problem: Problem, tasks: list[str], values: np.ndarray) -> np.ndarray:
    """How far each of `values` `[R, K]` is from the best of its task, relative to that, so that accuracies and errors
    can be averaged; 0 for the best, negative for all others, minus infinity for what is not finite."""
    better = np.array([problem.metrics[task][1] for task in tasks])
    good = np.where(np.isfinite(values), np.where(better, values, -values), -np.inf)
    best = good.max(0)
    scale = np.where(np.isfinite(best) & (best != 0), np.abs(best), 1)
    return np.where(np.isfinite(good), good - np.where(np.isfinite(best), best, 0), -np.inf) / scale


def made(s: Any, problem: Problem, name: str, candidate: Candidate, tasks: list[str]) -> tuple[ml.Algorithm, int]:
    """A method on some of the tasks, and how many of its steps are an epoch."""
    criteria = {task: problem.criteria[task] for task in tasks}
    steps = max(1, len(jax.tree.leaves(problem.train.x)[0]) // s.batch)
    pieces, optimizer = mt.losses(problem.model(tasks), criteria), optimizer_of(s, candidate.rate, steps)
    settings = replace(s, rates=(candidate.rate,))
    return method_of(name).make(settings, pieces, optimizer, len(tasks), steps, **candidate.options), steps


def learned(s: Any, problem: Problem, name: str, candidate: Candidate, tasks: list[str], alone: bool = True) -> Trained:
    """Trains on some of the tasks in a folder of its own, named by the candidate where it is not `alone`; the same
    command resumes."""
    criteria = {task: problem.criteria[task] for task in tasks}
    model = problem.model(tasks)
    algorithm, steps_an_epoch = made(s, problem, name, candidate, tasks)
    train, validation, test = (
        part(batch, tasks, problem.tasks) for batch in (problem.train, problem.validation, problem.test)
    )
    looked_at = examples(validation, slice(256))
    measure, wanted = mt.measure(model, criteria), [f"{task}/{problem.metrics[task][0]}" for task in tasks]

    def metrics(state, batch):
        values = measure(state.params, batch)
        return {name: values[name] for name in wanted}

    conflict = mt.cosines(*mt.losses(model, criteria)[1:])

    def validated(state, key):
        found = metrics(state, validation)
        if len(tasks) == 1:
            return found
        cosine = conflict(state.params, looked_at, key)
        pairs = [(i, j) for i in range(len(tasks)) for j in range(i)]
        return found | {f"cosine/{tasks[j]}~{tasks[i]}": cosine[i, j] for i, j in pairs}

    keys = jax.vmap(jax.random.key)(jnp.asarray(s.seeds)) if len(s.seeds) > 1 else jax.random.key(s.seeds[0])
    folder = f"{s.folder}/{name.replace(':', '.')}" + (f"/{tasks[0]}" if name == "single" else "")
    if not alone:
        named = {"rate": candidate.rate} | dict(candidate.options)
        folder += "".join(f"-{option}-{value:g}" for option, value in named.items())
    config = asdict(replace(s, methods=(name,), rates=(candidate.rate,), folder=folder))
    config |= {"options": dict(candidate.options)}
    steps = s.epochs * steps_an_epoch
    state, history = ml.run(
        algorithm, minibatches(train, s.batch, method_of(name).batches), steps, key=keys,
        mapping=ml.scanned() if problem.in_turn and jax.default_backend() == "cpu" else None,
        evaluate=validated, every=max(1, steps // 5),
        log_every=max(1, steps // 20), checkpoint_every=max(500, steps // 10),
        folder=folder, config=config, free=("folder",), best=None,
    )  # fmt: skip
    judge = jax.jit(metrics)
    states = [jax.tree.map(lambda a, i=i: a[i], state) for i in range(len(s.seeds))] if len(s.seeds) > 1 else [state]
    cosines = [np.mean(v) for line in history for n, v in line.items() if n.startswith("validation/cosine/")]
    return Trained(
        *(
            np.array([[float(judge(one, batch)[name]) for name in wanted] for one in states])
            for batch in (validation, test)
        ),
        float(np.mean(cosines)) if cosines else np.nan,
    )


def part(batch: Batch, tasks: list[str], among: list[str]) -> Batch:
    """The targets of some tasks among those, in the order of a mask's rows, that a batch has."""
    mask = batch.mask
    if mask is not None and mask.ndim == 2:
        mask = mask[np.array([among.index(task) for task in tasks])]
    return Batch(batch.x, {task: batch.y[task] for task in tasks}, mask)


def examples(batch: Batch, rows: Any) -> Batch:
    """Some of the examples, with their masks `[n]` or `[K, n]`."""
    x, y = jax.tree.map(lambda a: a[rows], (batch.x, batch.y))
    return Batch(x, y, None if batch.mask is None else batch.mask[..., rows])


def minibatches(data: Batch, size: int, count: int = 1) -> Callable:
    """`key -> Batch` of `size` examples, none twice in one batch; a tuple of `count` independent ones where there are
    several."""
    total = len(jax.tree.leaves(data.x)[0])
    if size > total:
        raise InputError(f"batch must be at most the {total} examples there are, but is {size}.")

    def sample(key):
        return examples(data, jax.lax.top_k(jax.random.uniform(key, (total,)), size)[1])

    return sample if count == 1 else lambda key: tuple(map(sample, jax.random.split(key, count)))


def optimizer_of(s: Any, rate: float, steps_an_epoch: int) -> optax.GradientTransformation:
    """The parameters' optimizer, its rate multiplied by `s.decay` every `s.decay_every` epochs."""
    every = s.decay_every * steps_an_epoch
    schedule = optax.exponential_decay(rate, every, s.decay, staircase=True) if s.decay != 1 else rate
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
    if s.probe is not None and not 1 <= s.probe <= s.epochs:
        raise InputError(f"probe must be between 1 and the {s.epochs} epochs, but is {s.probe}.")
    if min(s.rates) <= 0 or min(s.epochs, s.batch, s.decay_every) < 1:
        raise InputError(
            f"rates, epochs, batch and decay_every must be positive, but are {s.rates}, {s.epochs}, {s.batch} and "
            f"{s.decay_every}."
        )
    if not 0 < s.decay <= 1:
        raise InputError(f"decay must be above 0 and at most 1, but is {s.decay}.")
    if not 0 < s.validation < 1:
        raise InputError(f"validation must be a share between 0 and 1, but is {s.validation}.")
    optimizer_of(s, 1.0, 1)


def check_data(problem: Problem) -> None:
    """Refuses tasks without an example to learn from, and labels that a task's head has no output for."""
    model, x = problem.model(problem.tasks), jax.tree.map(lambda a: a[:1], problem.train.x)
    outputs = jax.eval_shape(lambda key: mt.predict(model)(model.init(key, x), x), jax.random.key(0))
    for task in problem.tasks:
        for batch in (problem.train, problem.validation, problem.test):
            own = part(batch, [task], problem.tasks)
            y = np.asarray(own.y[task])
            if own.mask is not None:
                y = y[np.asarray(own.mask).reshape(-1) > 0]
            if not len(y):
                raise InputError(f"{task!r} has no example in one of the parts for training, validation and test.")
            classes = outputs[task].shape[-1]
            if problem.criteria[task] is ml.cross_entropy and not 0 <= y.min() <= y.max() < classes:
                raise InputError(
                    f"labels of {task!r} go from {y.min()} to {y.max()}, but its head has {classes} outputs."
                )


def table_of(
    s: Any, name: str, metrics: Mapping[str, tuple[str, bool]], found: Sequence[Tested], length: str, probes: str = ""
) -> Table:
    """Every method's test metrics: mean over seeds with its 95% interval, Δm, and the paired difference to equal
    weighting on the same seeds; of more than four tasks the mean over them. `length` says how long was trained, and
    `probes` how short were the runs that chose."""
    better = [higher for _, higher in metrics.values()]
    alone = next((one.values for one in found if one.name == "single"), None)
    equal = next((one.values for one in found if one.name == "equal"), None)
    columns = [(f"{task} ({_unit(metric)})", [k], metric) for k, (task, (metric, _)) in enumerate(metrics.items())]
    if len(metrics) > 4:
        (metric,) = {metric for metric, _ in metrics.values()}
        columns = [(f"mean of {len(metrics)} ({_unit(metric)})", list(range(len(metrics))), metric)]
    compared = any(not np.isnan(one.cosine) for one in found)
    titles = ["method", *(title for title, _, _ in columns)]
    titles += ["Δm (%)", "lost (%)"] if alone is not None else []
    titles += ["against equal (%)"] if equal is not None else []
    titles += ["rank", *(["cosine"] if compared else []), "rate"]
    ranks = ml.metrics.mean_rank(np.stack([one.values.mean(0) for one in found]), better)
    lines = []
    for one, rank in zip(found, ranks):
        cells = [method_of(one.name).title]
        cells += [_shown(ml.interval(one.values[:, which].mean(1)), metric) for _, which, metric in columns]
        if alone is not None:
            gains = ml.metrics.multi_task_gain(one.values, alone.mean(0), better)
            cells.append("reference" if one.name == "single" else _shown(ml.interval(gains), "percent", "+"))
            lost = ml.metrics.negative_transfer(one.values.mean(0), alone.mean(0), better)
            lost = [lost.max()] if len(metrics) > 4 else lost
            cells.append("reference" if one.name == "single" else " / ".join(f"{one:.2f}" for one in lost))
        if equal is not None:
            # gains in percent of equal weighting's mean, in pairs of seeds
            theirs, ours = (ml.metrics.multi_task_gain(v, equal.mean(0), better) for v in (equal, one.values))
            cells.append("reference" if one.name == "equal" else _shown(ml.paired(ours, theirs), "percent", "+"))
        cells.append(f"{rank:.1f}")
        if compared:
            cells.append("" if np.isnan(one.cosine) else f"{one.cosine:.2f}".replace("-", "−"))
        lines.append([*cells, " / ".join(dict.fromkeys(c.label for c in one.chosen))])
    tuned = "tuned " if len(s.rates) > 1 else ""
    among = ", ".join(f"{rate:g}" for rate in s.rates)
    loser = "the worst task" if len(metrics) > 4 else "each task"
    caption = (
        f"Test metrics on {name}: mean ± 95% interval over {len(s.seeds)} seeds, {length}. Δm: mean "
        f"relative gain over {tuned}single-task models; lost: how far {loser} falls behind its own (negative "
        f"transfer); against equal: mean relative gain over {tuned}equal weighting, in pairs of seeds; rank: mean over "
        f"tasks"
        + ("; cosine: mean between two tasks' gradients over training. " if compared else ". ")
        + (f"Rates, and options of a method's own, chosen on validation examples{probes}; rates among {among}."
           if tuned else f"Rate {among}.")
    )  # fmt: skip
    return Table("", caption, titles, titles, lines, [method_of(one.name).cite for one in found])


def write(s: Any, metrics: Mapping[str, tuple[str, bool]], found: Sequence[Tested], table: Table) -> None:
    """Prints the table and writes it with all that is behind it."""
    from rich.console import Console
    from rich.table import Table as Grid

    from metalearn.report.bibtex import bibliography

    folder = Path(s.folder)
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        one.name: {
            "rates": [c.rate for c in one.chosen], "options": [dict(c.options) for c in one.chosen],
            "scores": one.scores, "cosine": None if np.isnan(one.cosine) else one.cosine,
            "tasks": list(metrics), "test": one.values.tolist(),
        }
        for one in found
    }  # fmt: skip
    texts = {
        "table.md": markdown(table), "table.tex": latex(table), "table.csv": _csv(metrics, found, s.seeds),
        "methods.bib": bibliography([cite for cite in table.cites if cite]),
        "results.json": json.dumps(results, indent=2) + "\n",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text)
    # the files have all columns, and the intervals of every task
    shown = [i for i, title in enumerate(table.titles) if title not in ("lost (%)", "rank")]
    grid = Grid(*(table.titles[i] for i in shown), box=None, padding=(0, 2, 0, 0))
    for line in table.cells:
        of_a_task = range(1, 1 + len(metrics) if len(metrics) <= 4 else 1)
        grid.add_row(*(line[i].split(" ±")[0] if i in of_a_task else line[i] for i in shown))
    Console(width=110, highlight=False).print(grid)
    print(f"written: {folder / 'table.md'}")


def _csv(metrics, found, seeds):
    """Every seed's test metric of every task, as plain numbers."""
    lines = ["method,rate,seed,task,metric,value"]
    for one in found:
        for seed, values in zip(seeds, one.values):
            for k, ((task, (metric, _)), value) in enumerate(zip(metrics.items(), values)):
                rate = one.chosen[k if len(one.chosen) > 1 else 0].rate
                lines.append(f"{one.name},{rate:g},{seed},{task},{metric},{value:.6g}")
    return "\n".join(lines) + "\n"


def _epochs(count: int) -> str:
    return "one epoch" if count == 1 else f"{count} epochs"


def _unit(metric: str) -> str:
    return "%" if metric == "accuracy" else metric.upper()


def _shown(value: Any, metric: str, sign: str = "") -> str:
    scale = 100 if metric == "accuracy" else 1
    digits = 2 if metric in ("accuracy", "percent") else 4
    half = "" if not np.isfinite(value.half) else f" ± {scale * value.half:.{digits}f}"
    return f"{scale * value.mean:{sign}.{digits}f}{half}".replace("-", "−")
