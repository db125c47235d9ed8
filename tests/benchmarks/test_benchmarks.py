import importlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import metalearn as ml
from benchmarks import __main__ as command
from benchmarks import comparison
from benchmarks.comparison import Peers, compare
from benchmarks.connection import Peer, connect, has_torch
from benchmarks.contender import KEY, contender, first_moment, named
from benchmarks.floor import Work
from benchmarks.local_training import examples, order
from benchmarks.measure import Contender, Options, check
from benchmarks.rows import ROWS, first_step, maml, omniglot_sampling, population, rounds, sinusoid
from benchmarks.table import row_lines, table

ROOT = Path(command.__file__).parents[1]
TINY = maml.Size(tasks=2, queries=2, filters=4)
PEER = os.environ.get("METALEARN_PEER_PYTHON", sys.executable)
NOBODY = "/no/such/python"


@pytest.fixture(scope="module")
def second_order():
    return made()


def made(**options):
    algorithm, batch = maml.algorithm_of(TINY, **options), maml.tasks(TINY)
    return contender(algorithm, algorithm.init(jax.random.key(0), batch), batch, first_moment)


def toy(name="ours", seconds=0.5, loss=2.0):
    return Contender(name, lambda repeats: seconds, 1.0, loss, {"w": np.array([3.0, 4.0])})


def test_every_row_has_a_module_that_runs_it():
    for module in set(ROWS.values()):
        assert importlib.import_module(f"benchmarks.rows.{module}").run.__doc__, module


def test_the_first_step_of_every_preset_is_timed():
    names = {path.stem for path in (ROOT / "experiments").glob("*.py") if "PRESETS = {" in path.read_text()}
    every = {(name, preset) for name in names for preset in importlib.import_module(f"experiments.{name}").PRESETS}
    untrained = {("mtl_toy", "valley"), ("mtl_toy", "concave"), ("omniglot", "compare-scratch")}
    assert set(first_step.presets()) == every - untrained


