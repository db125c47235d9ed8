import jax
import jax.numpy as jnp
import numpy as np
import pytest

import metalearn as ml
from benchmarks import contender
from benchmarks.floor import Work, copy_bandwidth, floor, matmul_peak, work
from benchmarks.measure import TURN, Contender, alternate, check, relative_error, repeated, summary


def toy(loss=2.0, name="ours", seconds=0.5):
    return Contender(name, lambda repeats: seconds, 1.0, loss, {"w": np.array([3.0, 4.0])})


def test_relative_error_is_that_of_all_arrays_together():
    ours = {"a": np.array([3.0]), "b": np.array([4.0])}
    assert relative_error(ours, {"a": np.array([3.0]), "b": np.array([4.5])}) == pytest.approx(0.1)


@pytest.mark.parametrize("theirs", [{}, {"a": np.zeros(2)}, {"a": np.array([np.nan])}])
def test_what_does_not_fit_is_infinitely_wrong(theirs):
    assert relative_error({"a": np.ones(1)}, theirs) == float("inf")


def test_check_wants_loss_and_direction_within_the_tolerance():
    close, far = {"w": np.array([3.0, 4.0001])}, {"w": np.array([3.0, 4.1])}
    assert check(toy(), 2.0, close)["same"]
    assert not check(toy(), 2.0, far)["same"]
    assert not check(toy(), 2.01, close)["same"]
    assert not check(toy(), float("nan"), close)["same"]


def test_an_error_that_is_not_finite_is_none_because_json_has_no_other():
    assert check(toy(), float("nan"), {}) == {"loss_error": None, "direction_error": None, "same": False}


def test_contenders_take_turns_and_the_warm_up_is_left_out():
    order, seconds = [], iter(range(1, 100))

    def step(name):
        return lambda repeats: (order.append(name), float(next(seconds)))[1]

    times = alternate({"a": step("a"), "b": step("b")}, rounds=2, warmup=1)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert times == {"a": [4.0, 5.0], "b": [3.0, 6.0]}


def test_a_short_step_is_repeated_until_its_turn_is_long_enough():
    asked = []
    alternate({"short": lambda repeats: (asked.append(repeats), TURN / 10)[1]}, rounds=1, warmup=1)
    assert asked == [1, 10]


def test_repeated_waits_once_and_gives_seconds_a_step():
    calls = []
    seconds = repeated(lambda: calls.append("step"), lambda result: calls.append("wait"))(3)
    assert calls == ["step"] * 3 + ["wait"]
    assert 0 < seconds < 0.1


def test_summary_has_the_quartiles():
    assert summary([1.0, 2.0, 3.0, 4.0, 5.0]) == {"median": 3.0, "quartiles": [2.0, 4.0], "rounds": 5}


def test_operations_are_those_of_matrix_products_times_trips():
    a, b = jnp.ones((2, 3)), jnp.ones((3, 5))

    def step(a, b):
        product = jax.jit(jnp.matmul)(a, b)  # 2 * 2 * 3 * 5
        looped, _ = jax.lax.scan(lambda c, _: (c + (a @ b), None), product, None, 7)  # 7 times the same
        chosen = jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: looped)  # the dearer branch: once more
        return product + looped + chosen

    assert work(step, a, b).flops == 60 * (1 + 7 + 1)
    assert work(step, a, b).bytes == 4 * (6 + 15 + 10)


def test_a_convolution_counts_like_its_patches_and_a_batch_like_its_examples():
    x, kernel = jnp.ones((4, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    once = 2 * (4 * 4 * 4) * (3 * 3 * 3) * 5
    assert work(conv, x, kernel).flops == once
    each = jnp.stack([kernel] * 6)
    assert work(jax.vmap(conv, (None, 0)), x, each).flops == 6 * once
    # the derivatives by the kernel and by the images each cost what the convolution costs; only edges differ
    both = work(jax.grad(lambda x, kernel: (conv(x, kernel) ** 2).sum(), (0, 1)), x, kernel).flops
    assert 2.5 * once < both < 4.5 * once


def test_what_a_faster_way_multiplies_beside_is_not_of_the_floor():
    """A kernel laid over tiles has zeros."""
    images, kernel = jnp.ones((2, 12, 12, 1)), jnp.ones((5, 5, 1, 10))

    def step(state, batch, key):
        return jax.grad(lambda kernel: (ml.nets.conv(batch, kernel, padding="VALID") ** 2).sum())(state), {}

    once = 2.0 * len(images) * 8 * 8 * kernel.size
    assert work(step, kernel, images, contender.KEY).flops > 2 * once
    algorithm = ml.Algorithm(lambda key, batch: kernel, step)
    assert contender.work_of(algorithm, kernel, images).flops == 2 * once  # forwards, and the kernel's derivative


def test_a_loop_of_unknown_length_is_refused():
    def step(a):
        return jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ a, a)

    with pytest.raises(NotImplementedError, match="trips"):
        work(step, jnp.eye(2))


def test_the_floor_is_the_slower_of_computing_and_copying():
    bound = floor(Work(flops=0.0, bytes=2**20, piece=2**20), quick=True)
    assert bound["seconds"] == pytest.approx(2**20 / bound["copied_bytes_per_s"])
    bound = floor(Work(flops=1e12, bytes=8.0, piece=8.0), quick=True)
    assert bound["seconds"] == pytest.approx(1e12 / bound["peak_flops_per_s"])
    assert matmul_peak(64, 1) > 1e6
    assert copy_bandwidth(2**16, 1) > 1e6
