"""The types everything else is made of, and nothing else.

One idea runs through the library: learning from one task is a pure function

    adapt(params, data, key) -> what was learned

and a method is a way of combining such lessons. Shapes in docstrings: `n` examples, `K` tasks, `T` inner steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any  # a pytree of arrays; leaves wrapped in `Statistic` are computed, not trained
Metrics = dict[str, jax.Array]  # name -> scalar (or [K]); names that begin with "per_task/" are never averaged
Key = jax.Array  # a typed key from `jax.random.key`, consumed by whoever receives it


class Batch(NamedTuple):
    """Examples. Leaves of `x` and `y` are `[n, ...]`; `mask` is `[n]`, 1 where the example is real."""

    x: Any
    y: Any = None
    mask: jax.Array | None = None


class Task(NamedTuple):
    """What to learn from (`support`) and what it is for (`query`).

    A batch of tasks is a `Task` whose leaves have a leading `[K]`. Where a task has an `id`, its key and its row in a
    table go by it, never by its position in the batch. A federated client is a task.
    """

    support: Batch
    query: Batch | None = None
    id: jax.Array | None = None


class Model(NamedTuple):
    """A network as a pair of pure functions: `from_linen(module)`, `from_nnx(module)`, or your own.

    `init(key, x) -> params`; `apply(params, x, key=None) -> outputs`, where no key means evaluation (no dropout).
    `train(params, x, key) -> (outputs, statistics)` exists only for models that keep running statistics;
    `statistics` is shaped like `params` with the new `Statistic` leaves in place and `None` elsewhere.
    """

    init: Callable[[Key, Any], Params]
    apply: Callable[..., Any]
    train: Callable[[Params, Any, Key], tuple[Any, Any]] | None = None


class Aux(NamedTuple):
    """What a loss returns beside its value."""

    metrics: Metrics
    statistics: Any = None


Criterion = Callable[[Any, Batch], tuple[jax.Array, Metrics]]  # (outputs, batch) -> (masked mean loss, metrics)
LossFn = Callable[[Params, Batch, Key], tuple[jax.Array, Aux]]


class Fitted(NamedTuple):
    """What the inner loop learned.

    `steps` is the number of real steps (a step with no real example is none), `metrics` are stacked `[T]`,
    `trajectory` (on request) holds the parameters after 0…T steps, `[T + 1, ...]`, and `support` is kept only where
    prediction needs it again (batch normalisation that is not transductive).
    """

    params: Params
    opt_state: Any
    penalty_state: Any
    steps: jax.Array
    metrics: Metrics
    trajectory: Params = None
    support: Batch | None = None


class Learner(NamedTuple):
    """How one task is learned: fit and predict, functionally.

    `init(key, task) -> params`: the shared (meta-)parameters. `adapt(params, support, key) -> state`: fast weights,
    prototypes, a posterior. `predict(state, x, key=None) -> outputs`, where no key means evaluation.
    `train(state, x, key) -> (outputs, statistics)` exists where `Model.train` does and mirrors it; its statistics are
    shaped like the shared parameters.
    """

    init: Callable[[Key, Task], Params]
    adapt: Callable[[Params, Batch, Key], Any]
    predict: Callable[..., Any]
    train: Callable[[Any, Any, Key], tuple[Any, Any]] | None = None


class Update(NamedTuple):
    """One task's proposal for the shared parameters.

    `direction` has the sign of a gradient and the structure of the trained leaves; `weight` is the number of real
    support examples, and 0 means that the task is absent.
    """

    direction: Any
    weight: jax.Array
    loss: jax.Array
    metrics: Metrics
    statistics: Any = None


TaskFn = Callable[[Params, Task, Key], Update]


class Aggregator(NamedTuple):
    """How the updates of K tasks become one.

    `init(params) -> state`. `update(updates[K, ...], state, params=None, *, weights=None, losses=None, key=None) ->
    (update, state)`. Where the aggregate is a sum, `each(update, state, key) -> summand` and
    `finish(sum, state, params, key) -> (update, state)` say so, and no more than one chunk of updates is ever held.
    `linear`: its coefficients do not look at directions, so it commutes with the backward pass.
    `weigh`, with the arguments of `update`, exists where the aggregate is Σ_k w_k u_k: `-> (w[K], state)`.
    `by_products`: it asks for nothing but updates' inner products, and may be given others that have the same.
    """

    init: Callable[[Params], Any]
    update: Callable[..., tuple[Any, Any]]
    each: Callable[[Update, Any, Key], Any] | None = None
    finish: Callable[[Any, Any, Params, Key], tuple[Any, Any]] | None = None
    linear: bool = False
    weigh: Callable[..., tuple[jax.Array, Any]] | None = None
    by_products: bool = False


class Algorithm(NamedTuple):
    """An outer loop: `init(key, batch) -> state`; `step(state, batch, key) -> (state, metrics)`."""

    init: Callable[[Key, Any], Any]
    step: Callable[[Any, Any, Key], tuple[Any, Metrics]]


class Penalty(NamedTuple):
    """What holds parameters near something: proximal terms, L2-SP, EWC, SI, replay.

    `value(params, state, batch, key) -> scalar` is added to the loss; `observe(state, *, params, grads, new_params)`
    runs after every step, `consolidate(state, params, data, key)` after every task; both return the new state.
    """

    init: Callable[[Params], Any]
    value: Callable[[Params, Any, Batch, Key], jax.Array]
    observe: Callable[..., Any] | None = None
    consolidate: Callable[..., Any] | None = None


@jax.tree_util.register_pytree_with_keys_class
class Statistic:
    """Wraps a leaf that is computed and not trained, such as a running mean.

    No optimizer, penalty or aggregator sees it; it travels beside the gradient and is averaged over present tasks.
    """

    def __init__(self, value: Any):
        self.value = value

    def __repr__(self) -> str:
        return f"Statistic({self.value!r})"

    def tree_flatten_with_keys(self):
        return ((jax.tree_util.GetAttrKey("value"), self.value),), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


class InputError(ValueError):
    """Something that came from outside (data, a config, a command line) cannot be used; the message is one sentence.

    Command lines print it without a traceback and exit non-zero.
    """
