"""From settings to trained, tested and reported federations: what every federated experiment shares."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metalearn as ml
from experiments.command_line import imported, nearest
from experiments.devices import spread
from metalearn import federated as fl
from metalearn.core import Batch, Criterion, InputError, Model
from metalearn.data import Clients
from metalearn.data.images import to_float
from metalearn.federated import Federated
from metalearn.report import Row, print_table, read_results, report, write_results


class Problem(NamedTuple):
    """What is learned, and by whom.

    `train` is what clients train on. `validation` and `test` are who is judged: what each client may adapt to, and what
    it is judged by. `inner` and `outer` are the two halves of `train`, for algorithms that learn to adapt. `pooled` is
    all of `train` as one client, `public` what the server has itself, if anything.
    """

    name: str
    model: Model
    criterion: Criterion
    train: Clients
    validation: tuple[Clients, Clients]
    test: tuple[Clients, Clients]
    inner: Clients
    outer: Clients
    pooled: Clients
    public: Batch | None

    @property
    def num_clients(self) -> int:
        return len(self.train.sizes)


class Method(NamedTuple):
    """An algorithm by name: `make(settings, problem, rate) -> Federated`.

    `data`: which clients train, `train`, `pooled` or `halves`. `keeps`: a client keeps a part of its model, so that
    one who never trained has none.
    """

    title: str
    cite: str | None
    make: Callable[[Any, Problem, float], Federated]
    data: str = "train"
    keeps: bool = False


def _work(s: Any) -> dict[str, Any]:
    late = {"work": fl.stragglers(s.late, s.epochs)} if s.late else {}
    return {"num_epochs": s.epochs, "batch_size": s.batch} | late


def _mapped(s: Any) -> dict[str, Any]:
    return {"mapping": spread(s.devices), "drop_nonfinite": s.drop_nonfinite}


def _all(s: Any) -> dict[str, Any]:
    return _work(s) | _mapped(s)


def _averaged(s: Any, p: Problem, rate: float, **options: Any) -> Federated:
    return fl.fedavg(p.model, p.criterion, optax.sgd(rate), **_all(s), **options)


def _kept(make: Callable, **terms: Callable) -> Callable[[Any, Problem, float], Federated]:
    """An algorithm with a table of clients, or with terms of its own, on SGD."""

    def made(s, p, rate):
        options = {name: term(s, p, rate) for name, term in terms.items()}
        return make(p.model, p.criterion, optax.sgd(rate), **_all(s), **options)

    return made


def _clients(s: Any, p: Problem, rate: float) -> int:
    return p.num_clients


def _strength(default: float) -> Callable[[Any, Problem, float], float]:
    return lambda s, p, rate: default if s.strength is None else s.strength


def _server(make: Callable, default: float) -> Callable[[Any, Problem, float], Federated]:
    return lambda s, p, rate: _averaged(s, p, rate, server=make(s.server_rate or default))


def _public(p: Problem) -> Batch:
    if p.public is None:
        raise InputError("public is 0, which leaves the server no example to learn from; give it a larger share.")
    return p.public


def _composed(s: Any, p: Problem, rate: float, client: Callable, aggregator: Any) -> Federated:
    """One model for all, from what a client does and how that is aggregated, used as FedAvg's is."""
    init = lambda key, task: p.model.init(key, task.support.x)  # noqa: E731
    algorithm = ml.over_tasks(init, ml.difference(client), aggregator, optax.sgd(1.0), **_mapped(s))
    return Federated(*algorithm, _averaged(s, p, rate).learner)


def _distilled(s: Any, p: Problem, rate: float) -> Federated:
    client = ml.fit(ml.supervised(p.model, p.criterion), optax.sgd(rate), **_work(s))
    return _composed(s, p, rate, client, fl.feddf(p.model, _public(p).x, optax.adam(1e-3), 20, batch_size=64))


def _mime(lite: bool) -> Callable[[Any, Problem, float], Federated]:
    def made(s, p, rate):
        # the paper's momentum is an average, (1 - β) g + β m, and Optax's a sum
        optimizer = optax.sgd((1 - 0.9) * rate, momentum=0.9)
        return fl.mime(p.model, p.criterion, optimizer, lite=lite, **_all(s))

    return made


