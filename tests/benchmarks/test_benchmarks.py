import json
import os
import sys
import time

import jax
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks.connection import connect, has_torch
from benchmarks.measure import Contender, Options, alternate, check, relative_error, side_by_side, summary
from benchmarks.rows import ROWS, maml_conv4

TINY = maml_conv4.Size(tasks=2, queries=2, filters=4)
PEER = os.environ.get("METALEARN_PEER_PYTHON", sys.executable)


@pytest.fixture(scope="module")
def second_order():
    return contender()


def contender(**options):
    algorithm, batch = maml_conv4.algorithm_of(TINY, **options), maml_conv4.tasks(TINY)
    return maml_conv4.ours(algorithm, algorithm.init(jax.random.key(0), batch), batch)


def toy(loss=2.0):
    return Contender("ours", lambda: 0.5, 1.0, loss, {"w": np.array([3.0, 4.0])})


def test_relative_error_is_that_of_all_arrays_together():
    ours = {"a": np.array([3.0]), "b": np.array([4.0])}
    assert relative_error(ours, {"a": np.array([3.0]), "b": np.array([4.5])}) == pytest.approx(0.1)


@pytest.mark.parametrize("theirs", [{}, {"a": np.zeros(2)}, {"a": np.array([np.nan])}])
def test_what_does_not_fit_is_infinitely_wrong(theirs):
    assert relative_error({"a": np.ones(1)}, theirs) == float("inf")


def test_check_wants_loss_and_gradient_within_the_tolerance():
    close, far = {"w": np.array([3.0, 4.0001])}, {"w": np.array([3.0, 4.1])}
    assert check(toy(), 2.0, close)["same"]
    assert not check(toy(), 2.0, far)["same"]
    assert not check(toy(), 2.01, close)["same"]
    assert not check(toy(), float("nan"), close)["same"]


def test_an_error_that_is_not_finite_is_none_because_json_has_no_other():
    assert check(toy(), float("nan"), {}) == {"loss_error": None, "gradient_error": None, "same": False}


def test_contenders_take_turns_and_the_warm_up_is_left_out():
    order, seconds = [], iter(range(100))

    def step(name):
        return lambda: (order.append(name), float(next(seconds)))[1]

    times = alternate({"a": step("a"), "b": step("b")}, rounds=2, warmup=1)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert times == {"a": [3.0, 4.0], "b": [2.0, 5.0]}


def test_summary_has_the_quartiles():
    assert summary([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "quartiles": [2.0, 4.0], "rounds": 5}


@pytest.mark.slow
def test_the_check_tells_first_from_second_order(second_order):
    first = contender(first_order=True)
    assert check(second_order, first.loss, first.gradient)["gradient_error"] > 0.01
    assert first.loss == pytest.approx(second_order.loss, rel=1e-5)
    assert not check(second_order, first.loss, first.gradient)["same"]


@pytest.mark.slow
def test_the_gradient_is_that_of_the_mean_query_loss(second_order):
    algorithm, batch = maml_conv4.algorithm_of(TINY), maml_conv4.tasks(TINY)
    state = algorithm.init(jax.random.key(0), batch)

    def mean_loss(params):
        def one(task):
            def loss(params, x, y):
                net = maml_conv4.ml.nets.Conv4(TINY.ways, features=TINY.filters, padding=1, epsilon=TINY.epsilon)
                chosen = jax.nn.log_softmax(net.apply(params, x)) * jax.nn.one_hot(y, TINY.ways)
                return -chosen.sum(-1).mean()

            grads = jax.grad(loss)(params, task.support.x, task.support.y)
            adapted = jax.tree.map(lambda p, g: p - TINY.inner_rate * g, params, grads)
            return loss(adapted, task.query.x, task.query.y)

        return jax.vmap(one)(batch._replace(id=None)).mean()

    loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(state.params)
    result = check(second_order, float(loss), maml_conv4.named(gradient), tolerance=1e-4)
    assert result["same"], result


def test_a_missing_peer_is_a_row_that_says_so():
    row = side_by_side("maml_conv4", toy(), {}, {"a peer": ("loop",)}, Options("/no/such/python", rounds=2))
    assert row["entries"][0]["seconds"]["median"] == 0.5
    assert row["entries"][1] == {"who": "a peer", "status": "not installed"}


def test_json_and_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(maml_conv4, "QUICK", TINY)
    monkeypatch.setattr(maml_conv4, "ours", lambda algorithm, state, batch: toy())
    out = tmp_path / "new" / "report.json"
    arguments = ["--quick", "--rounds", "2", "--peer-python", "/no/such/python", "--out", str(out)]
    assert command.main(arguments) == 0
    report = json.loads(out.read_text())
    assert list(report["rows"]) == list(ROWS)
    assert report["quick"] is True
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["jax"] == jax.__version__
    ours, *peers = report["rows"]["maml_conv4"]["entries"]
    assert ours["seconds"]["rounds"] == 2
    assert (ours["seconds"]["median"], ours["first_s"], ours["loss"]) == (0.5, 1.0, 2.0)
    assert [peer["status"] for peer in peers] == ["not installed"] * len(maml_conv4.PEERS)
    sampling, step = report["rows"]["omniglot_sampling"]["entries"]
    assert sampling["share"]["median"] == pytest.approx(sampling["seconds"]["median"] / 0.5)
    assert step["seconds"]["median"] == 0.5
    printed = capsys.readouterr().out
    assert printed.count("not installed") == len(maml_conv4.PEERS)
    assert "a trial and not a measurement" in printed


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--rounds", "0"]])
def test_a_wrong_argument_ends_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_peer_that_fails_answers_with_the_reason(tmp_path):
    np.savez(tmp_path / "arrays.npz", a=np.zeros(1))
    peer = connect(sys.executable, "no_such_row", "loop", tmp_path / "arrays.npz")
    answer = peer.ask({"do": "prepare", "to": str(tmp_path / "gradient.npz")}, 60.0)
    peer.close()
    assert answer["error"].startswith("ModuleNotFoundError: No module named")


def test_a_peer_that_takes_too_long_is_ended(tmp_path):
    peer = connect(sys.executable, "maml_conv4", "loop", tmp_path / "arrays.npz")
    start = time.monotonic()
    assert peer.ask({"do": "prepare", "to": ""}, 0.0) == {"error": "no answer within 0 s"}
    assert peer.ask({"do": "time"}, 60.0) == {"error": "the process ended with code -9"}
    peer.close()
    assert time.monotonic() - start < 30


@pytest.mark.slow
@pytest.mark.skipif(
    not has_torch(PEER), reason="no PyTorch here; METALEARN_PEER_PYTHON names an interpreter that has it"
)
def test_peers_compute_the_same_loss_and_gradient(monkeypatch):
    monkeypatch.setattr(maml_conv4, "QUICK", TINY)
    monkeypatch.setattr(maml_conv4, "PEERS", {"loop": ("loop", "loop+channels_last"), "vmap": ("vmap", "vmap+chunks")})
    row = maml_conv4.run(Options(PEER, quick=True, rounds=2))
    for peer in row["entries"][1:]:
        assert peer["status"] == "ok", peer
        for variant in peer["tried"]:
            assert variant["gradient_error"] < 1e-4
            assert variant["loss_error"] < 1e-5
