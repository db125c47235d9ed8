"""Federated experiments: what is refused, what chooses a rate, and that twenty-nine algorithms are twenty-nine."""

import itertools
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

import metalearn as ml
from experiments import command_line, digits_federated, federated, mnist_federated, shakespeare_federated
from metalearn.host import logs
from metalearn.report import read_results

pytestmark = pytest.mark.usefixtures("compile_once")

DIGITS, MNIST, SHAKESPEARE = digits_federated, mnist_federated, shakespeare_federated


def not_a_method(model, criterion, rate):
    return model


def own(model, criterion, rate):
    import optax

    return ml.federated.fedavg(model, criterion, optax.sgd(rate), num_epochs=2, batch_size=5)


@pytest.mark.parametrize(
    ("experiment", "arguments", "said"),
    [
        (DIGITS, ["al"], "did you mean 'all'"),
        (DIGITS, ["few", "--methods", "fedavgg"], "did you mean 'fedavg'"),
        (DIGITS, ["few", "--methods", "no_such_module:method"], "no_such_module"),
        (DIGITS, ["few", "--methods", f"{__name__}:not_a_method"], "must return a Federated"),
        (DIGITS, ["few", "--sampling", "poison"], "sampling must be uniform or poisson, but is 'poison'"),
        (DIGITS, ["few", "--candidates", "2"], "candidates must be between the cohort's"),
        (DIGITS, ["few", "--max-examples", "0"], "max_examples must be at least 1, but is 0"),
        (DIGITS, ["few", "--methods"], "methods, seeds and rates each need at least one value"),
        (DIGITS, ["few", "--rates", "-1"], "rates must be positive"),
        (DIGITS, ["few", "--target", "85"], "target is an accuracy between 0 and 1"),
        (DIGITS, ["few", "--target", "None", "--choose-by", "rounds"], "choose_by is 'accuracy', or 'rounds' where"),
        (DIGITS, ["few", "--partition", "shard"], "did you mean 'shards'"),
        (DIGITS, ["few", "--clients", "1000"], "examples are too few"),
        (DIGITS, ["few", "--cohort", "17"], "cohort must be between 1 and the 16 clients"),
        (DIGITS, ["few", "--cohort", "0"], "cohort must be between 1"),
        (DIGITS, ["few", "--devices", "9"], "devices must be between 1 and the 8 there are, but is 9"),
        (DIGITS, ["few", "--late", "0.5"], "num_epochs must be a whole number of at least 2"),
        (DIGITS, ["few", "--decay", "2"], "decay is in (0, 1] and late in [0, 1]"),
        (DIGITS, ["few", "--test-clients", "3"], "both positive or both 0"),
        (DIGITS, ["few", "--test-clients", "5", "--validation-clients", "4"], "the 7 clients that train"),
        (DIGITS, ["few", "--test-clients", "2", "--validation-clients", "2"], "have no model of 'ditto'"),
        (DIGITS, ["few", "--concentration", "0"], "concentration"),
        (DIGITS, ["few", "--rounds", "0"], "num_steps"),
        (DIGITS, ["few", "--public", "0", "--methods", "feddf"], "public is 0"),
        (DIGITS, ["few", "--public", "1.5"], "public must be at least 0 and below 1"),
        (DIGITS, ["few", "--test-share", "0.6"], "test_share must be above 0 and below 0.5"),
        (DIGITS, ["few", "--dropout", "1.5"], "dropout must be at least 0 and below 1"),
        (DIGITS, ["few", "--epochs", "0"], "epochs must be at least 1"),
        (DIGITS, ["few", "--clusters", "0"], "clusters must be at least 1"),
        (DIGITS, ["few", "--server-rate", "0"], "server_rate must be above 0"),
        (DIGITS, ["few", "--strength", "-1"], "strength must be at least 0"),
        (DIGITS, ["few", "--strength", "0", "--methods", "pfedme"], "strength must be above 0 for pfedme"),
        (DIGITS, ["few", "--strength", "0", "--methods", "feddyn"], "strength must be above 0"),
        (MNIST, ["2nn-iid", "--model", "cnnn"], "did you mean 'cnn'"),
        (MNIST, ["2nn-iid", "--test", "mine"], "test must be 'standard' or 'own'"),
        (SHAKESPEARE, ["roles", "--partition", "iid"], "partition must be 'roles'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_sentence(monkeypatch, capsys, tmp_path, experiment, arguments, said):
    monkeypatch.setattr(
        sys, "argv", ["experiment", *arguments, "--folder", str(tmp_path)][: 99 if arguments[1:] else 2]
    )
    monkeypatch.setattr(command_line, "_prepare_jax", lambda devices: None)  # this process goes on with other tests
    with pytest.raises(SystemExit) as stopped:
        command_line.launch(experiment.PRESETS, experiment.main, experiment.__doc__)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2
    assert last.startswith("error: ") and said in last


def test_rounds_to_target_are_spelled_with_those_that_never_got_there():
    history = [{"step": t, "validation/accuracy": [0.1 * t, 0.05 * t]} for t in range(1, 10)]
    history.append({"step": 10, "train/loss": 1.0})
    assert federated.reached(history, 0.65) == [pytest.approx(6.5), float("inf")]
    assert federated.spelled(history, 0.65, 10) == "6 / > 10"
    assert federated.spelled(history, 0.075, 10) == "≤ 1 / 2"  # there before anybody looked
    np.testing.assert_allclose(federated.last(history), [0.9, 0.45])


CURVES = {0.1: [0.2, 0.5, 0.9], 0.3: [0.6, 0.6, 0.6], 1.0: [np.nan] * 3}


@pytest.mark.parametrize(
    ("choose_by", "target", "best"),
    [
        ("accuracy", None, 0.1),
        ("accuracy", 0.6, 0.1),
        ("rounds", 0.55, 0.3),
        ("rounds", 0.8, 0.1),
        ("rounds", 0.95, 0.1),
    ],
)
def test_what_chooses_the_rate(monkeypatch, choose_by, target, best):
    def train(s, problem):
        return s.rates[0], [{"step": t, "validation/accuracy": a} for t, a in enumerate(CURVES[s.rates[0]], 1)]

    monkeypatch.setattr(federated, "train", train)
    s = replace(DIGITS.Settings(), rates=(1.0, 0.3, 0.1), choose_by=choose_by, target=target, folder="runs/x")
    one, state, _ = federated.chosen(s, None)
    assert (state, one.rates, one.folder) == (best, (best,), f"runs/x-rate-{best:g}")


@pytest.mark.slow
def test_a_long_run_is_saved_on_the_way(monkeypatch):
    taken = {}
    monkeypatch.setattr(federated.ml, "run", lambda *arguments, **options: taken.update(options))
    s = replace(digits_federated.PRESETS["few"][1], methods=("fedavg",), rounds=1000)
    federated.train(s, digits_federated.problem(s))
    assert taken["checkpoint_every"] <= 100  # what `kill -9` may cost


def test_clients_of_digits_are_apart():
    s = DIGITS.PRESETS["few"][1]
    problem = DIGITS.problem(s)
    assert problem.num_clients == len(problem.train.sizes) == s.clients
    validation, test = problem.validation[1], problem.test[1]
    total = sum(int(p.sizes.sum()) for p in (problem.train, validation, test))
    assert total + len(problem.public.y) == 1797
    np.testing.assert_array_equal(problem.inner.sizes + problem.outer.sizes, problem.train.sizes)
    assert int(problem.pooled.sizes[0]) == int(problem.train.sizes.sum())
    rows = [
        {image.tobytes() for image in np.asarray(ml.data.everyone(part).support.x[k][: int(part.sizes[k])])}
        for part in (problem.train, validation, test)
        for k in range(s.clients)
    ]
    shared = sum(len(a & b) for a, b in itertools.combinations(rows, 2))
    assert shared <= 1  # scikit-learn's digits hold a few equal images


def test_clients_who_never_train_choose_and_are_tested():
    s = replace(DIGITS.PRESETS["few"][1], clients=12, validation_clients=3, test_clients=2, methods=("fedavg",))
    problem = DIGITS.problem(s)
    assert problem.num_clients == 7
    of = (problem.train, *problem.validation, *problem.test)
    assert [len(part.sizes) for part in of] == [7, 3, 3, 2, 2]
    assert sum(int(part.sizes.sum()) for part in of) + len(problem.public.y) == 1797
    for see, judge in (problem.validation, problem.test):
        assert np.all(np.abs(np.asarray(see.sizes) - np.asarray(judge.sizes)) <= 1)


@pytest.mark.slow
def test_every_algorithm_has_a_row_and_is_another(tmp_path, capsys):
    s = replace(DIGITS.PRESETS["all"][1], rounds=4, every=2, seeds=(0,), folder=str(tmp_path))
    DIGITS.main(s)
    assert set(s.methods) == set(federated.METHODS)
    rows = {name: read_results(tmp_path / name)[0] for name in s.methods}
    assert len({row.method for row in rows.values()}) == len(rows)
    assert len({row.protocol for row in rows.values()}) == 1
    assert all(row.values.shape == (1, s.clients) and row.rounds for row in rows.values())
    assert rows["scaffold"].up == 2 * rows["fedavg"].up and rows["local-only"].up == 0
    # what was learned, in validation: no algorithm is another under a second name
    losses = {name: logs.column(logs.read(tmp_path / name / "log.jsonl"), "validation/loss")[1] for name in s.methods}
    same = [(a, b) for a, b in itertools.combinations(losses, 2) if np.allclose(losses[a], losses[b], rtol=1e-4)]
    assert not same
    printed = capsys.readouterr().out
    assert all(row.method in printed for row in rows.values())
    for name in ("table.md", "table.tex", "table.csv", "over_clients.png", "learning_curves.png", "methods.bib"):
        assert (tmp_path / name).stat().st_size > 100, name


@pytest.mark.slow
def test_late_clients_and_rates_that_decay_change_what_is_learned(tmp_path):
    s = replace(DIGITS.PRESETS["few"][1], rounds=4, epochs=2, seeds=(0,), methods=("fedavg", "fedprox"))
    losses = {}
    for name, changes in {"all": {}, "late": {"late": 0.5}, "decay": {"decay": 0.5}}.items():
        DIGITS.main(replace(s, folder=str(tmp_path / name), **changes))
        for method in s.methods:
            log = logs.read(tmp_path / name / method / "log.jsonl")
            losses[name, method] = logs.column(log, "validation/loss")[1]
    for method in s.methods:
        assert losses["decay", method][-1] > losses["all", method][-1]  # a rate that halves learns less
        assert not np.allclose(losses["late", method], losses["all", method], rtol=1e-3)


@pytest.mark.slow
def test_clients_over_devices_change_no_number(tmp_path):
    s = replace(DIGITS.PRESETS["few"][1], rounds=4, cohort=7, methods=("scaffold",))
    for devices in (1, 8):
        DIGITS.main(replace(s, devices=devices, folder=str(tmp_path / str(devices))))
    one, eight = (read_results(tmp_path / name / "scaffold")[0].values for name in ("1", "8"))
    np.testing.assert_allclose(one, eight, atol=0.05)  # of some ten test examples a client, one may turn
    losses = [logs.column(logs.read(tmp_path / n / "scaffold/log.jsonl"), "validation/loss")[1] for n in ("1", "8")]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.slow
def test_the_same_command_goes_on_and_another_population_is_refused(tmp_path):
    s = replace(DIGITS.PRESETS["few"][1], methods=("ditto",), rounds=4, seeds=(0, 1), rates=(0.1, 0.3))
    DIGITS.main(replace(s, folder=str(tmp_path / "one")))
    written = {path: path.read_bytes() for path in (tmp_path / "one").rglob("log.jsonl")}
    assert len(written) == 2
    DIGITS.main(replace(s, folder=str(tmp_path / "one")))
    assert {path: path.read_bytes() for path in written} == written
    with pytest.raises(ml.InputError, match="clients was 16 and is 12"):
        DIGITS.main(replace(s, clients=12, folder=str(tmp_path / "one")))


@pytest.mark.slow
def test_more_rounds_go_on_where_fewer_ended(tmp_path):
    s = replace(DIGITS.PRESETS["few"][1], methods=("scaffold",), seeds=(0,), every=2, folder=str(tmp_path / "one"))
    DIGITS.main(replace(s, rounds=2))
    DIGITS.main(replace(s, rounds=4))
    DIGITS.main(replace(s, rounds=4, folder=str(tmp_path / "whole")))
    one, whole = (read_results(tmp_path / name / "scaffold")[0] for name in ("one", "whole"))
    np.testing.assert_array_equal(one.values, whole.values)
    assert one.budget == 4


@pytest.mark.slow
def test_an_algorithm_of_the_users_own_and_turned_clients(tmp_path):
    s = replace(DIGITS.PRESETS["shift"][1], methods=(f"{__name__}:own", "ifca"), rounds=2, seeds=(0,))
    DIGITS.main(replace(s, folder=str(tmp_path)))
    assert read_results(tmp_path / f"{__name__}.own")[0].method == f"{__name__}:own"


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["2nn-shards", "shift"])
def test_mnist_from_command_to_table(tmp_path, preset):
    s = replace(MNIST.PRESETS[preset][1], clients=300, cohort=2, rounds=2, every=1, epochs=1, rates=(0.1,), seeds=(0,))
    s = replace(s, methods=s.methods[:2], folder=str(tmp_path))
    try:
        MNIST.main(s)
    except ml.InputError as error:
        if "tfds build" not in str(error):
            raise
        pytest.skip(str(error))
    for name in s.methods:
        (row,) = read_results(tmp_path / name)
        assert row.values.shape == (1, 300) and 0.05 < row.mean < 1


@pytest.mark.slow
def test_shakespeare_from_command_to_table(tmp_path):
    s = replace(SHAKESPEARE.PRESETS["roles"][1], rounds=2, every=1, cohort=2, hidden=8, methods=("fedavg", "ditto"))
    try:
        SHAKESPEARE.main(replace(s, folder=str(tmp_path)))
    except ml.InputError as error:
        if "METALEARN_SHAKESPEARE" not in str(error):
            raise
        pytest.skip(str(error))
    assert read_results(tmp_path / "fedavg")[0].values.shape == (1, 99)


def test_a_rate_that_diverges_ends_nothing_but_itself(monkeypatch, capsys):
    def train(s, problem):
        if s.rates[0] > 0.1:
            raise FloatingPointError("The loss is nan at step 3")
        return s.rates[0], [{"step": 1, "validation/accuracy": [0.5]}]

    monkeypatch.setattr(federated, "train", train)
    s = replace(DIGITS.Settings(), rates=(1.0, 0.1), folder="runs/x")
    assert federated.chosen(s, None)[1] == 0.1
    assert "rate 1: The loss is nan at step 3" in capsys.readouterr().out
    with pytest.raises(FloatingPointError, match="nan at step 3"):
        federated.chosen(replace(s, rates=(1.0, 0.3)), None)


def test_the_server_and_the_centralised_model_see_images_as_clients_do():
    x = np.random.default_rng(0).integers(0, 255, (64, 4, 4, 1)).astype(np.uint8)
    y = np.arange(64, dtype=np.int32) % 2
    s = replace(DIGITS.Settings(), partition="rotation", clients=4, cohort=2, public=0.25, validation_clients=0)
    model = ml.from_linen(ml.nets.MLP([2]))
    problem = federated.divided(s, "toy", model, x, y)
    assert problem.public.x.dtype == np.float32 and problem.public.x.max() <= 1
    seen = ml.data.everyone(problem.train).support
    of_clients = {image.tobytes() for image in np.asarray(seen.x)[np.asarray(seen.mask) > 0]}
    assert {image.tobytes() for image in np.asarray(problem.pooled.x)} == of_clients
    upright = {image.tobytes() for image in np.asarray(ml.data.images.to_float(x))}
    assert not of_clients <= upright


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": "poisson"},
        {"candidates": 12},
        {"max_examples": 8},
        {"candidates": 12, "sampling": "poisson", "dropout": 0.2},
    ],
)
def test_who_trains_is_a_setting(changes, tmp_path):
    few = digits_federated.PRESETS["few"][1]
    small = replace(
        few, methods=("fedavg", "scaffold"), rounds=3, every=3, rates=(0.1,), folder=str(tmp_path / "plain")
    )
    other = replace(small, folder=str(tmp_path / "other"), **changes)
    for settings in (small, other):
        federated.main(settings, digits_federated.problem)
    for name in small.methods:
        plain, found = (read_results(tmp_path / which / name)[0] for which in ("plain", "other"))
        assert not np.array_equal(plain.values, found.values) and np.isfinite(found.values).all()
        assert 0 <= found.padding < 1 and (found.padding < plain.padding) == ("max_examples" in changes)
        assert (found.padding > plain.padding) == (changes.get("sampling") == "poisson")