def _meta(s: Any, p: Problem, rate: float) -> Federated:
    def made(settings):
        client = ml.gradient_learner(p.model, p.criterion, optax.sgd(rate), **_work(settings))
        return fl.perfedavg(client, p.criterion, optax.sgd(s.server_rate or 0.3), **_mapped(s))

    # nobody is late when all are measured
    common = _averaged(s, p, rate).learner
    return made(s)._replace(learner=made(replace(s, late=0.0)).learner, common=common)


def _nearby(s: Any, p: Problem, rate: float) -> Federated:
    strength = _strength(15.0)(s, p, rate)
    if strength == 0:
        raise InputError("strength must be above 0 for pfedme, which divides by it.")
    options = {"strength": strength, "personal_steps": 5, **_all(s)}
    return fl.pfedme(p.model, p.criterion, optax.sgd(rate), rate / strength * 5, **options)


def _pretrained(p: Problem) -> Callable:
    public = _public(p)
    learn = ml.fit(ml.supervised(p.model, p.criterion), optax.adam(3e-3), 200, batch_size=32)

    def init(key, task):
        start_key, learn_key = jax.random.split(key)
        return learn(p.model.init(start_key, public.x), public, learn_key).params

    return init


def _with_source(s: Any, p: Problem, rate: float) -> Federated:
    loss = fl.with_source(ml.supervised(p.model, p.criterion), _public(p), 1.0, _strength(0.3)(s, p, rate))
    return _composed(s, p, rate, ml.fit(loss, optax.sgd(rate), **_work(s)), ml.weighted_mean())


METHODS = {
    # one model for all
    "centralised": Method(
        "Centralised", None, lambda s, p, rate: _averaged(replace(s, late=0.0), p, rate), "pooled"
    ),
    "fedsgd": Method(
        "FedSGD", "mcmahan2017communication",
        lambda s, p, rate: fl.fedsgd(p.model, p.criterion, optax.sgd(rate), **_mapped(s)),
    ),
    "fedavg": Method(
        "FedAvg", "mcmahan2017communication", lambda s, p, rate: _averaged(s, p, rate, drop_stragglers=s.late > 0)
    ),
    "fedprox": Method("FedProx", "li2020fedprox", _kept(fl.fedprox, strength=_strength(0.1))),
    "fedavgm": Method("FedAvgM", "hsu2019fedavgm", _server(fl.fedavgm, 0.3)),
    "fedadagrad": Method("FedAdagrad", "reddi2021fedopt", _server(fl.fedadagrad, 0.1)),
    "fedadam": Method("FedAdam", "reddi2021fedopt", _server(fl.fedadam, 0.01)),
    "fedyogi": Method("FedYogi", "reddi2021fedopt", _server(fl.fedyogi, 0.01)),
    "scaffold": Method(
        "SCAFFOLD", "karimireddy2020scaffold",
        lambda s, p, rate: fl.scaffold(p.model, p.criterion, rate, num_clients=p.num_clients, **_all(s)),
    ),
    "scaffold-1": Method(
        "SCAFFOLD, option 1", "karimireddy2020scaffold",
        lambda s, p, rate: fl.scaffold(p.model, p.criterion, rate, num_clients=p.num_clients, option=1, **_all(s)),
    ),
    "fednova": Method(
        "FedNova", "wang2020fednova", lambda s, p, rate: fl.fednova(p.model, p.criterion, rate, **_all(s))
    ),
    "feddyn": Method("FedDyn", "acar2021feddyn", _kept(fl.feddyn, num_clients=_clients, strength=_strength(0.03))),
    "mime": Method("Mime", "karimireddy2021mime", _mime(lite=False)),
    "mimelite": Method("MimeLite", "karimireddy2021mime", _mime(lite=True)),
    "agnostic": Method(
        "Agnostic FL", "mohri2019agnostic", _kept(fl.agnostic, num_clients=_clients, mixture_rate=_strength(0.003))
    ),
    "qffl": Method(
        "q-FFL", "li2020qffl",
        lambda s, p, rate: fl.qffl(p.model, p.criterion, rate, fairness=_strength(1.0)(s, p, rate), **_all(s)),
    ),
    "feddf": Method("FedDF", "lin2020feddf", _distilled),
    # from what the server has
    "transfer": Method("FedAvg, pretrained", None, lambda s, p, r: _averaged(s, p, r, init=_pretrained(p))),
    "transfer-head": Method(
        "FedAvg, body frozen", None, lambda s, p, r: _averaged(s, p, r, init=_pretrained(p), where="head")
    ),
    "with-source": Method("FedAvg with source", None, _with_source),
    # a model for each client
    "perfedavg": Method("Per-FedAvg", "fallah2020perfedavg", _meta, "halves"),
    "pfedme": Method("pFedMe", "dinh2020pfedme", _nearby),
    "ditto": Method("Ditto", "li2021ditto", _kept(fl.ditto, num_clients=_clients, strength=_strength(0.1)), keeps=True),
    "apfl": Method("APFL", "deng2020apfl", _kept(fl.apfl, num_clients=_clients), keeps=True),
    "fedper": Method("FedPer", "arivazhagan2019fedper", _kept(fl.fedper, num_clients=_clients), keeps=True),
    "fedrep": Method(
        "FedRep", "collins2021fedrep", _kept(fl.fedrep, num_clients=_clients, head_steps=lambda s, p, rate: 10),
        keeps=True,
    ),
    "fedbn": Method("FedBN", "li2021fedbn", _kept(fl.fedbn, num_clients=_clients), keeps=True),
    "ifca": Method("IFCA", "ghosh2020ifca", _kept(fl.ifca, num_clusters=lambda s, p, rate: s.clusters)),
    "local-only": Method("Local only", None, _kept(fl.local_only, num_clients=_clients), keeps=True),
}  # fmt: skip


