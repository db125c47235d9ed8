"""The clients with the largest loss train, against a loop in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _regression import (
    MODEL,
    ROUNDS,
    SGD,
    SIZES,
    START,
    STEPS,
    N,
    assert_near,
    clients,
    criterion,
    data,
    descend,
    f,
    run,
    vector,
)  # fmt: skip

from metalearn import federated as fl
from metalearn.core import InputError

pytestmark = pytest.mark.usefixtures("double")


def averaging():
    return fl.fedavg(MODEL, criterion, SGD, num_steps=STEPS)


def chosen_of(w, candidates=range(N), size=2):
    return sorted(candidates, key=lambda k: -f(w, *data(k)))[:size]


def average(w, of):
    return sum(SIZES[k] * descend(w, k) for k in of) / sum(SIZES[k] for k in of)


def test_the_two_of_three_with_the_largest_loss_train():
    w, seen = START, set()
    for _ in range(ROUNDS):
        chosen = chosen_of(w)
        seen.add(tuple(sorted(chosen)))
        w = average(w, chosen)
    assert len(seen) > 1  # who is chosen changes with the model
    state = run(fl.power_of_choice(averaging(), criterion, 2))[-1]
    assert_near(vector(state.params), w)
    order = jnp.array([2, 0, 1])
    shuffled = jax.tree.map(lambda a: a[order], clients())
    assert_near(vector(run(fl.power_of_choice(averaging(), criterion, 2), shuffled)[-1].params), w)
    assert_near(vector(run(fl.power_of_choice(averaging(), criterion, 2), clients()._replace(id=None))[-1].params), w)


def test_who_is_not_chosen_keeps_its_row():
    algorithm = fl.ditto(MODEL, criterion, SGD, strength=0.0, num_clients=N, num_steps=STEPS)
    state = run(fl.power_of_choice(algorithm, criterion, 1), rounds=1)[-1]
    (k,) = chosen_of(START, size=1)
    own = np.tile(START, (N, 1))
    own[k] = descend(START, k)
    assert_near(np.stack([state.table["body"], state.table["head"]], 1), own)


@pytest.mark.parametrize("gone", range(N))
def test_the_absent_are_chosen_last(gone):
    """Their loss is not a number, which would be the largest of all."""
    tasks = clients([0 if k == gone else size for k, size in enumerate(SIZES)])
    state = run(fl.power_of_choice(averaging(), criterion, 1), tasks, rounds=1)[-1]
    here = [k for k in range(N) if k != gone]
    assert_near(vector(state.params), average(START, chosen_of(START, here, 1)))
    everyone = run(fl.power_of_choice(averaging(), criterion, N), tasks, rounds=1)[-1]
    assert_near(vector(everyone.params), average(START, here))


def test_more_than_there_are_is_refused():
    with pytest.raises(InputError, match="size must be a whole number of at least 1, but is 0"):
        fl.power_of_choice(averaging(), criterion, 0)
    with pytest.raises(InputError, match="size=4 clients cannot be chosen out of 3 candidates"):
        run(fl.power_of_choice(averaging(), criterion, 4))


def test_a_loss_that_is_not_a_number_is_chosen_last():
    tasks = clients()
    y = tasks.support.y.at[0, 0].set(jnp.nan)
    tasks = tasks._replace(support=tasks.support._replace(y=y))
    state = run(fl.power_of_choice(averaging(), criterion, 2), tasks, rounds=1)[-1]
    assert_near(vector(state.params), average(START, (1, 2)))
    state = run(fl.power_of_choice(averaging(), criterion, 3), tasks, rounds=1)[-1]
    assert np.isnan(vector(state.params)).all()  # and it does not pass unseen where it must be chosen