@pytest.mark.slow
@pytest.mark.parametrize("partition", ["iid", "shards", "dirichlet", "quantity", "rotation"])
def test_every_partition_is_trained_on_and_said(partition, tmp_path):
    few = digits_federated.PRESETS["few"][1]
    changes = {"partition": partition, "methods": ("fedavg", "ditto"), "rounds": 3, "every": 3}
    few = replace(few, folder=str(tmp_path), **changes)
    federated.main(few, digits_federated.problem)
    average, own = (read_results(tmp_path / name)[0] for name in few.methods)
    assert average.split == partition and f"partition={partition}" in average.protocol
    assert np.isfinite(average.values).all()
    # Ditto's global model is FedAvg's
    assert average.common is None and own.common == pytest.approx(average.mean, abs=1e-6)
    assert own.mean != own.common


def test_a_cohort_comes_by_size_where_asked():
    few = replace(digits_federated.PRESETS["few"][1], methods=("fedavg",))
    problem = digits_federated.problem(few)
    for by_size in (False, True):
        sample = jax.jit(federated.sample_of(replace(few, by_size=by_size), problem))
        sizes = np.asarray(sample(jax.random.key(0)).support.mask.sum(-1))
        assert (np.diff(sizes) <= 0).all() == by_size


def test_only_who_trains_on_all_its_examples_has_candidates():
    few = replace(digits_federated.PRESETS["few"][1], candidates=12)
    problem = digits_federated.problem(few)
    for name, size in (("fedavg", 12), ("perfedavg", few.cohort)):
        one = replace(few, methods=(name,))
        assert len(federated.sample_of(one, problem)(jax.random.key(0)).id) == size