def algorithm_of(s: Any, problem: Problem) -> Federated:
    """The one method and rate of `s`."""
    method, rate = method_of(s.methods[0]), s.rates[0]
    if s.decay == 1:
        algorithm = method.make(s, problem, rate)
    else:
        algorithm = fl.by_round(lambda now: method.make(s, problem, now), lambda t: rate * s.decay**t)
    if s.candidates is None or method.data != "train":
        return algorithm
    return fl.power_of_choice(algorithm, problem.criterion, s.cohort, mapping=spread(s.devices))


def main(s: Any, problem_of: Callable[[Any], Problem]) -> None:
    """Trains, tests and reports every method on the same clients, each in its own folder."""
    check_settings(s)
    problem = problem_of(s)
    print(
        f"{problem.num_clients} clients of {int(problem.train.sizes.min())} to {int(problem.train.sizes.max())} "
        f"training examples; {100 * padding(s, problem):.0f}% of a padded cohort is padding"
    )
    folders = []
    for name in s.methods:
        one = replace(s, methods=(name,), folder=f"{s.folder}/{name.replace(':', '.')}")
        print(f"{method_of(name).title}: {one.folder}")
        one, state, history = chosen(one, problem)
        write_results(one.folder, [tested(one, problem, state, history)])
        folders.append(one.folder)
    against = "FedAvg" if "fedavg" in s.methods and len(s.methods) > 1 else None
    written = report(folders, out=s.folder, against=against)
    print_table([row for folder in folders for row in read_results(folder)], against=against)
    print("written: " + ", ".join(str(path) for path in written if path.suffix in (".md", ".png")))


def chosen(s: Any, problem: Problem) -> tuple[Any, Any, list]:
    """Trains at every rate; returns the settings of the best by `s.choose_by`, with its state and history."""
    found: list[tuple] = []
    failed: FloatingPointError | None = None
    for rate in s.rates:
        one = replace(s, rates=(rate,), folder=s.folder if len(s.rates) == 1 else f"{s.folder}-rate-{rate:g}")
        try:
            state, history = train(one, problem)
        except FloatingPointError as error:  # one rate too large ends nothing but itself
            print(f"  rate {rate:g}: {error}")
            failed = error
            continue
        accuracy = float(np.mean(last(history)))
        to_target = np.mean(reached(history, s.target)) if s.choose_by == "rounds" else 0.0
        found.append(((-to_target, np.nan_to_num(accuracy, nan=-1), -rate), one, state, history))
        if len(s.rates) > 1:
            took = f", {s.target:.0%} in {spelled(history, s.target, s.rounds)} rounds" if s.target else ""
            print(f"  rate {rate:g}: {100 * accuracy:.2f}% on validation examples{took}")
    if failed is not None and not found:
        raise failed
    return max(found, key=lambda item: item[0])[1:]


