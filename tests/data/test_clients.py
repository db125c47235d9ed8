"""Partitions divide and do not lose; cohorts hold each client's own examples and nothing else."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metalearn as ml
from metalearn.core import InputError
from metalearn.data import _clients, partitions

LABELS = np.random.default_rng(1).integers(0, 10, 2_000)
KEY = jax.random.key(0)

PARTITIONS = {
    "iid": lambda seed: partitions.iid(2_000, 30, seed=seed),
    "shards": lambda seed: partitions.shards(LABELS, 30, seed=seed),
    "dirichlet 100": lambda seed: partitions.dirichlet(LABELS, 30, 100.0, seed=seed),
    "dirichlet .1": lambda seed: partitions.dirichlet(LABELS, 30, 0.1, seed=seed),
    "dirichlet 1e-6": lambda seed: partitions.dirichlet(LABELS, 400, 1e-6, min_size=3, seed=seed),
    "quantity": lambda seed: partitions.quantity(2_000, 30, 0.5, min_size=5, seed=seed),
}


@pytest.mark.parametrize("name", PARTITIONS)
def test_every_example_belongs_to_one_client(name):
    for seed in range(5):
        parts = PARTITIONS[name](seed)
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(2_000))
        assert min(len(part) for part in parts) >= (3 if name == "dirichlet 1e-6" else 1)
        again = PARTITIONS[name](seed)
        assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    other = PARTITIONS[name](9)
    assert not all(np.array_equal(a, b) for a, b in zip(parts, other, strict=True))


def _labels_of_a_client(parts):
    return np.mean([len(np.unique(LABELS[part])) for part in parts])


def test_what_each_partition_is_like():
    assert {len(part) for part in partitions.iid(2_000, 30)} == {66, 67}
    # of sorted labels a shard holds one, or two at a border
    assert max(len(np.unique(LABELS[part])) for part in partitions.shards(LABELS, 100)) <= 4
    assert _labels_of_a_client(partitions.shards(LABELS, 100)) < 2.4
    even, uneven = (partitions.dirichlet(LABELS, 30, a) for a in (1e4, 0.1))
    assert _labels_of_a_client(even) > 9.9 and _labels_of_a_client(uneven) < 6
    sizes = np.array([len(part) for part in partitions.quantity(2_000, 30, 0.5)])
    assert sizes.std() > 30
    assert _labels_of_a_client(partitions.quantity(2_000, 30, 1e4)) > 9.5


def test_dirichlet_has_the_moments_of_its_distribution():
    """Of one label, the share of one client: mean 1/K, variance (K - 1) / (K² (K c + 1))."""
    clients, c = 5, 0.7
    shares = [len(partitions.dirichlet(np.zeros(1_000, int), clients, c, seed=seed)[0]) / 1_000 for seed in range(600)]
    variance = (clients - 1) / (clients**2 * (clients * c + 1))
    assert abs(np.mean(shares) - 1 / clients) < 4 * np.sqrt(variance / 600)
    assert abs(np.var(shares) / variance - 1) < 0.25


def test_dirichlet_draws_every_label_by_itself():
    """Of two labels the shares of one client are uncorrelated, and a client lacks most labels where c is small."""
    labels = np.repeat([0, 1], 500)
    shares = []
    for seed in range(600):
        own = labels[partitions.dirichlet(labels, 5, 0.7, seed=seed)[0]]
        shares.append([(own == 0).mean() * len(own) / 500, (own == 1).mean() * len(own) / 500])
    first, second = np.array(shares).T
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(600)
    assert first.mean() == pytest.approx(1 / 5, abs=0.03)


def test_iid_clients_have_the_labels_of_all():
    """Counts of a label are hypergeometric: mean n p, variance n p (1 - p) (N - n) / (N - 1)."""
    n, share = 50, 0.3
    labels = np.arange(1_000) < 300
    counts = np.array([labels[part].sum() for seed in range(60) for part in partitions.iid(1_000, 20, seed=seed)])
    assert counts.mean() == pytest.approx(n * share)
    expected = n * share * (1 - share) * (1_000 - n) / 999
    assert counts.var() == pytest.approx(expected, rel=4 * np.sqrt(2 / len(counts)))


def test_quantity_has_the_moments_of_its_distribution():
    """Shares of all examples are Dirichlet: mean 1/K, variance (K - 1) / (K² (K c + 1))."""
    clients, c = 5, 2.0
    shares = np.array([len(partitions.quantity(2_000, clients, c, seed=seed)[0]) / 2_000 for seed in range(600)])
    variance = (clients - 1) / (clients**2 * (clients * c + 1))
    assert shares.mean() == pytest.approx(1 / clients, abs=4 * np.sqrt(variance / 600))
    assert shares.var() == pytest.approx(variance, rel=0.25)


def test_shards_are_of_one_size_and_two_to_a_client():
    labels = np.repeat(np.arange(10), 200)
    parts = partitions.shards(labels, 50)
    assert {len(part) for part in parts} == {40}  # two shards of twenty
    assert {len(np.unique(labels[part])) for part in parts} <= {1, 2}


@pytest.mark.parametrize("temperature", [0.01, *[pytest.param(t, marks=pytest.mark.slow) for t in (1.0, 100.0)]])
def test_sampling_by_size_at_any_temperature(temperature):
    """Powers of 1 / temperature overflow; the order that they stand for does not."""
    parts = np.split(np.arange(60), [10, 30])  # of 10, 20 and 30 examples
    population = ml.data.clients(np.zeros(60), np.zeros(60), parts)

    def first(temperature, key):
        return ml.data.cohort(population, 1, sampling="size", temperature=temperature)(key).id[0]

    keys = jax.random.split(KEY, 2_000)
    found = np.asarray(jax.jit(jax.vmap(first, (None, 0)))(temperature, keys))  # traced, too
    weights = np.array([10.0, 20.0, 30.0]) / 30
    expected = weights ** (1 / temperature) / (weights ** (1 / temperature)).sum()
    np.testing.assert_allclose(np.bincount(found, minlength=3) / 2_000, expected, atol=0.045)


def test_splits():
    parts = partitions.quantity(2_000, 60, 0.3, seed=2)
    learn, test = partitions.split_each(parts, 0.2, seed=1)
    for part, one, other in zip(parts, learn, test, strict=True):
        np.testing.assert_array_equal(np.sort(np.r_[one, other]), part)
        assert len(one) >= 1 and (len(part) == 1 or len(other) >= 1)
    earlier, later = partitions.split_each(parts, 0.2, ordered=True)
    for part, one, other, size in zip(parts, earlier, later, map(len, test), strict=True):
        np.testing.assert_array_equal(np.r_[one, other], part)
        assert len(other) == size
    groups = partitions.split_clients(60, (40, 5, 15))
    assert [len(g) for g in groups] == [40, 5, 15] and len(np.unique(np.concatenate(groups))) == 60


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: partitions.iid(3, 4), "3 examples are too few: 4 are needed"),
        (lambda: partitions.shards(LABELS, 1_500), "2000 examples are too few: 3000"),
        (lambda: partitions.dirichlet(LABELS, 30, 0.0), "concentration must be above 0"),
        (lambda: partitions.dirichlet(LABELS, 30, 0.1, min_size=100), "too few: 3000"),
        (lambda: partitions.iid(10, 0), "num_clients must be a whole number of at least 1"),
        (lambda: partitions.iid(0, 1), "count must be a whole number of at least 1"),
        (lambda: partitions.shards(LABELS, -3), "num_clients must be a whole number of at least 1"),
        (lambda: partitions.shards(LABELS, 3, 0), "per_client must be a whole number of at least 1"),
        (lambda: partitions.dirichlet(LABELS, 30, np.inf), "above 0 and below inf"),
        (lambda: partitions.dirichlet(LABELS, 30, np.nan), "above 0 and below inf"),
        (lambda: partitions.dirichlet(LABELS, 30, "small"), "concentration must be a number, but is 'small'"),
        (lambda: partitions.dirichlet(np.r_[LABELS, np.nan], 30, 1.0), "labels must be finite"),
        (lambda: partitions.by_group(np.array([1.0, np.nan])), "groups must be finite"),
        (lambda: partitions.dirichlet(LABELS[:, None], 30, 1.0), "labels must be one for each example"),
        (lambda: partitions.dirichlet(LABELS, 2_001, 1.0), "2000 examples are too few: 2001"),
        (lambda: partitions.quantity(10, 4, 1.0, min_size=3), "10 examples are too few: 12"),
        (lambda: partitions.by_group(np.zeros((3, 1))), "groups must be one for each example"),
        (lambda: partitions.by_group([]), "0 examples are too few"),
        (lambda: partitions.split_each([np.arange(3)], 1.0), "above 0 and below 1"),
        (lambda: partitions.split_clients(5, (4, 2)), "at most the 5 clients"),
        (lambda: partitions.split_clients(5, ()), "must be positive"),
        (lambda: ml.data.clients(np.zeros(3), np.zeros(3), []), "no client"),
        (lambda: ml.data.clients(np.zeros(3), np.zeros(2), [np.array([2])]), "have 3 and 2"),
        (lambda: ml.data.clients(np.zeros(3), np.zeros(3), [np.array([-1])]), "found -1"),
        (lambda: ml.data.clients(np.zeros(3), np.zeros(3), [np.array([1.5])]), "integer numbers of examples"),
        (
            lambda: ml.data.clients(np.zeros(3), np.zeros(3), [np.arange(2), np.array([], int)]),
            "client 1 has no example",
        ),
        (lambda: ml.data.clients(np.zeros(3), np.zeros(3), [np.array([3])]), "found 3"),
        (lambda: ml.data.clients(np.zeros(3), np.zeros(3), [np.array([[0, 1]])]), "one vector of examples' numbers"),
        (lambda: ml.data.cohort(_population(), 31), "a cohort of 31 is more than the 30 clients"),
        (lambda: ml.data.cohort(_population(), 3, sampling="randomly"), "sampling must be"),
        (lambda: ml.data.cohort(_population(), 0), "size must be a whole number of at least 1"),
        (lambda: ml.data.cohort(_population(), 3, sampling="poisson"), "rate is the chance"),
        (lambda: ml.data.cohort(_population(), 3, rate=0.5), "rate is the chance"),
        (lambda: ml.data.cohort(_population(), 3, temperature=2.0), "temperature is of sampling='size'"),
        (lambda: ml.data.cohort(_population(), 3, sampling="size", temperature=0.0), "temperature must be above 0"),
        *(
            (lambda rate=rate: ml.data.cohort(_population(), 3, sampling="poisson", rate=rate), "rate must be above 0")
            for rate in (0.0, -0.1, 1.01, np.nan)
        ),
        *(
            (lambda chance=chance: ml.data.cohort(_population(), 3, dropout=chance), "dropout must be at least 0")
            for chance in (1.0, -0.1, np.nan)
        ),
        (lambda: ml.data.cohort(_population(), 3, max_examples=0), "max_examples must be"),
        (lambda: ml.data.cohort(_population(), 3, query=_population("iid 7")), "query has 7 clients"),
        (lambda: ml.data.everyone(_population(), _population("iid 7")), "query has 7 clients"),
        (lambda: ml.data.padding(_population(), chunk=0), "chunk must be a whole number"),
        (lambda: ml.data.padding(_population(), chunk=2, size=31), "a cohort of 31 is more than the 30"),
        (lambda: ml.data.padding(_population(), max_examples=0), "max_examples must be a whole number"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises(InputError, match=said) as error:
        call()
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_the_ends_of_the_ranges_are_fine():
    everybody = ml.data.cohort(_population(), 30, sampling="poisson", rate=1.0, dropout=0.0, max_examples=1)
    assert everybody(KEY).support.mask.sum() == 30
    chances = jnp.array([0.0, 0.999])  # and traced ones, which nobody can check
    present = jax.vmap(lambda p: ml.data.cohort(_population(), 30, dropout=p, max_examples=1)(KEY).support.mask.sum())
    np.testing.assert_array_equal(present(chances) > 29, [True, False])


def test_as_many_clients_as_examples_end_soon():
    began = time.monotonic()
    parts = ml.data.partitions.dirichlet(np.zeros(40_000, int), 20_000, 1e-6, min_size=2)
    assert {len(part) for part in parts} == {2} and time.monotonic() - began < 5


def test_halves_keep_the_order_of_their_part():
    learn, tests = ml.data.partitions.split_each([np.arange(50, 0, -1), np.array([3, 9])], 0.3, seed=1)
    assert len(tests[0]) == 15 and sorted([*learn[0], *tests[0]]) == list(range(1, 51))
    assert all((np.diff(half) < 0).all() for half in (learn[0], tests[0]))


def test_a_tiny_concentration_with_many_clients_ends_soon():
    start = time.process_time()
    parts = partitions.dirichlet(np.arange(60_000) % 10, 1_000, 1e-6, min_size=10)
    assert time.process_time() - start < 10
    assert min(map(len, parts)) == 10 and len(np.unique(np.concatenate(parts))) == 60_000


@pytest.mark.parametrize("label", [pytest.param(0, marks=pytest.mark.slow), 9])
def test_a_client_with_one_class_learns_it(label):
    model = ml.from_linen(ml.nets.MLP([10]))
    client = ml.gradient_learner(model, ml.cross_entropy, optax.sgd(0.5), num_epochs=3, batch_size=4)
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    population = ml.data.clients(x, np.repeat([label, 4], 20).astype(np.int32), [np.arange(20), np.arange(20, 40)])
    task = jax.tree.map(lambda a: a[0], ml.data.everyone(population))
    fitted = client.adapt(client.init(KEY, task), task.support, KEY)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(fitted.params))
    np.testing.assert_array_equal(client.predict(fitted, task.support.x).argmax(-1), label)


def _population(name="quantity"):
    """Every x is its own number, so that it tells whose it is."""
    parts = partitions.iid(2_000, 7) if name == "iid 7" else PARTITIONS[name](0)
    return ml.data.clients(np.arange(2_000.0)[:, None], LABELS.astype(np.int32), parts)


def test_a_cohort_holds_the_examples_of_its_clients():
    parts, population = PARTITIONS["quantity"](0), _population()
    _, test = partitions.split_each(parts, 0.3)
    query = ml.data.clients(np.arange(2_000.0)[:, None], LABELS.astype(np.int32), test)
    sample = jax.jit(ml.data.cohort(population, 8, query=query))
    for seed in range(3):
        tasks = jax.tree.map(np.asarray, sample(jax.random.key(seed)))
        assert len(np.unique(tasks.id)) == 8
        for i, k in enumerate(np.asarray(tasks.id)):
            for batch, of in ((tasks.support, parts), (tasks.query, test)):
                real = np.asarray(batch.mask[i]) > 0
                np.testing.assert_array_equal(np.sort(batch.x[i, real, 0]), np.sort(of[k]))
                np.testing.assert_array_equal(batch.y[i], LABELS[np.asarray(batch.x[i, :, 0], int)])
                assert set(np.asarray(batch.x[i, ~real, 0], int)) <= set(of[k].tolist())  # padding is its own too
    sizes = np.array([len(part) for part in parts])
    assert ml.data.padding(population) == pytest.approx(1 - sizes.mean() / sizes.max())
    everyone = ml.data.everyone(population)
    np.testing.assert_array_equal(everyone.support.mask.sum(1), sizes)


def test_a_large_client_shows_a_random_part():
    population, parts = _population(), PARTITIONS["quantity"](0)
    sample, seen, shows = jax.jit(ml.data.cohort(population, 30, max_examples=10)), {}, []
    largest = max(range(30), key=lambda k: len(parts[k]))
    for seed in range(60):
        tasks = jax.tree.map(np.asarray, sample(jax.random.key(seed)))
        for i, k in enumerate(np.asarray(tasks.id)):
            real = np.asarray(tasks.support.x[i, np.asarray(tasks.support.mask[i]) > 0, 0], int)
            assert len(set(real.tolist())) == len(real) == min(10, len(parts[k]))
            seen.setdefault(int(k), set()).update(real.tolist())
            if k == largest:
                shows.append(real)
    assert len(seen[largest]) > 0.7 * len(parts[largest])
    # a client's examples lie in order, such as shards of one label: what it shows is from all over
    spread = [np.ptp(np.searchsorted(np.sort(parts[largest]), shown)) for shown in shows]
    assert np.median(spread) > 0.7 * len(parts[largest])


@pytest.mark.parametrize("max_examples", [None, 40])
@pytest.mark.parametrize("options", [{}, {"sampling": "poisson", "rate": 0.4, "dropout": 0.2}])
def test_the_order_of_size_is_all_that_by_size_changes(max_examples, options):
    population, parts = _population(), PARTITIONS["quantity"](0)
    options = {"query": population, "max_examples": max_examples, **options}
    plain, ordered = (jax.jit(ml.data.cohort(population, 12, by_size=by, **options)) for by in (False, True))
    for seed in range(4):
        one, other = (jax.tree.map(np.asarray, sample(jax.random.key(seed))) for sample in (plain, ordered))
        shown = other.support.mask.sum(1)
        assert (np.diff(shown) <= 0).all() and not (np.diff(one.support.mask.sum(1)) <= 0).all()
        whole = np.minimum([len(parts[k]) for k in other.id], max_examples or np.inf)
        assert ((shown == whole) | (shown == 0)).all()
        place = np.argsort(one.id)[np.searchsorted(one.id, other.id, sorter=np.argsort(one.id))]
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda a, place=place: a[place], one), other)


def test_padding_in_chunks():
    sizes = [7, 1, 4, 2, 5]
    parts = np.split(np.arange(19), np.cumsum(sizes)[:-1])
    population = ml.data.clients(np.zeros(19), np.zeros(19), parts)
    assert ml.data.padding(population) == pytest.approx(1 - 19 / 35)
    assert ml.data.padding(population, chunk=2) == pytest.approx(1 - 19 / (7 + 7 + 4 + 4 + 1))  # 7 5 | 4 2 | 1
    assert ml.data.padding(population, 4, chunk=3) == pytest.approx(1 - 15 / (4 + 4 + 4 + 2 + 2))  # 4 4 4 | 2 1
    assert ml.data.padding(population, chunk=1) == pytest.approx(0, abs=1e-9)
    assert ml.data.padding(population, chunk=99) == pytest.approx(ml.data.padding(population))
    for chunk in (1, 2, 3):  # all cohorts of three
        cohorts = [sorted(some, reverse=True) for some in itertools.combinations(sizes, 3)]
        rows = sum(sum(len(some[i : i + chunk]) * some[i] for i in range(0, 3, chunk)) for some in cohorts)
        expected = 1 - sum(map(sum, cohorts)) / rows
        assert ml.data.padding(population, chunk=chunk, size=3) == pytest.approx(expected, abs=1e-9)
    wastes = [ml.data.padding(_population(), chunk=chunk) for chunk in (1, 2, 5, 15, 30)]
    assert (np.diff(wastes) > 0).all()


def test_a_cohort_wastes_as_much_as_padding_says():
    """What is padded when each chunk of a cohort is cut to its largest client, counted over cohorts."""
    population = ml.data.clients(np.zeros(2_000), np.zeros(2_000), partitions.quantity(2_000, 100, 1.0))
    sample = ml.data.cohort(population, 20, by_size=True)
    masks = jax.jit(lambda keys: jax.lax.map(lambda key: sample(key).support.mask, keys))(jax.random.split(KEY, 200))
    shown = np.asarray(masks).sum(-1)
    rows = np.repeat(shown[:, ::4], 4, 1)
    assert abs(1 - shown.sum() / rows.sum() - ml.data.padding(population, chunk=4, size=20)) < 0.02
    whole = np.full_like(shown, masks.shape[-1])
    assert abs(1 - shown.sum() / whole.sum() - ml.data.padding(population)) < 0.02


def _counts(rounds=400, size=6, **options):
    sample = ml.data.cohort(_population(), size, max_examples=1, **options)
    ids, mask = jax.jit(lambda keys: jax.lax.map(lambda key: _who(sample(key)), keys))(jax.random.split(KEY, rounds))
    present = np.asarray(mask.sum(-1)) > 0
    return np.bincount(np.asarray(ids)[present], minlength=30), present


def _who(tasks):
    mask = tasks.support.mask
    return tasks.id, jnp.ones((len(tasks.id), 1)) if mask is None else mask  # no mask: everybody is there


def test_sampling():
    sizes = np.array([len(part) for part in PARTITIONS["quantity"](0)])
    uniform, _ = _counts()
    assert uniform.sum() == 2_400 and uniform.min() > 40 and uniform.max() < 130
    first, _ = _counts(rounds=3_000, size=1, sampling="size")
    np.testing.assert_allclose(first / 3_000, sizes / sizes.sum(), atol=4 * np.sqrt(0.25 / 3_000))
    warm, _ = _counts(rounds=3_000, size=1, sampling="size", temperature=3.0)
    flat = sizes ** (1 / 3)
    np.testing.assert_allclose(warm / 3_000, flat / flat.sum(), atol=4 * np.sqrt(0.25 / 3_000))
    assert np.abs(warm / 3_000 - sizes / sizes.sum()).max() > 0.05
    _, present = _counts(size=30, sampling="poisson", rate=0.2)
    assert abs(present.sum(1).mean() - 6) < 0.5 and abs(present.sum(1).var() - 30 * 0.2 * 0.8) < 1.5
    _, present = _counts(dropout=0.25)
    assert abs(present.mean() - 0.75) < 0.04


@pytest.mark.slow
def test_who_dropped_out_changes_nothing():
    model = ml.from_linen(ml.nets.MLP([10]))
    client = ml.gradient_learner(model, ml.cross_entropy, optax.sgd(0.1), num_epochs=1, batch_size=8)
    algorithm = ml.over_tasks(client.init, ml.difference(client.adapt), ml.weighted_mean(), optax.sgd(1.0))
    tasks = ml.data.cohort(_population(), 4)(KEY)
    gone = tasks._replace(support=tasks.support._replace(mask=tasks.support.mask.at[1:3].set(0)))
    left = jax.tree.map(lambda a: a[jnp.array([0, 3])], tasks)
    state = algorithm.init(KEY, tasks)
    one, other = (jax.jit(algorithm.step)(state, batch, KEY)[0].params for batch in (gone, left))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_million_clients():
    population = ml.data.clients(
        np.zeros((1_000_000, 1), np.uint8), np.zeros(1_000_000, np.int32), list(np.arange(1_000_000).reshape(-1, 1))
    )
    tasks = jax.jit(ml.data.cohort(population, 1_000))(KEY)
    assert len(np.unique(tasks.id)) == 1_000


def _like_them(observed, expected):
    """Pearson's statistic within six of its standard deviations of what chance alone makes it."""
    statistic = ((observed - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    assert abs(statistic - freedom) < 6 * np.sqrt(2 * freedom), statistic


def test_draws_without_repetition_are_those_of_sampling_one_after_another():
    """All ordered triples of five, and pairs of four drawn in proportion to weights, against their exact chances."""
    keys = jax.random.split(KEY, 60_000)

    def triple(key):
        return _clients._distinct(lambda key: jax.random.randint(key, (3,), 0, 5), key)

    drawn = np.asarray(jax.jit(jax.vmap(triple))(keys))
    triples = list(itertools.permutations(range(5), 3))
    codes = np.array([25 * a + 5 * b + c for a, b, c in triples])
    observed = np.bincount(drawn @ np.array([25, 5, 1]), minlength=125)
    assert observed[codes].sum() == 60_000  # nobody twice
    _like_them(observed[codes], np.full(60, 1_000.0))

    weights = np.array([1, 2, 3, 6])
    ends = jnp.cumsum(jnp.asarray(weights))

    def pair(key):
        return _clients._distinct(
            lambda key: jnp.searchsorted(ends, jax.random.randint(key, (2,), 0, 12), "right"), key
        )

    drawn = np.sort(np.asarray(jax.jit(jax.vmap(pair))(keys)), -1)
    share = weights / 12
    pairs = list(itertools.combinations(range(4), 2))
    chances = np.array([share[a] * share[b] * (1 / (1 - share[a]) + 1 / (1 - share[b])) for a, b in pairs])
    observed = np.bincount(drawn @ np.array([4, 1]), minlength=16)[[4 * a + b for a, b in pairs]]
    _like_them(observed, 60_000 * chances)


def _many():
    """20,000 clients of one to three examples, every x its own number."""
    sizes = 1 + np.arange(20_000) % 3
    parts = np.split(np.random.default_rng(0).permutation(sizes.sum()), np.cumsum(sizes)[:-1])
    x = np.arange(sizes.sum())
    return ml.data.clients(x, x, parts), sizes, parts


@pytest.mark.parametrize("sampling", ["uniform", "size", "poisson"])
def test_large_populations_are_sampled_alike_without_a_score_for_everybody(sampling):
    population, sizes, parts = _many()
    options = {"sampling": sampling, "rate": 4.5e-3 if sampling == "poisson" else None}
    sample = ml.data.cohort(population, 100, **options)
    text = str(jax.make_jaxpr(sample)(KEY))
    assert "top_k" not in text and "threefry2x32[20000]" not in text and "while" in text
    keys = jax.random.split(KEY, 600)
    tasks = jax.tree.map(np.asarray, jax.jit(lambda keys: jax.lax.map(sample, keys))(keys))
    ids, present = tasks.id, tasks.support.mask.sum(-1) > 0
    assert (np.diff(np.sort(ids, -1), axis=-1) > 0).all()
    for i in range(3):  # and they come with their own examples
        real = tasks.support.mask[0, i] > 0
        assert set(tasks.support.x[0, i, real].tolist()) == (set(parts[ids[0, i]].tolist()) if present[0, i] else set())
    expected = sizes / sizes.sum() if sampling == "size" else np.full(20_000, 1 / 20_000)
    groups = np.arange(20_000) * 7 // 20_000 * 3 + sizes - 1  # by place and by size
    observed = np.bincount(groups[ids[present]], minlength=21)
    _like_them(observed, present.sum() * np.bincount(groups, expected))
    if sampling == "poisson":  # 90 of 100 places on average, and no more than 100
        number = np.minimum(np.random.default_rng(0).binomial(20_000, 4.5e-3, 100_000), 100)
        assert abs(present.sum(1).mean() - number.mean()) < 6 * number.std() / np.sqrt(600)
        assert abs(present.sum(1).std() / number.std() - 1) < 6 / np.sqrt(2 * 600)
    together = jax.vmap(sample)(keys[:3])  # seeds trained together draw what each draws alone
    np.testing.assert_array_equal(together.id, ids[:3])


def test_who_is_drawn_by_scores():
    """Small populations, so that no run of them changes; large parts of a population; what only a trace knows."""
    population = _many()[0]
    scores = lambda *arguments: not _clients._draws_suffice(*arguments)  # noqa: E731
    assert scores(_population(), 3, "uniform", None)
    assert scores(population, 2_501, "uniform", None) and not scores(population, 2_500, "uniform", None)
    assert scores(population, 2_000, "size", None) and not scores(population, 1_600, "size", None)
    rates = jnp.array([1e-3, 0.9])
    present = jax.vmap(lambda p: ml.data.cohort(population, 100, sampling="poisson", rate=p)(KEY).support.mask.sum())
    assert (np.asarray(present(rates)) > 150).tolist() == [False, True]
    chance = jax.random.uniform(jax.random.split(KEY, 3)[0], (30,), minval=1e-12)
    np.testing.assert_array_equal(ml.data.cohort(_population(), 4)(KEY).id, np.argsort(chance)[:4])


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}, {"sampling": "poisson", "rate": 0.5}])
def test_there_is_no_mask_where_every_row_must_be_a_real_example(options):
    equal = ml.data.clients(np.zeros((12, 2)), np.zeros(12), np.arange(12).reshape(4, 3))
    uneven = ml.data.clients(np.zeros((12, 2)), np.zeros(12), [np.arange(5), np.arange(7)])
    assert (ml.data.cohort(equal, 2, **options)(KEY).support.mask is None) == (not options)
    assert ml.data.cohort(uneven, 2, **options)(KEY).support.mask is not None
    assert (ml.data.cohort(uneven, 2, max_examples=5, **options)(KEY).support.mask is None) == (not options)