def test_poisson_cohorts_have_room_and_the_right_mean():
    few = replace(digits_federated.PRESETS["few"][1], sampling="poisson", methods=("fedavg",))
    problem = digits_federated.problem(few)
    sample = jax.jit(jax.vmap(federated.sample_of(few, problem)))
    mask = sample(jax.random.split(jax.random.key(0), 400)).support.mask
    present = np.asarray(mask.sum(-1) > 0).sum(1)
    assert present.mean() == pytest.approx(few.cohort, abs=4 * np.sqrt(few.cohort / 400))
    assert present.max() <= mask.shape[1]
    assert federated.padding(few, problem) == pytest.approx(1 - float(mask.mean()), abs=0.02)


def test_nobody_is_late_when_all_are_measured():
    few = replace(digits_federated.PRESETS["few"][1], late=1.0, epochs=3)
    problem = digits_federated.problem(few)
    support, query = problem.test
    tasks = ml.data.everyone(support, query)
    late, punctual = (federated.METHODS["perfedavg"].make(s, problem, 0.1) for s in (few, replace(few, late=0.0)))
    state = punctual.init(jax.random.key(0), tasks)
    found = [
        ml.evaluate(one.learner, problem.criterion)(state.params, tasks, jax.random.key(1), state.table)["loss"]
        for one in (late, punctual)
    ]
    np.testing.assert_array_equal(*found)


def test_the_roles_decide_how_many_clients_there_are():
    try:
        ml.data.shakespeare()
    except ml.InputError as error:
        pytest.skip(str(error))
    with pytest.raises(ml.InputError, match="clients cannot be 7: min_characters decides, and leaves 99 roles"):
        shakespeare_federated.problem(shakespeare_federated.Settings(clients=7))