def train(s: Any, problem: Problem) -> tuple[Any, list]:
    """One federation (or several seeds of it) at one rate, in `s.folder`: the last state and the history."""
    algorithm = algorithm_of(s, problem)
    judge = judged(algorithm, problem, problem.validation)
    keys = jax.vmap(jax.random.key)(jnp.asarray(s.seeds)) if len(s.seeds) > 1 else jax.random.key(s.seeds[0])

    def evaluate(state, key):
        values, sizes = judge(state, key)
        return {name: jnp.vdot(value, sizes) / sizes.sum() for name, value in values.items()}

    return ml.run(
        ml.Algorithm(algorithm.init, algorithm.step), sample_of(s, problem), s.rounds, key=keys, evaluate=evaluate,
        every=s.every, log_every=max(s.every, min(50, s.rounds)), checkpoint_every=max(50, s.rounds // 10),
        folder=s.folder, config=s, free=("folder", "rounds", "target", "devices"), best=None,
    )  # fmt: skip


def sample_of(s: Any, problem: Problem) -> Any:
    """The sampler of cohorts that a method trains on."""
    data = method_of(s.methods[0]).data
    if data == "pooled":
        return ml.data.cohort(problem.pooled, 1)
    size, rate, there = s.candidates if s.candidates and data == "train" else s.cohort, None, problem.num_clients
    if s.sampling == "poisson":
        rate, size = size / there, min(there, _room(size))
    options = {"dropout": s.dropout, "sampling": s.sampling, "rate": rate, "max_examples": s.max_examples}
    options["by_size"] = s.by_size
    if data == "halves":
        return ml.data.cohort(problem.inner, size, query=problem.outer, **options)
    return ml.data.cohort(problem.train, size, **options)


def _room(mean: int) -> int:
    """Places for a Poisson cohort: four standard deviations more than there are on average."""
    return math.ceil(mean + 4 * math.sqrt(mean))


def padding(s: Any, problem: Problem) -> float:
    """The share of a cohort's examples that no client has, places that Poisson sampling leaves empty included."""
    there = problem.num_clients
    filled = (
        (s.candidates or s.cohort) / min(there, _room(s.candidates or s.cohort)) if s.sampling == "poisson" else 1.0
    )
    shown = problem.inner if method_of(s.methods[0]).data == "halves" else problem.train
    return 1 - filled * (1 - ml.data.padding(shown, s.max_examples))


def judged(algorithm: Federated, problem: Problem, on: tuple[Clients, Clients]) -> Callable:
    """`(state, key) -> (metrics [K], sizes [K])`: every client's model, adapted to what it may see where the algorithm
    does that, on what it is judged by."""
    measure = ml.evaluate(algorithm.learner, problem.criterion)

    def judge(state, key):
        return measure(state.params, ml.data.everyone(*on), key, state.table), on[1].sizes

    return judge


def tested(s: Any, problem: Problem, state: Any, history: list) -> Row:
    """A row of the table: every client's accuracy on its test examples, and what it took."""
    method = method_of(s.methods[0])
    algorithm = algorithm_of(s, problem)
    several = len(s.seeds) > 1
    states = [jax.tree.map(lambda a, i=i: a[i], state) for i in range(len(s.seeds))] if several else [state]

    def measured(learner):
        judge = judged(algorithm._replace(learner=learner), problem, problem.test)
        accuracy = jax.jit(lambda state: judge(state, jax.random.key(0))[0]["accuracy"])
        return np.stack([np.asarray(accuracy(one)) for one in states])

    sent = fl.sent(algorithm, states[0].params) if method.data != "pooled" else None
    return Row(
        method=method.title,
        cite=method.cite,
        metric="accuracy",
        values=measured(algorithm.learner),
        clients=True,
        protocol=protocol(s, problem),
        split=s.partition,
        budget=s.rounds,
        rate=s.rates[0],
        padding=padding(s, problem) if method.data != "pooled" else None,
        common=None if algorithm.common is None else float(measured(algorithm.common).mean()),
        target=None if s.target is None else f"{100 * s.target:g}%",
        rounds=None if s.target is None else spelled(history, s.target, s.rounds),
        down=None if sent is None else sent.down,
        up=None if sent is None else sent.up,
    )


def protocol(s: Any, problem: Problem) -> str:
    """Whatever decides who is judged, and by what: only rows that agree in it can be compared."""
    names = ("partition", "concentration", "clients", "validation_clients", "test_clients", "data_seed", "test_share")
    names += ("public", *(name for name in ("test", "length", "min_characters") if hasattr(s, name)))
    return "/".join([problem.name, *(f"{field}={getattr(s, field)}" for field in names)])


def reached(history: list, target: float) -> list[float]:
    """Rounds to a target on validation examples for each seed, infinity where it was not reached."""
    steps, values = ml.column(history, "validation/accuracy")
    values = np.asarray(values, float).reshape(len(steps), -1)
    return [ml.metrics.rounds_to_target(steps, one, target) for one in values.T]


def spelled(history: list, target: float, rounds: int) -> str:
    """The same as text: `"87 / 91 / > 1,000"`, and `"≤ 10"` where it was reached before the first evaluation."""
    first = ml.column(history, "validation/accuracy")[0][0]

    def one(found):
        if np.isinf(found):
            return f"> {rounds:,}"
        return f"{'≤ ' if found <= first else ''}{found:,.0f}"

    return " / ".join(map(one, reached(history, target)))


def last(history: list) -> np.ndarray:
    """The last validation accuracy of every seed."""
    return np.atleast_1d(ml.column(history, "validation/accuracy")[1][-1])


def check_settings(s: Any) -> None:
    """Refuses what no run could be made of, before anything is computed."""
    if not s.methods or not s.seeds or not s.rates:
        raise InputError("methods, seeds and rates each need at least one value.")
    for name in s.methods:
        method_of(name)
    spread(s.devices)
    if min(s.rates) <= 0:
        raise InputError(f"rates must be positive, but are {s.rates}.")
    if bool(s.validation_clients) != bool(s.test_clients) or min(s.validation_clients, s.test_clients) < 0:
        raise InputError(
            f"validation_clients and test_clients are both positive or both 0, but are {s.validation_clients} and "
            f"{s.test_clients}."
        )
    train = s.clients - s.validation_clients - s.test_clients
    if not 1 <= s.cohort <= train:
        raise InputError(f"cohort must be between 1 and the {train} clients that train, but is {s.cohort}.")
    if s.sampling not in ("uniform", "poisson"):  # by size, weights by size would count it twice
        raise InputError(f"sampling must be uniform or poisson, but is {s.sampling!r}.")
    if s.candidates is not None and not s.cohort <= s.candidates <= train:
        raise InputError(f"candidates must be between the cohort's {s.cohort} and {train}, but is {s.candidates}.")
    if s.max_examples is not None and s.max_examples < 1:
        raise InputError(f"max_examples must be at least 1, but is {s.max_examples}.")
    keeping = [name for name in s.methods if s.test_clients and method_of(name).keeps]
    if keeping:
        raise InputError(f"clients who never trained have no model of {keeping[0]!r}: test_clients must be 0.")
    if not 0 <= s.dropout < 1:
        raise InputError(f"dropout must be at least 0 and below 1, but is {s.dropout}.")
    for name, value in (("epochs", s.epochs), ("batch", s.batch), ("clusters", s.clusters)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, but is {value}.")
    if s.server_rate is not None and s.server_rate <= 0:
        raise InputError(f"server_rate must be above 0, but is {s.server_rate}.")
    if s.strength is not None and s.strength < 0:
        raise InputError(f"strength must be at least 0, but is {s.strength}.")
    if not 0 <= s.public < 1:
        raise InputError(f"public must be at least 0 and below 1, but is {s.public}.")
    if not 0 < s.test_share < 0.5:
        raise InputError(f"test_share must be above 0 and below 0.5, but is {s.test_share}.")
    if not 0 < s.decay <= 1 or not 0 <= s.late <= 1:
        raise InputError(f"decay is in (0, 1] and late in [0, 1], but they are {s.decay} and {s.late}.")
    if s.choose_by not in ("accuracy", "rounds") or (s.choose_by == "rounds" and s.target is None):
        raise InputError(f"choose_by is 'accuracy', or 'rounds' where there is a target, but is {s.choose_by!r}.")
    if s.target is not None and not 0 < s.target < 1:
        raise InputError(f"target is an accuracy between 0 and 1, but is {s.target}.")


def method_of(name: str) -> Method:
    """A method by its name, or `some.module:function`, a function `(model, criterion, rate) -> Federated`."""
    if name in METHODS:
        return METHODS[name]
    make = imported(name, METHODS)

    def made(s, p, rate):
        algorithm = make(p.model, p.criterion, rate)
        if not isinstance(algorithm, Federated):
            raise InputError(f"method {name!r} must return a Federated, not {type(algorithm).__name__}.")
        return algorithm

    return Method(name, None, made)


def partition(s: Any, labels: np.ndarray) -> list[np.ndarray]:
    """Every client's examples, as settings say."""
    cut = ml.data.partitions
    makers: dict[str, Callable[[], list]] = {
        "iid": lambda: cut.iid(len(labels), s.clients, seed=s.data_seed),
        "rotation": lambda: cut.iid(len(labels), s.clients, seed=s.data_seed),
        "shards": lambda: cut.shards(labels, s.clients, seed=s.data_seed),
        "dirichlet": lambda: cut.dirichlet(labels, s.clients, s.concentration, min_size=5, seed=s.data_seed),
        "quantity": lambda: cut.quantity(len(labels), s.clients, s.concentration, min_size=5, seed=s.data_seed),
    }
    if s.partition not in makers:
        raise InputError(f"there is no partition {s.partition!r}; {nearest(s.partition, makers)}")
    return makers[s.partition]()


def divided(
    s: Any,
    name: str,
    model: Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    parts: list[np.ndarray] | None = None,
) -> Problem:
    """A classification problem for clients: examples `x` `[n, ...]` with labels `y` `[n, ...]`, divided as settings
    say.

    Of each client's examples, `test_share` are for test, as many for validation, and the rest for training. With a
    data set's own `test` examples, these are dealt evenly among the clients instead, for validation and test alike:
    the mean over clients is then the usual test accuracy. With `test_clients`, other clients are judged than those who
    train: by half of their examples, while they may adapt to the rest. Natural clients come as `parts`, whose examples
    are in the order of time: their last ones are for test.
    """
    cut, ordered = ml.data.partitions, parts is not None
    if parts is None:
        order = np.random.default_rng(s.data_seed).permutation(len(y))
        public, order = np.split(order, [round(s.public * len(y))])
        parts = [order[part] for part in partition(s, y[order])]
    else:
        public = np.zeros(0, int)
        if s.public:
            parts, given = cut.split_each(parts, s.public, seed=s.data_seed)
            public = np.concatenate(given)
    who = np.arange(len(parts))

    def population(parts, who, x=x, y=y):
        turned = {"view": ml.data.views.turned, "features": who % 4} if s.partition == "rotation" else {}
        return ml.data.clients(x, y, parts, **turned)

    if s.test_clients:
        if test is not None:
            raise InputError("test clients are judged by examples of their own, not by the data set's test examples.")
        counts = (len(parts) - s.validation_clients - s.test_clients, s.validation_clients, s.test_clients)
        who, *others = cut.split_clients(len(parts), counts, seed=s.data_seed)
        judging = []
        for group in others:
            halves = cut.split_each([parts[k] for k in group], 0.5, ordered=ordered, seed=s.data_seed)
            judging.append(tuple(population(half, group) for half in halves))
        parts = [parts[k] for k in who]
    elif test is None:
        rest, tests = cut.split_each(parts, s.test_share, ordered=ordered, seed=s.data_seed)
        share = s.test_share / (1 - s.test_share)
        parts, validations = cut.split_each(rest, share, ordered=ordered, seed=s.data_seed + 1)
        judging = [(population(parts, who), population(each, who)) for each in (validations, tests)]
    else:
        dealt = population(cut.iid(len(test[1]), len(parts), seed=s.data_seed), who, *test)
        judging = [(population(parts, who), dealt)] * 2
    halves = cut.split_each(parts, 0.5, seed=s.data_seed + 2)
    empty = [k for k, half in enumerate(halves[1]) if not len(half)]
    if empty:
        raise InputError(f"client {empty[0]} has too few examples to learn and be judged; make clients fewer.")
    pooled = ml.data.clients(x, y, [np.concatenate(parts)])
    if s.partition == "rotation":  # what is learned centrally are the images as clients see them
        seen = ml.data.everyone(population(parts, who)).support
        real = np.asarray(seen.mask) > 0
        pooled = ml.data.clients(np.asarray(seen.x)[real], np.asarray(seen.y)[real], [np.arange(real.sum())])
    given = x[public]
    given = to_float(given) if given.dtype == np.uint8 else given
    server = Batch(jnp.asarray(given), jnp.asarray(y[public])) if len(public) else None
    return Problem(
        name, model, ml.cross_entropy, population(parts, who), *judging,
        *(population(half, who) for half in halves), pooled, server,
    )  # fmt: skip
