"""Every metric that scikit-learn has, equal to it on random data, with a mask and without, in batches and at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as sk
from _toys import float64

from metalearn import metrics as mt
from metalearn.core import Batch, InputError

R = np.random.RandomState(0)
N, C, L = 60, 4, 5
LOGITS, LABELS = R.randn(N, C), R.randint(0, C, N)
SAID = LOGITS.argmax(1)
NUMBERS, TARGETS = R.randn(N, 3), R.randn(N, 3)
MANY, TRUE = R.randn(N, L), (R.rand(N, L) < 0.4).astype(int)
TIES = MANY.round(0)
MASK = (R.rand(N) < 0.7).astype(float)
KEPT = MASK > 0


def average(name):
    return None if name == "none" else name


def of_labels(name, how, z, y):
    return getattr(sk, f"{name}_score")(y, z.argmax(1), average=average(how), labels=range(C))


CASES = {
    "accuracy": (mt.accuracy, LOGITS, LABELS, lambda z, y: sk.accuracy_score(y, z.argmax(1))),
    **{
        f"{name}, {how}": (
            getattr(mt, name)(how), LOGITS, LABELS, functools.partial(of_labels, name, how),
        )
        for name in ("precision", "recall", "f1")
        for how in ("macro", "micro", "none")
    },
    "mean_iou": (
        mt.mean_iou(), LOGITS, LABELS, lambda z, y: sk.jaccard_score(y, z.argmax(1), average="macro", labels=range(C))
    ),
    "mse": (mt.mse, NUMBERS, TARGETS, lambda z, y: sk.mean_squared_error(y, z)),
    "rmse": (mt.rmse, NUMBERS, TARGETS, lambda z, y: np.sqrt(sk.mean_squared_error(y, z))),
    "mae": (mt.mae, NUMBERS, TARGETS, lambda z, y: sk.mean_absolute_error(y, z)),
    "msle": (mt.msle, abs(NUMBERS), abs(TARGETS), lambda z, y: sk.mean_squared_log_error(y, z)),
    "rmsle": (mt.rmsle, abs(NUMBERS), abs(TARGETS), lambda z, y: np.sqrt(sk.mean_squared_log_error(y, z))),
    "r2": (mt.r2, NUMBERS, TARGETS, lambda z, y: sk.r2_score(y, z)),
    "r2, far from zero": (mt.r2, NUMBERS + 30, TARGETS + 30, lambda z, y: sk.r2_score(y, z)),
    "max_error": (mt.max_error, NUMBERS[:, 0], TARGETS[:, 0], lambda z, y: sk.max_error(y, z)),
    "hamming": (mt.hamming, MANY, TRUE, lambda z, y: sk.hamming_loss(y, z > 0)),
    "jaccard": (mt.jaccard, MANY, TRUE, lambda z, y: sk.jaccard_score(y, z > 0, average="samples", zero_division=0)),
    "micro_f1": (mt.micro_f1, MANY, TRUE, lambda z, y: sk.f1_score(y, z > 0, average="micro")),
    "macro_f1": (mt.macro_f1, MANY, TRUE, lambda z, y: sk.f1_score(y, z > 0, average="macro")),
    **{
        f"{name}{', ties' if scores is TIES else ''}": (
            getattr(mt, name), scores[:, 0], TRUE[:, 0], lambda z, y, theirs=theirs: theirs(y, z),
        )
        for name, theirs in (("roc_auc", sk.roc_auc_score), ("average_precision", sk.average_precision_score))
        for scores in (MANY, TIES)
    },
    "mean_roc_auc": (mt.mean_roc_auc, TIES, TRUE, lambda z, y: sk.roc_auc_score(y, z, average="macro")),
    "mean_average_precision": (
        mt.mean_average_precision, TIES, TRUE, lambda z, y: sk.average_precision_score(y, z, average="macro")
    ),
}  # fmt: skip
FAST = ("f1, macro", "r2", "jaccard", "roc_auc, ties")
PRECISIONS = pytest.mark.parametrize(
    ("double", "tolerance"), [(True, 1e-6), pytest.param(False, 1e-4, marks=pytest.mark.slow)]
)


@PRECISIONS
@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_streaming_metrics(name, double, tolerance):
    metric, outputs, targets, reference = CASES[name]
    with float64(double):
        z, y = jnp.asarray(outputs, float), jnp.asarray(targets)
        y = y if jnp.issubdtype(y.dtype, jnp.integer) else y.astype(float)
        found = jax.jit(metric)(z, Batch(None, y))
        np.testing.assert_allclose(found, reference(outputs, targets), rtol=tolerance, atol=tolerance)
        spoiled = z.at[jnp.asarray(~KEPT)].set(jnp.nan)  # what is not real counts for nothing, whatever it is
        masked = jax.jit(metric)(spoiled, Batch(None, y, jnp.asarray(MASK)))
        np.testing.assert_allclose(masked, reference(outputs[KEPT], targets[KEPT]), rtol=tolerance, atol=tolerance)
        sums = [
            metric.each(z[a : a + 25], Batch(None, y[a : a + 25], jnp.asarray(MASK[a : a + 25]))) for a in (0, 25, 50)
        ]
        total = functools.reduce(metric.merge, sums)
        np.testing.assert_allclose(metric.finish(total), masked, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("around", "apart", "spread"), [(1e3, 2.0, 0.1), (100.0, 0.3, 1.0), (-1e4, 50.0, 1.0)])
def test_r2_streams_in_single_precision_whatever_lies_between_batches(around, apart, spread):
    random = np.random.RandomState(1)
    y = np.float32(around + apart * np.arange(3)[:, None] + spread * random.randn(3, 500))
    z = np.float32(y + 5 * spread * random.randn(3, 500))
    parts = [mt.r2.each(jnp.asarray(a), Batch(None, jnp.asarray(b))) for a, b in zip(z, y)]
    expected = sk.r2_score(y.astype(float).ravel(), z.astype(float).ravel())
    np.testing.assert_allclose(mt.r2.finish(functools.reduce(mt.r2.merge, parts)), expected, rtol=1e-4, atol=1e-4)


def test_overlap_of_boxes_is_that_of_the_cells_they_cover():
    corners = np.sort(R.randint(0, 8, (9, 2, 2)), 1).reshape(9, 4)  # left, top, right, bottom; some are empty
    cells = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1).reshape(-1, 1, 2)
    inside = ((cells >= corners[:, :2]) & (cells < corners[:, 2:])).all(-1).astype(int)  # [cells, boxes]
    common = inside.T @ inside
    union = inside.sum(0)[:, None] + inside.sum(0) - common
    expected = common / np.maximum(union, 1)
    assert (np.diag(expected) == 0).any() and ((expected > 0) & (expected < 1)).any()
    boxes = jnp.asarray(corners, jnp.float32)
    np.testing.assert_allclose(jax.jit(mt.box_iou)(boxes[:4], boxes), expected[:4], rtol=1e-6)


def test_mean_rank_counts_who_is_better():
    values = R.randint(0, 4, (6, 5)).astype(float)  # with ties
    better = [True, False, True, True, False]
    expected = np.zeros(6)
    for column, higher in zip(values.T, better, strict=True):
        for method, own in enumerate(column):
            ahead = (column > own if higher else column < own).sum()
            expected[method] += (1 + ahead + ((column == own).sum() - 1) / 2) / 5  # equals share their ranks
    np.testing.assert_allclose(mt.mean_rank(values, better), expected)


def test_an_r2_of_constants():
    ones = jnp.ones(4)
    assert float(mt.r2(ones, Batch(None, ones))) == 1.0
    assert float(mt.r2(2 * ones, Batch(None, ones))) == 0.0
    tenths = jnp.full(7, 0.1)  # whose mean is not quite .1
    assert float(mt.r2(2 * tenths, Batch(None, tenths))) == 0.0


def test_no_example_at_all():
    nobody = Batch(None, jnp.zeros(3), jnp.zeros(3))
    assert all(float(metric(jnp.ones(3), nobody)) == 0 for metric in (mt.mse, mt.rmse, mt.mae))
    assert float(mt.accuracy(jnp.ones((3, 2)), Batch(None, jnp.zeros(3, int), jnp.zeros(3)))) == 0
    assert np.isnan(mt.roc_auc(jnp.ones(3), Batch(None, jnp.ones(3))))
    assert float(mt.average_precision(jnp.ones(3), Batch(None, jnp.zeros(3)))) == 0


@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_a_class_that_is_neither_there_nor_predicted_is_left_out(name):
    z = LOGITS - 9 * (np.arange(C) == 2)
    y = np.where(LABELS == 2, 1, LABELS)
    theirs = getattr(sk, f"{name}_score")(y, z.argmax(1), average="macro")
    np.testing.assert_allclose(getattr(mt, name)()(jnp.asarray(z), Batch(None, jnp.asarray(y))), theirs, rtol=1e-5)


_LABELLED = {"accuracy": mt.accuracy, "f1": mt.f1(), "recall": mt.recall("micro"), "mean_iou": mt.mean_iou()}


@pytest.mark.parametrize("name", [*_LABELLED, *(n for n in CASES if n in vars(mt))])
def test_an_output_that_is_no_number_has_no_score(name):
    metric = _LABELLED.get(name) or CASES[name][0]
    outputs, targets = (LOGITS, LABELS) if name in _LABELLED else CASES[name][1:3]
    spoiled = jnp.asarray(outputs).at[3].set(jnp.nan)
    assert np.isnan(metric(spoiled, Batch(None, jnp.asarray(targets))))
    everybody_else = jnp.ones(N).at[3].set(0)
    assert np.isfinite(metric(spoiled, Batch(None, jnp.asarray(targets), everybody_else)))


@pytest.mark.parametrize("name", _LABELLED)
@pytest.mark.parametrize("label", [-1, C])
def test_a_label_that_is_no_class_has_no_score(name, label):
    y = jnp.asarray(LABELS).at[3].set(label)
    assert np.isnan(_LABELLED[name](jnp.asarray(LOGITS), Batch(None, y)))


def test_segmentation_counts_places():
    z, y = R.randn(2, 3, 4, C), R.randint(0, C, (2, 3, 4))
    expected = sk.jaccard_score(y.ravel(), z.argmax(-1).ravel(), average=None, labels=range(C))
    found = mt.mean_iou("none")(jnp.asarray(z, jnp.float32), Batch(None, jnp.asarray(y)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mt.mse(jnp.zeros((3, 1)), Batch(None, jnp.zeros(3))), "one shape"),
        (lambda: mt.accuracy(jnp.zeros((3, 2)), Batch(None, jnp.zeros(3))), "integer labels"),
        (lambda: mt.precision("weighted"), "macro, micro, none"),
        (lambda: mt.roc_auc(jnp.zeros((3, 2)), Batch(None, jnp.zeros((3, 2)))), r"\[n\]"),
        (lambda: mt.mean_average_precision(jnp.zeros(3), Batch(None, jnp.zeros(3))), r"\[n, C\]"),
        (lambda: mt.hamming(jnp.zeros(3), Batch(None, jnp.zeros(3))), r"\[n, L\]"),
        (lambda: mt.box_iou(jnp.zeros((3, 3)), jnp.zeros((3, 4))), "boxes"),
        (lambda: mt.task_gains(np.ones(2), np.zeros(2), [True, True]), "which is 0"),
        (lambda: mt.task_gains(np.ones(3), np.ones(2), [True, True]), "2 values"),
        (lambda: mt.mean_rank(np.ones(3), [True]), r"\[M, 1\]"),
        (lambda: mt.adaptation_time(np.ones(1)), "curve"),
        (lambda: mt.adaptation_time(np.ones(3), 1.5), "share must be"),
        (lambda: mt.adaptation_efficiency(np.ones(3), 0), "at least 1"),
        (lambda: mt.meta_accuracy(np.ones((2, 2, 2))), r"\[K\]"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_adaptation_of_many_tasks():
    curves = np.array([[0.0, 0.5, 0.96, 1.0], [4.0, 1.0, 0.1, 0.0], [0.5, 0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(mt.adaptation_time(curves), [2, 2, 0])
    assert np.isnan(mt.adaptation_time(np.array([0.1, 0.5, np.nan])))
    np.testing.assert_allclose(mt.adaptation_time(curves, 0.5, seconds_per_step=0.1), [0.1, 0.1, 0.0])
    np.testing.assert_allclose(mt.adaptation_efficiency(curves, 5), [1 / 15, -4 / 15, 0])
    assert mt.meta_accuracy(curves) == 0.5 and mt.meta_loss(np.array([1.0, 3.0])) == 2.0


def test_gains_are_positive_where_learning_together_is_better():
    together, alone = np.array([[0.9, 2.0], [0.7, 3.0]]), np.array([0.8, 2.5])
    np.testing.assert_allclose(mt.multi_task_gain(together, alone, [True, False]), [16.25, -16.25])
    np.testing.assert_allclose(mt.negative_transfer(together, alone, [True, False]), [[0, 0], [12.5, 20]])


def test_r2_of_numbers_far_from_zero_in_single_precision():
    y = jnp.array([1000.0, 1001.0, 1002.0, 1003.0])
    np.testing.assert_allclose(mt.r2(y + 0.1, Batch(None, y)), sk.r2_score(y, y + 0.1), rtol=1e-4)
    many = jnp.asarray(1e5 + R.randn(5000), jnp.float32)
    np.testing.assert_allclose(mt.r2(many + 0.5, Batch(None, many)), sk.r2_score(many, many + 0.5), rtol=1e-3)
    assert float(mt.r2(many * 0 + 1e5 + 1, Batch(None, many * 0 + 1e5))) == 0.0


@pytest.mark.parametrize("name", ["mse", "rmse", "mae", "max_error", "r2", "msle"])
def test_whole_numbers_without_a_sign_do_not_wrap_round(name):
    z, y = R.randint(0, 255, (2, 20, 1)).astype(np.uint8)
    found = getattr(mt, name)(jnp.asarray(z), Batch(None, jnp.asarray(y)))
    expected = getattr(mt, name)(jnp.asarray(z, jnp.float32), Batch(None, jnp.asarray(y, jnp.float32)))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_r2_of_nobody_is_no_perfect_score():
    batch = Batch(None, jnp.ones((4, 1)), jnp.zeros(4))
    assert float(mt.r2(jnp.ones((4, 1)), batch)) == 0
