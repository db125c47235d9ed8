"""Omniglot's alphabets as tasks: which character of its alphabet a drawing is, twenty alphabets on one trunk.

    python -m experiments.omniglot_alphabets PRESET [--field value …]        --help lists both

    twenty   a network for each alphabet (single) beside one trunk with a head a task, by the mean gradient (equal)
             and by what else is named
    trial    the same, few steps

Every character's 20 drawings are split into 10 for training, 4 for validation and 6 for test, as in Meyerson and
Miikkulainen 2018 (arXiv 1711.00108), who report 33.4% test error for soft layer ordering on other twenty alphabets,
with networks of their own. Validation chooses the rates: of networks of their own, each alphabet's by itself. A table
as those of `multi_mnist`; the same command resumes.
"""

from dataclasses import dataclass

from experiments.settings import Alphabets


@dataclass(frozen=True)
class Settings(Alphabets):
    """One comparison on alphabets."""


PRESETS = {
    "twenty": ("twenty alphabets", Settings(methods=("single", "equal", "upgrad"), rates=(1e-3, 3e-3, 1e-2))),
    "trial": ("few steps", Settings(steps=100, filters=8, seeds=(0,), folder="runs/omniglot_alphabets-trial")),
}


def main(s: Settings) -> None:
    """Trains, tunes, tests and reports every method on the same alphabets."""
    import metalearn as ml
    from experiments.multitask import table_of, write

    if not s.methods or not s.seeds or not s.rates or min(s.rates) <= 0 or s.steps < 1:
        raise ml.InputError("methods, seeds and rates each need at least one value, and rates and steps are positive.")
    for name in s.methods:
        aggregator_of(name)
    names, populations = divided(s)
    found = [tuned(s, name, populations) for name in s.methods]
    metrics = dict.fromkeys(names, ("accuracy", True))
    table = table_of(s, f"{s.alphabets} of Omniglot's alphabets", metrics, found, f"{s.steps:,} steps")
    write(s, metrics, found, table)


def tuned(s: Settings, name: str, populations):
    """A method as validation chose it. Networks of their own share nothing, not even the optimizer's state, so that
    each alphabet has its own best among the same runs."""
    import numpy as np

    from experiments.multitask import Candidate, Tested

    train, validation, test = populations
    candidates, scores, values = [Candidate(rate, {}) for rate in s.rates], [], []
    for one in candidates:
        state, measure = trained(s, name, one.rate, train, validation)
        scores.append(measure(state, validation).mean(0))
        values.append(measure(state, test))
        if len(s.rates) > 1:
            print(f"  rate {one.label}: {100 * scores[-1].mean():.2f}% on validation drawings")
    reached = np.stack(scores) if name == "single" else np.stack(scores).mean(1, keepdims=True)
    best = reached.argmax(0)  # for each alphabet, or for all
    which = np.broadcast_to(best, s.alphabets)
    chosen = np.stack([values[i][:, k] for k, i in enumerate(which)], 1)
    behind = [{one.label: float(v) for one, v in zip(candidates, column)} for column in (reached - reached.max(0)).T]
    return Tested(name, [candidates[i] for i in best], behind, chosen, np.nan)


def aggregator_of(name: str):
    """What makes a method's aggregator; a network a task has nothing to aggregate."""
    import metalearn as ml
    from experiments import aggregators

    return ml.mean if name == "single" else aggregators.aggregator_of(name)


def divided(s: Settings):
    """The alphabets' names, and three populations of them, for training, validation and test, each with its own
    drawings of every character."""
    import numpy as np

    import metalearn as ml

    parts = ml.data.omniglot("tfds")
    images, group = (np.concatenate([getattr(one, field) for one in parts]) for field in ("images", "group"))
    names = np.unique(group)
    if not 2 <= s.alphabets <= len(names):
        raise ml.InputError(f"alphabets must be between 2 and {len(names)}, but is {s.alphabets}.")
    rng = np.random.default_rng(s.data_seed)
    drawings = [rng.permutation(20) for _ in group]
    chosen = rng.choice(names, s.alphabets, replace=False)
    populations = []
    for part in (slice(0, 10), slice(10, 14), slice(14, 20)):
        x, y, who = [], [], []
        for k, alphabet in enumerate(chosen):
            for label, character in enumerate(np.flatnonzero(group == alphabet)):
                x.append(images[character][drawings[character][part]])
                y.append(np.full(len(x[-1]), label, np.int32))
                who.append(np.full(len(x[-1]), k))
        x, y, who = np.concatenate(x)[..., None], np.concatenate(y), np.concatenate(who)
        populations.append(ml.data.clients(x, y, [np.flatnonzero(who == k) for k in range(s.alphabets)]))
    return [str(name) for name in chosen], populations


def trained(s: Settings, name: str, rate: float, train, validation):
    """One method at one rate, in a folder of its own: the last state and `(state, population) -> accuracies [S, K]`."""
    from dataclasses import replace

    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import metalearn as ml
    from metalearn.core import Model

    classes = int(np.max(train.y)) + 1
    body = ml.from_linen(ml.nets.Conv4(features=s.filters, norm="layer", head="none"))
    last = ml.from_linen(ml.nets.MLP([classes]))
    if name == "single":  # nothing is shared: the whole network is a row
        nothing = Model(lambda key, x: {}, lambda params, x, key=None: x)
        trunk, head = nothing, ml.nets.with_head(body, classes)
    else:
        trunk, head = body, last
    algorithm, learner = ml.multitask.heads(
        trunk, head, ml.cross_entropy, aggregator_of(name)(), optax.adam(rate), num_tasks=s.alphabets
    )
    sample = ml.data.cohort(train, s.cohort, max_examples=s.batch, sampling=s.sampling, temperature=s.temperature)
    keys = jax.vmap(jax.random.key)(jnp.asarray(s.seeds)) if len(s.seeds) > 1 else jax.random.key(s.seeds[0])
    evaluate = ml.evaluate(learner, ml.cross_entropy)

    def judge(state, population):
        tasks = ml.data.everyone(population, population)
        return evaluate(state.params, tasks, jax.random.key(0), state.table)["accuracy"]

    folder = f"{s.folder}/{name.replace(':', '.')}" + (f"-rate-{rate:g}" if len(s.rates) > 1 else "")
    print(f"{name}: {folder}")
    state, _ = ml.run(
        algorithm, sample, s.steps, key=keys,
        evaluate=lambda state, key: {"accuracy": judge(state, validation).mean()}, every=max(1, s.steps // 5),
        log_every=max(1, min(100, s.steps // 10)), checkpoint_every=max(500, s.steps // 10), folder=folder,
        config=replace(s, methods=(name,), rates=(rate,), folder=folder), free=("folder",), best=None,
    )  # fmt: skip

    def measure(state, population):
        compiled = jax.jit(lambda state: judge(state, population))
        several = len(s.seeds) > 1
        states = [jax.tree.map(lambda a, i=i: a[i], state) for i in range(len(s.seeds))] if several else [state]
        return np.stack([np.asarray(compiled(one)) for one in states])

    return state, measure


if __name__ == "__main__":
    from experiments.command_line import launch

    launch(PRESETS, main, __doc__)
