"""Multi-task experiments: what is refused, the toy problems' known answers, and that every method is another."""

import itertools
import json
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metalearn as ml
from experiments import command_line, digits_multitask, mtl_toy, multi_mnist, multitask, omniglot_alphabets
from metalearn.core import Batch

pytestmark = pytest.mark.usefixtures("compile_once")

DIGITS, TOY = digits_multitask, mtl_toy


def own(s, pieces, optimizer, count, epoch):
    return ml.over_losses(*pieces, ml.aggregate.fixed([1.0] * count), optimizer)


@pytest.mark.parametrize(
    ("experiment", "arguments", "said"),
    [
        (DIGITS, ["fw"], "did you mean 'few'"),
        (DIGITS, ["few", "--methods", "pcgard"], "did you mean 'pcgrad'"),
        (DIGITS, ["few", "--methods", "no_such_module:method"], "no_such_module"),
        (DIGITS, ["few", "--methods"], "methods, seeds and rates each need at least one value"),
        (DIGITS, ["few", "--rates", "0"], "rates, epochs, batch and decay_every must be positive"),
        (DIGITS, ["few", "--decay-every", "0"], "rates, epochs, batch and decay_every must be positive"),
        (DIGITS, ["few", "--decay", "-1"], "decay must be above 0 and at most 1"),
        (DIGITS, ["few", "--decay", "nan"], "decay must be above 0 and at most 1"),
        (DIGITS, ["few", "--hidden", "0"], "every number of features must be a whole number of at least 1"),
        (DIGITS, ["few", "--probe", "99"], "probe must be between 1 and the 30 epochs"),
        (DIGITS, ["few", "--validation", "1"], "validation must be a share"),
        (DIGITS, ["few", "--test", "0.9"], "test must leave something"),
        (DIGITS, ["few", "--batch", "5000"], "batch must be at most"),
        (DIGITS, ["few", "--optimizer", "adm"], "did you mean 'adam'"),
        (DIGITS, ["few", "--at", "feature"], "'params' or 'features'"),
        (DIGITS, ["few", "--every", "2", "--methods", "graddrop"], "must weigh by directions"),
        (DIGITS, ["few", "--at", "features", "--methods", "auto-lambda"], "auto_lambda has neither"),
        (DIGITS, ["few", "--at", "features", "--methods", "graddrop", "moco"], "moco has neither at nor every"),
        (DIGITS, ["few", "--every", "2", "--methods", "equal", "sdmgrad"], "sdmgrad has neither at nor every"),
        (TOY, ["valley", "--methods", "msgda"], "did you mean 'mgda'"),
        (DIGITS, ["few", "--at", "features", "--methods", "excess"], "keeps something for every number"),
        (TOY, ["valley", "--rate", "-1"], "steps and rate must be positive"),
        (TOY, ["valley", "--problem", "hill"], "there is no problem 'hill'"),
        (TOY, ["concave", "--methods", "mgda"], "take preferences"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_refused_in_a_sentence(experiment, arguments, said, monkeypatch, capsys, tmp_path):
    folder = ["--folder", str(tmp_path)] if len(arguments) > 1 else []
    monkeypatch.setattr(sys, "argv", ["experiment", *arguments, *folder])
    with pytest.raises(SystemExit) as stopped:
        command_line.launch(experiment.PRESETS, experiment.main, "an experiment")
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1


def test_losses_of_the_valley_are_those_of_the_paper():
    """Written once more, as in the paper, at points above and below."""

    def reference(a, b):
        up, down = max(np.tanh(0.5 * b), 0), max(np.tanh(-0.5 * b), 0)
        first = np.log(max(abs(0.5 * (-a - 7) - np.tanh(-b)), 5e-6)) + 6
        second = np.log(max(abs(0.5 * (-a + 3) + np.tanh(-b) + 2), 5e-6)) + 6
        bowls = [((-a + c) ** 2 + 0.1 * (-b - 8) ** 2) / 10 - 20 for c in (7, -7)]
        return [0.1 * (first * up + bowls[0] * down), second * up + bowls[1] * down]

    for point in (*mtl_toy.STARTS, (3.0, -6.0), (-2.0, 4.0)):
        np.testing.assert_allclose(mtl_toy.valley_losses(jnp.array(point)), reference(*point), rtol=1e-4)


@pytest.mark.slow
def test_who_reaches_the_front_of_the_valley(tmp_path):
    """Published: Nash-MTL and MGDA from every start; equal weighting and PCGrad not from (9, 9)."""
    settings = replace(
        mtl_toy.PRESETS["valley"][1], methods=("equal", "pcgrad", "mgda", "nash"), folder=str(tmp_path / "toy")
    )
    mtl_toy.main(settings)
    reached = {}
    for one in json.loads((tmp_path / "toy" / "results.json").read_text()):
        reached.setdefault(one["method"], {})[tuple(one["start"])] = one["on_front"]
    assert all(reached["Nash-MTL"].values()) and all(reached["MGDA"].values())
    assert not reached["Equal weighting"][(9.0, 9.0)] and not reached["PCGrad"][(9.0, 9.0)]
    assert (tmp_path / "toy" / "trajectories.png").stat().st_size > 10_000
    assert "Nash-MTL" in (tmp_path / "toy" / "table.md").read_text()


def test_only_a_smooth_maximum_reaches_the_middle_of_a_concave_front(tmp_path):
    settings = replace(mtl_toy.PRESETS["concave"][1], steps=1_000, folder=str(tmp_path / "toy"))
    mtl_toy.main(settings)
    found = {one["method"]: one for one in json.loads((tmp_path / "toy" / "results.json").read_text())}
    assert found["Fixed weights"]["between"] == 0
    assert found["Smooth Tchebycheff"]["between"] >= 7
    assert (tmp_path / "toy" / "fronts.png").stat().st_size > 5_000


SHORT = {"epochs": 2, "seeds": (0, 1), "hidden": (16,)}


def short(folder, **fields):
    return replace(DIGITS.PRESETS["few"][1], folder=str(folder), **(SHORT | fields))


@pytest.mark.slow
def test_digits_from_command_to_table(tmp_path, capsys):
    settings = short(tmp_path / "run", methods=("single", "equal", f"{__name__}:own"), rates=(1e-3, 1e-2))
    DIGITS.main(settings)
    first = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(first) == ["single", "equal", f"{__name__}:own"]
    assert np.shape(first["equal"]["test"]) == (2, 3)
    assert first["equal"]["rates"][0] in (1e-3, 1e-2) and len(first["equal"]["scores"][0]) == 2
    assert len(first["single"]["rates"]) == 3 and -1 <= first["equal"]["cosine"] <= 1
    table = (tmp_path / "run" / "table.md").read_text()
    assert "Single task" in table and "Δm (%)" in table and "against equal" in table
    assert all(title in table for title in ("lost (%)", "rank", "cosine"))
    assert (tmp_path / "run" / "table.csv").read_text().count("\n") == 1 + 3 * 2 * 3
    assert (tmp_path / "run" / "single" / "digit-rate-0.01" / "log.jsonl").exists()
    DIGITS.main(settings)  # everything is there already
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == first
    capsys.readouterr()


@pytest.mark.slow
def test_methods_of_every_kind_learn_and_are_others(tmp_path):
    """From losses, from inner products, number by number, and with steps of their own; `tests/aggregate` tells all of
    a kind apart."""
    problem = DIGITS.problem(short(tmp_path))
    found = {}
    kinds = ("equal", "fixed", "uncertainty", "famo", "auto-lambda", "gradnorm", "mgda", "pcgrad", "graddrop", "moco")
    for name in (*kinds, "sdmgrad"):
        settings = short(tmp_path / "run", methods=(name,), seeds=(0,), epochs=10)
        candidate = multitask.Candidate(1e-2, multitask.METHODS[name].grid[-1])
        values = multitask.learned(settings, problem, name, candidate, problem.tasks).validation
        assert values[0, 0] > 0.5, name  # accuracy of ten digits
        found[name] = values
    for one, other in itertools.combinations(found, 2):
        assert not np.array_equal(found[one], found[other]), (one, other)


def test_nash_mtls_direction_may_have_one_length():
    settings = short("x", optimizer="sgd")
    problem = DIGITS.problem(settings)
    sample = multitask.minibatches(problem.train, settings.batch)
    moved = {}
    for options in ({}, {"length": 1.0}):
        algorithm, _ = multitask.made(settings, problem, "nash", multitask.Candidate(0.1, options), problem.tasks)
        state = algorithm.init(jax.random.key(0), sample(jax.random.key(1)))
        after, _ = jax.jit(algorithm.step)(state, sample(jax.random.key(1)), jax.random.key(2))
        moved[len(options)] = jax.tree.map(jnp.subtract, after.params, state.params)
    np.testing.assert_allclose(optax.tree.norm(moved[1]["shared"]), 0.1, rtol=1e-5)
    assert abs(optax.tree.norm(moved[0]["shared"]) - 0.1) > 1e-3
    for one, other in zip(*(jax.tree.leaves(moved[n]["tasks"]) for n in moved)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_batches_of_a_step_are_independent():
    problem = DIGITS.problem(short("x"))
    one, other, third = multitask.minibatches(problem.train, 64, 3)(jax.random.key(0))
    rows = [{row.tobytes() for row in np.asarray(batch.x)} for batch in (one, other, third)]
    assert all(len(a & b) < 20 for a, b in itertools.combinations(rows, 2))


def test_fixed_weights_have_mean_one():
    np.testing.assert_allclose(multitask._emphasis(3, 0.5), [1.5, 0.75, 0.75])
    np.testing.assert_allclose(multitask._emphasis(2, 0.25), [0.5, 1.5])


@pytest.mark.parametrize("every", [10, 15])
def test_the_optimizer_decays_every_so_many_epochs(every):
    settings = replace(DIGITS.PRESETS["few"][1], optimizer="sgd", decay=0.5, decay_every=every)
    optimizer = multitask.optimizer_of(settings, 1.0, steps_an_epoch=2)
    state, moved = optimizer.init(jnp.zeros(())), []
    for t in range(4 * every + 1):
        change, state = optimizer.update(jnp.asarray(1.0 if t == 0 else 0.0), state)
        moved.append(float(change) / -(0.9**t))
    found = [moved[t] for t in (0, 2 * every - 1, 2 * every, 4 * every)]
    np.testing.assert_allclose(found, [1, 1, 0.5, 0.25], rtol=1e-5)
    with pytest.raises(ml.InputError, match="did you mean 'sgd'"):
        multitask.optimizer_of(replace(settings, optimizer="sdg"), 1.0, 1)
    assert isinstance(optimizer, optax.GradientTransformation)


def test_batches_keep_the_masks_of_their_examples():
    x = jnp.arange(10.0)[:, None]
    mask = jnp.stack([x[:, 0] >= 5, x[:, 0] < 3])
    one = multitask.minibatches(Batch(x, {"a": x, "b": x}, mask), 4)(jax.random.key(0))
    np.testing.assert_array_equal(one.mask, np.stack([one.x[:, 0] >= 5, one.x[:, 0] < 3]))
    one = multitask.minibatches(Batch(x, {"a": x}, mask[0]), 4)(jax.random.key(0))
    np.testing.assert_array_equal(one.mask, one.x[:, 0] >= 5)


def test_networks_of_their_own_have_a_rate_each_alphabet(monkeypatch, tmp_path):
    """Five alphabets: their mean in the table, and what is single is put together of both rates."""
    reached = {0.1: [0.5, 0.2, 0.5, 0.2, 0.5], 0.2: [0.4, 0.6, 0.4, 0.6, 0.4]}

    def trained(s, name, rate, train, validation):
        return rate, lambda state, population: np.array([reached[rate]] * 2) + (population == "test") / 10

    names = list("abcde")
    monkeypatch.setattr(omniglot_alphabets, "trained", trained)
    monkeypatch.setattr(omniglot_alphabets, "divided", lambda s: (names, ["train", "validation", "test"]))
    s = replace(
        omniglot_alphabets.PRESETS["trial"][1], methods=("single", "equal"), rates=(0.1, 0.2), alphabets=5,
        seeds=(0, 1), folder=str(tmp_path),
    )  # fmt: skip
    omniglot_alphabets.main(s)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["single"]["rates"] == [0.1, 0.2, 0.1, 0.2, 0.1] and results["equal"]["rates"] == [0.2]
    np.testing.assert_allclose(results["single"]["test"], [[0.6, 0.7, 0.6, 0.7, 0.6]] * 2)
    table = (tmp_path / "table.md").read_text()
    assert "mean of 5 (%)" in table and "64.00 ± 0.00" in table and "58.00 ± 0.00" in table


@pytest.mark.slow
def test_alphabets_from_command_to_table(tmp_path, capsys):
    try:
        ml.data.omniglot("tfds")
    except ml.InputError as error:
        pytest.skip(str(error))
    settings = replace(
        omniglot_alphabets.PRESETS["trial"][1], methods=("single", "equal", "upgrad"), rates=(1e-3, 1e-2), steps=4,
        alphabets=3, cohort=2, batch=8, sampling="size", temperature=2.0, folder=str(tmp_path / "run"),
    )  # fmt: skip
    omniglot_alphabets.main(settings)
    table = (tmp_path / "run" / "table.md").read_text()
    assert "Single task" in table and "UPGrad" in table and "against equal" in table and "Δm" in table
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(results["single"]["rates"]) == 3 and len(results["equal"]["rates"]) == 1
    assert len(set(results["single"]["tasks"])) == 3 and "mean of" not in table
    assert "rate 0.01" in capsys.readouterr().out
    with pytest.raises(ml.InputError, match="alphabets must be between"):
        omniglot_alphabets.main(replace(settings, alphabets=60))
    with pytest.raises(ml.InputError, match="did you mean 'upgrad'"):
        omniglot_alphabets.main(replace(settings, methods=("upgard",)))
    with pytest.raises(ml.InputError, match="temperature is of sampling"):
        omniglot_alphabets.main(replace(settings, sampling="uniform", folder=str(tmp_path / "other")))


def test_models_alone_have_a_rate_each_and_scores_no_unit(monkeypatch):
    """Of three tasks, two accuracies and an error: what is good for one is not for all."""
    problem = DIGITS.problem(short("x"))
    values = {0.1: [0.9, 0.5, 0.02], 0.2: [0.8, 0.6, 0.01], 0.3: [np.nan] * 3}

    def learned(s, problem, name, candidate, tasks, alone=True):
        if candidate.rate == 0.4:
            raise FloatingPointError("The loss is nan at step 3")
        both = np.array([[values[candidate.rate][problem.tasks.index(task)] for task in tasks]] * 2)
        return multitask.Trained(both, both + 1, 0.3)

    monkeypatch.setattr(multitask, "learned", learned)
    s = short("x", rates=(0.1, 0.2, 0.3, 0.4))
    alone = multitask.tuned(s, problem, "single")
    assert [one.rate for one in alone.chosen] == [0.1, 0.2, 0.2]
    np.testing.assert_allclose(alone.values, np.array([[1.9, 1.6, 1.01]] * 2))
    assert multitask.tuned(s, problem, "equal").chosen[0].rate == 0.2  # half the error is worth more than a ninth less
    with pytest.raises(FloatingPointError):
        multitask.tuned(short("x", rates=(0.4,)), problem, "equal")


def test_data_that_a_task_has_no_use_for():
    problem = DIGITS.problem(short("x"))
    mask = np.ones((len(problem.tasks), len(problem.train.x)))
    mask[1] = 0
    with pytest.raises(ml.InputError, match=f"'{problem.tasks[1]}' has no example"):
        multitask.check_data(problem._replace(train=problem.train._replace(mask=jnp.asarray(mask))))
    y = problem.test.y | {"digit": problem.test.y["digit"] + 1}
    with pytest.raises(ml.InputError, match="labels of 'digit' go from 1 to 10, but its head has 10 outputs"):
        multitask.check_data(problem._replace(test=problem.test._replace(y=y)))
    # of examples that the task does not have anything may be said
    mask = jnp.asarray([[float(task != "digit")] * len(y["digit"]) for task in problem.tasks]).at[:, 0].set(1)
    masked = y | {"digit": y["digit"].at[0].set(0)}
    multitask.check_data(problem._replace(test=problem.test._replace(y=masked, mask=mask)))
    multitask.check_data(problem)


@pytest.mark.slow
def test_tasks_that_lack_some_targets_from_data_to_table(tmp_path):
    """Every task without a third of its targets, which are garbage; single-task models too."""
    s = short(tmp_path, methods=("single", "mgda"), rates=(1e-2,), seeds=(0,), epochs=2)

    def problem_of(s):
        problem, tasks = DIGITS.problem(s), ["digit", "parity", "magnitude"]
        assert sorted(problem.tasks) == sorted(tasks)

        def lacking(batch):
            mask = np.ones((3, len(batch.x)))
            y = {}
            for k, task in enumerate(problem.tasks):
                mask[k, k::3] = 0
                y[task] = jnp.asarray(batch.y[task]).at[k::3].set(77)
            return batch._replace(y=y, mask=jnp.asarray(mask))

        return problem._replace(**{part: lacking(getattr(problem, part)) for part in ("train", "validation", "test")})

    multitask.main(s, problem_of)
    found = json.loads((tmp_path / "results.json").read_text())
    assert np.all(np.isfinite([found[name]["test"] for name in s.methods]))
    k = found["single"]["tasks"].index("digit")
    assert np.mean(np.array(found["single"]["test"])[:, k]) > 0.5


@pytest.mark.slow
def test_multi_mnist_from_command_to_table(tmp_path):
    """Published settings but for a hundredth of the images: both constructions, all shapes, dropout, the schedule."""
    for preset, methods in (("published", ("single", "mgda-ub")), ("lin", ("equal",))):
        s = replace(
            multi_mnist.PRESETS[preset][1], methods=methods, rates=(0.02,), probe=None, epochs=1, seeds=(0,),
            folder=str(tmp_path / preset),
        )  # fmt: skip

        def few(s, preset=preset):
            whole = multi_mnist.problem(s)
            assert len(whole.train.x) == 9 * len(whole.validation.x) == 9 * {"published": 6_000, "lin": 12_000}[preset]
            cut = {p: multitask.examples(getattr(whole, p), slice(600)) for p in ("train", "validation", "test")}
            return whole._replace(**cut)

        multitask.main(s, few)
        found = json.loads((tmp_path / preset / "results.json").read_text())
        assert np.all(np.isfinite([found[name]["test"] for name in s.methods]))


def test_every_method_has_no_more_than_ten_candidates_on_multi_mnist():
    s = multi_mnist.PRESETS["all"][1]
    assert all(len(s.rates) * len(multitask.method_of(name).grid) <= 10 for name in s.methods)
    assert set(s.methods) == set(multitask.METHODS)


def test_a_path_ends_after_its_last_step():
    path = mtl_toy.descent(lambda x: jnp.stack([x @ x, x @ x]), ml.mean(), optax.sgd(0.1), 7, 3)
    points = path(jnp.ones(2), jax.random.key(0))
    np.testing.assert_allclose(points[:, 0], [1.0, 0.8**3, 0.8**6, 0.8**7], rtol=1e-5)


def test_short_runs_of_one_seed_choose_and_the_best_is_trained_anew(monkeypatch):
    problem, ran = DIGITS.problem(short("x")), []

    def learned(s, problem, name, candidate, tasks, alone=True):
        ran.append((s.epochs, s.seeds, s.folder, candidate.label, alone))
        value = candidate.rate + candidate.options["c"] if s.epochs == 1 else 0.0
        return multitask.Trained(np.full((len(s.seeds), 3), value), np.zeros((len(s.seeds), 3)), 0.3)

    monkeypatch.setattr(multitask, "learned", learned)
    s = short("x", rates=(0.1, 0.2), probe=1)
    problem = problem._replace(metrics=dict.fromkeys(problem.metrics, ("accuracy", True)))
    best = multitask.tuned(s, problem, "cagrad")
    labels = [f"{rate:g}, c {c:g}" for c in (0.2, 0.4) for rate in (0.1, 0.2)]
    assert ran[:4] == [(1, (0,), "x/probes", label, False) for label in labels]
    assert ran[4:] == [(2, (0, 1), "x", "0.2, c 0.4", True)]
    assert best.chosen == [multitask.Candidate(0.2, {"c": 0.4})] and list(best.scores[0]) == labels


def test_a_method_that_diverges_in_the_end_loses_only_itself(monkeypatch, capsys, tmp_path):
    s = replace(digits_multitask.PRESETS["few"][1], methods=("equal", "pcgrad"), rates=(0.1, 0.2), folder=str(tmp_path))
    problem = digits_multitask.problem(s)

    def learned(s, problem, name, candidate, tasks, alone=True):
        if name == "pcgrad" and (alone or candidate.rate == 0.2):
            raise FloatingPointError("not finite")
        values = np.full((len(s.seeds), len(tasks)), candidate.rate)
        return multitask.Trained(values, values, 0.0)

    seen = []
    monkeypatch.setattr(multitask, "learned", learned)
    monkeypatch.setattr(multitask, "write", lambda s, metrics, found, table: seen.append([one.name for one in found]))
    monkeypatch.setattr(multitask, "table_of", lambda *arguments: None)
    multitask.main(replace(s, probe=1), lambda s: problem)
    assert seen == [["equal"]]
    assert "PCGrad has no row: every rate diverged" in capsys.readouterr().out