@pytest.mark.slow
@pytest.mark.parametrize("which", [("mnist_federated", "2nn-iid"), ("shakespeare_federated", "roles")])
def test_a_first_step_ends_there_and_leaves_nothing(which, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.rows.first_step", *which], cwd=tmp_path, timeout=120, capture_output=True,
        text=True, env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0 and " clients of " in done.stdout, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_peers_and_the_command_line_import_no_jax():
    for path in (ROOT / "benchmarks" / "peers").glob("*.py"):
        assert "jax" not in [
            word for line in path.read_text().splitlines() if "import" in line for word in line.split()
        ]
    code = "import sys, benchmarks.__main__, benchmarks.peer; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.slow
def test_the_check_tells_first_from_second_order(second_order):
    first = made(first_order=True)
    assert check(second_order, first.loss, first.direction)["direction_error"] > 0.01
    assert first.loss == pytest.approx(second_order.loss, rel=1e-5)
    assert not check(second_order, first.loss, first.direction)["same"]


@pytest.mark.slow
def test_the_direction_is_the_gradient_of_the_mean_query_loss(second_order):
    algorithm, batch = maml.algorithm_of(TINY), maml.tasks(TINY)
    state = algorithm.init(jax.random.key(0), batch)

    def mean_loss(params):
        def one(task):
            def loss(params, x, y):
                net = maml.ml.nets.Conv4(TINY.ways, features=TINY.filters, padding=1, epsilon=TINY.epsilon)
                chosen = jax.nn.log_softmax(net.apply(params, x)) * jax.nn.one_hot(y, TINY.ways)
                return -chosen.sum(-1).mean()

            grads = jax.grad(loss)(params, task.support.x, task.support.y)
            adapted = jax.tree.map(lambda p, g: p - TINY.inner_rate * g, params, grads)
            return loss(adapted, task.query.x, task.query.y)

        return jax.vmap(one)(batch._replace(id=None)).mean()

    loss, gradient = jax.jit(jax.value_and_grad(mean_loss))(state.params)
    result = check(second_order, float(loss), named(gradient), tolerance=1e-4)
    assert result["same"], result


def test_an_epoch_of_every_client_is_asked_of_the_library():
    rows = order(examples(3, 20, (2,), 4), {"num_epochs": 1, "batch_size": 5})
    assert rows.shape == (3, 4, 5)
    for client in rows:
        assert sorted(client.ravel()) == list(range(20))
    assert (rows[0] != rows[1]).any()


@pytest.mark.parametrize("sampler", [omniglot_sampling.one_by_one, omniglot_sampling.all_at_once])
def test_the_samplers_in_numpy_draw_what_ours_draws(sampler):
    # every image its own number, so that it can be told which was drawn, and how it was turned
    numbers = np.zeros((6, 20, 28, 28), np.uint8)
    numbers[:, :, 0, 0] = 1 + np.arange(120).reshape(6, 20)
    size = maml.Size(tasks=8, ways=5, shots=2, queries=3)
    support_x, support_y, query_x, query_y = sampler(numbers, size, np.random.default_rng(0))
    ours = jax.eval_shape(omniglot_sampling.sample_of(size, quick=True), jax.random.key(0))
    assert (support_x.shape, query_x.shape) == (ours.support.x.shape, ours.query.x.shape)
    np.testing.assert_array_equal(support_y, np.tile([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], (8, 1)))
    np.testing.assert_array_equal(query_y, np.tile(np.repeat(np.arange(5), 3), (8, 1)))
    drawn = np.concatenate([support_x.reshape(8, 5, 2, 28, 28), query_x.reshape(8, 5, 3, 28, 28)], 2)
    values = np.rint(drawn.max((3, 4)) * 255).astype(int) - 1  # [K, ways, shots + queries]
    corner = drawn.reshape(8, 5, 5, -1).argmax(-1)
    assert (np.diff(np.sort(values, -1), axis=-1) > 0).all()  # no image twice
    assert (values // 20 == values[..., :1] // 20).all() and (corner == corner[..., :1]).all()  # one class, one turn
    classes = 784 * (values[..., 0] // 20) + corner[..., 0]
    assert (np.diff(np.sort(classes, -1), axis=-1) > 0).all()  # no class twice
    assert set(np.unique(corner)) == {0, 27, 756, 783}  # every turn


def test_a_missing_peer_is_an_entry_that_says_so():
    peers = Peers("episodic", {"a peer": ("loop",)}, {}, {})
    row = compare([toy(), toy("another", 1.5)], Options(NOBODY, rounds=2), peers)
    ours, another, peer = row["entries"]
    assert ours["seconds"]["median"] == 0.5
    assert another["ratio"]["median"] == 3.0
    assert peer == {"who": "a peer", "status": "not installed"}


def test_peers_have_no_line_where_ours_runs_on_another_device_than_theirs(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    row = compare([toy()], Options(sys.executable, rounds=2), Peers("episodic", {"a peer": ("loop",)}, {}, {}))
    assert row["entries"][1] == {"who": "a peer", "status": "no line: peers run on the CPU, and ours did not"}


def test_lines_that_do_different_things_have_floors_of_their_own():
    small, large = Work(1e6, 1.0, 1.0), Work(2e6, 1.0, 1.0)
    row = compare([toy("one"), toy("two")], Options(NOBODY, quick=True, rounds=1), work={"one": small, "two": large})
    one, two = row["entries"]
    assert row["floor"]["flops"] == 1e6
    assert one["times_floor"] / two["times_floor"] == pytest.approx(2, rel=0.5)  # the peak is measured twice
    same = compare([toy("one"), toy("two")], Options(NOBODY, quick=True, rounds=1), work=small)["entries"]
    assert same[0]["times_floor"] == same[1]["times_floor"]


def test_a_peer_that_needs_the_machine_for_itself_is_timed_after_all_others(monkeypatch):
    calls = []

    def start(who, *more):
        peer = Peer(
            lambda request, limit: (calls.append(who), {"seconds": 2.0})[1], lambda: calls.append(f"{who} ends")
        )
        return {"who": who, "status": "ok", "first_s": 1.0}, peer

    monkeypatch.setattr(comparison, "has_torch", lambda python: True)
    monkeypatch.setattr(comparison, "_best", lambda module, who, *more: start(who))
    peers = Peers("rounds", {"busy": ("a",), "quiet": ("b",)}, {}, {}, alone=("busy",))
    _, quiet, busy = compare([toy()], Options(sys.executable, rounds=2), peers, warmup=0)["entries"]
    assert calls == ["quiet", "quiet", "quiet ends", "busy", "busy", "busy ends"]
    assert (quiet["who"], busy["who"]) == ("quiet", "busy")
    assert busy["ratio"]["median"] == quiet["ratio"]["median"] == 4.0


@pytest.mark.parametrize(("enough", "timed"), [(3.0, 5), (1.0, 1)])
def test_a_variant_far_behind_the_best_is_timed_once(enough, timed):
    calls = []
    times = comparison.tuning_times(lambda repeats: (calls.append(repeats), 2.0)[1], 5, enough)
    assert times == [2.0] * timed and len(calls) < 2 * (1 + timed)


@pytest.mark.slow
def test_the_first_round_is_that_of_run_with_each_client_in_its_own_order():
    size = rounds.Size(clients=5, cohort=2, examples=7, batch_size=3, sides=4)
    make, everyone, _, how_long = rounds.problem("rounds_logistic", size)
    algorithm = make(ml.auto)
    sample = ml.data.cohort(rounds.population(everyone), size.cohort)
    state, batch, key = rounds.first_round(algorithm, sample)
    for k, own in zip(np.asarray(batch.id), np.asarray(batch.support.x), strict=True):
        np.testing.assert_array_equal(own, everyone.support.x[k])
    assert order(batch, how_long, key).shape == (2, 3, 3)
    params, _ = ml.run(algorithm, sample, 1, key=KEY)
    stepped, _ = jax.jit(algorithm.step)(state, batch, key)
    for one, other in zip(jax.tree.leaves(params.params), jax.tree.leaves(stepped.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_a_population_holds_three_numbers_beside_its_examples():
    size = population.Size(clients=30, cohort=4)
    clients = population.population(size)
    sizes = np.asarray(clients.sizes)
    assert sizes.min() >= size.least and sizes.max() <= size.most
    assert sum(a.nbytes for a in jax.tree.leaves(clients)) == 4 * (size.features + 2) * sizes.sum() + 8 * 30


@pytest.mark.slow
def test_the_row_of_a_population():
    row = population.run("population", Options(NOBODY, quick=True, rounds=1))
    assert [entry["status"] for entry in row["entries"]] == ["ok"] * 6
    assert row["bytes"]["temporaries"] < population.SMALL["clients"]  # not even a byte for each client
    assert "a whole round, the lightest" in row_lines("population", row)


def test_a_contender_with_other_numbers_is_not_timed():
    ours, wrong = compare([toy(), toy("wrong", loss=3.0)], Options(NOBODY, rounds=2))["entries"]
    assert ours["status"] == "ok"
    assert wrong["status"] == "other numbers" and "seconds" not in wrong


def test_the_faster_of_two_ways_of_ours_comes_first():
    slow, fast = toy("metalearn, a device a core", 0.6), toy("metalearn, one device", 0.4)
    first, second, peer = compare([slow, fast], Options(NOBODY, rounds=2), Peers("maml", {"torch": ()}, {}, {}))[
        "entries"
    ]
    assert (first["who"], second["ratio"]["median"]) == ("metalearn, one device", pytest.approx(1.5))
    assert peer["status"] == "not installed"


def report_of(tmp_path, monkeypatch, *more):
    monkeypatch.setattr(sinusoid, "through_run", lambda algorithm, batch, direction, name: toy(name))
    monkeypatch.setattr(sinusoid, "contender", lambda *arguments: toy("a step at a time", 1.5))
    out = tmp_path / "new" / "report.json"
    arguments = ["--quick", "--rounds", "2", "--only", "sinusoid_25", "--peer-python", NOBODY, "--out", str(out)]
    return command.main([*arguments, *more]), json.loads(out.read_text())


def test_json_and_table(tmp_path, monkeypatch, capsys):
    code, report = report_of(tmp_path, monkeypatch)
    assert code == 0
    assert list(report["rows"]) == ["sinusoid_25"]
    assert report["quick"] is True
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["jax"] == jax.__version__
    if (ROOT / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?", report["versions"]["commit"])
    row = report["rows"]["sinusoid_25"]
    assert row["setting"]["hidden"] == 40
    ours, twin, alone, *peers = row["entries"]  # a device a core, one device, and a step at a time
    assert (twin["ratio"]["median"], alone["ratio"]["median"]) == (1.0, 3.0)
    assert ours["seconds"]["rounds"] == 2
    assert (ours["seconds"]["median"], ours["first_s"], ours["loss"]) == (0.5, 1.0, 2.0)
    assert ours["times_floor"] == pytest.approx(0.5 / row["floor"]["seconds"])
    assert [peer["status"] for peer in peers] == ["not installed"] * len(sinusoid.PEERS)
    printed = capsys.readouterr().out
    assert printed.count("not installed") == len(sinusoid.PEERS)
    assert "a trial and not a measurement" in printed
    told = report | {"machine": report["machine"] | {"xla_flags": "--xla_of_no_use"}}
    assert "XLA_FLAGS is '--xla_of_no_use'" in table(told) and "XLA_FLAGS" not in table(
        report | {"machine": report["machine"] | {"xla_flags": ""}}
    )
    assert "times the floor" in printed


def test_the_guard_fails_where_a_ratio_fell(tmp_path, monkeypatch, capsys):
    def run(row, options):
        compared = compare([toy(), toy("twin", 0.6)], options)
        compared["entries"][1]["variant"] = "twin"  # as a peer's
        return {"setting": {}} | compared

    monkeypatch.setattr(sinusoid, "run", run)
    code, report = report_of(tmp_path, monkeypatch)
    assert code == 0
    before = tmp_path / "before.json"
    before.write_text(json.dumps(report))
    assert report_of(tmp_path, monkeypatch, "--check", str(before))[0] == 0
    report["rows"]["sinusoid_25"]["entries"][1]["ratio"]["median"] = 4.0
    before.write_text(json.dumps(report))
    assert report_of(tmp_path, monkeypatch, "--check", str(before))[0] == 1
    assert capsys.readouterr().err == "sinusoid_25: the ratio of 'twin' fell from 4 to 1.2, by more than 30%.\n"


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--rounds", "0"], ["--check", "/no/such/file"]])
def test_a_wrong_argument_ends_with_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_peer_that_fails_answers_with_the_reason(tmp_path):
    np.savez(tmp_path / "arrays.npz", setting="{}")
    peer = connect(sys.executable, "no_such_module", "loop", tmp_path / "arrays.npz")
    answer = peer.ask({"do": "prepare", "to": str(tmp_path / "direction.npz")}, 60.0)
    peer.close()
    # where there is no PyTorch, that is what is missing
    assert answer.get("missing", answer.get("error")).startswith("ModuleNotFoundError: No module named")
    assert ("missing" in answer) == (not has_torch(sys.executable))


def test_a_peer_that_takes_too_long_is_ended(tmp_path):
    peer = connect(sys.executable, "episodic", "loop", tmp_path / "arrays.npz")
    start = time.monotonic()
    assert peer.ask({"do": "prepare", "to": ""}, 0.0) == {"error": "no answer within 0 s"}
    assert peer.ask({"do": "time"}, 60.0) == {"error": "the process ended with code -9"}
    peer.close()
    assert time.monotonic() - start < 30


WITH_PEERS = ("maml", "protonet", "reptile", "own_conv", "sinusoid", "fedavg", "rounds", "multitask")
PEER_ROWS = [
    row for row, module in ROWS.items() if module in WITH_PEERS and row.split("_")[1] not in ("weights", "methods")
]


@pytest.mark.slow
@pytest.mark.skipif(
    not has_torch(PEER), reason="no PyTorch here; METALEARN_PEER_PYTHON names an interpreter that has it"
)
@pytest.mark.parametrize("row", PEER_ROWS)
def test_peers_compute_the_same_numbers(row):
    result = importlib.import_module(f"benchmarks.rows.{ROWS[row]}").run(row, Options(PEER, quick=True, rounds=1))
    for entry in result["entries"][1:]:
        assert entry["status"] in ("ok", "not installed"), entry
    assert result["entries"][1]["status"] == "ok"
