import jax
import numpy as np
import pytest

from metalearn.core import InputError
from metalearn.data import batched, lines_and_sines, sinusoid


def fit(columns, y):
    """Least squares: coefficients and the largest residual."""
    coefficients = np.linalg.lstsq(columns, y, rcond=None)[0]
    return coefficients, np.abs(columns @ coefficients - y).max()


def test_sinusoids_are_sine_waves_in_their_ranges():
    tasks = jax.jit(batched(sinusoid(5, 20), 2000))(jax.random.key(0))
    x = np.concatenate([tasks.support.x, tasks.query.x], 1)[..., 0].astype(float)
    y = np.concatenate([tasks.support.y, tasks.query.y], 1)[..., 0].astype(float)
    assert tasks.support.x.shape == tasks.support.y.shape == (2000, 5, 1)
    assert tasks.query.y.shape == (2000, 20, 1)
    amplitudes, phases = [], []
    for k in range(2000):  # A sin(x - p) = A cos(p) sin(x) - A sin(p) cos(x)
        (a, b), residual = fit(np.stack([np.sin(x[k]), -np.cos(x[k])], 1), y[k])
        assert residual < 1e-4
        amplitudes.append(np.hypot(a, b))
        phases.append(np.arctan2(b, a))
    for values, low, high in [(amplitudes, 0.1, 5), (phases, 0, np.pi), (x, -5, 5)]:
        values, width = np.ravel(values), high - low
        assert values.min() > low - 1e-3
        assert values.max() < high + 1e-3
        assert abs(values.mean() - (low + high) / 2) < 0.03 * width
        assert abs(values.std() - width / 12**0.5) < 0.02 * width


def test_lines_and_sines_are_half_of_each_with_noise():
    tasks = batched(lines_and_sines(40, 40), 1000)(jax.random.key(0))
    noiseless = batched(lines_and_sines(40, 40, noise=0.0), 1000)(jax.random.key(0))
    x, y = (np.asarray(a)[..., 0].astype(float) for a in noiseless.support[:2])
    noise = np.concatenate([tasks.support.y - noiseless.support.y, tasks.query.y - noiseless.query.y], 1)
    assert abs(noise.std() - 0.3) < 0.005
    assert abs(noise.mean()) < 0.005
    lines, sines = [], []
    for k in range(1000):
        line, line_residual = fit(np.stack([x[k], np.ones(40)], 1), y[k])
        sine, sine_residual = fit(np.stack([np.sin(x[k]), -np.cos(x[k])], 1), y[k])
        assert min(line_residual, sine_residual) < 1e-4
        if line_residual < sine_residual:
            lines.append(line)
        else:
            sines.append((np.hypot(*sine), np.arctan2(sine[1], sine[0])))
    assert abs(len(lines) - 500) < 80
    lines, sines = np.array(lines), np.array(sines)
    assert np.abs(lines).max() < 3.001
    assert (np.abs(lines).max(0) > 2.9).all()
    np.testing.assert_allclose(sines.min(0), [0.1, 0], atol=0.1)
    np.testing.assert_allclose(sines.max(0), [5, np.pi], atol=0.1)


@pytest.mark.parametrize("family", [sinusoid, lines_and_sines])
def test_more_queries_leave_the_support_as_it_was(family):
    few, many = (family(5, num_query)(jax.random.key(3)) for num_query in (1, 50))
    jax.tree.map(np.testing.assert_array_equal, few.support, many.support)
    np.testing.assert_array_equal(few.query.x, many.query.x[:1])


@pytest.mark.parametrize("family", [sinusoid, lines_and_sines])
def test_jit_changes_nothing_and_ranges_may_be_traced(family):
    plain, jitted = family()(jax.random.key(1)), jax.jit(family())(jax.random.key(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, jitted)
    small = jax.vmap(lambda top: family(x_range=(0.0, top))(jax.random.key(1)).support.x)(np.array([0.5, 1.0]))
    np.testing.assert_allclose(small[1], 2 * small[0], rtol=1e-6)


@pytest.mark.parametrize("family", [sinusoid, lines_and_sines])
@pytest.mark.parametrize("argument", ["num_support", "num_query"])
def test_counts_are_checked(family, argument):
    with pytest.raises(InputError, match=f"{argument} must be a whole number of at least 1, but is 0"):
        family(**{argument: 0})


def test_batched_tasks_go_by_their_id():
    sample = sinusoid()
    small, large = batched(sample, 3)(jax.random.key(9)), batched(sample, 7)(jax.random.key(9))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:3]), small, large)
    np.testing.assert_array_equal(large.id, np.arange(7, dtype=np.int32))
    single = sample(jax.random.fold_in(jax.random.key(9), 2))
    np.testing.assert_allclose(single.support.y, small.support.y[2], atol=1e-5)
    with pytest.raises(InputError, match="num_tasks"):
        batched(sample, 0)
