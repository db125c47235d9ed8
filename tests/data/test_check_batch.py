import jax
import numpy as np
import pytest

from metalearn.core import InputError
from metalearn.data import check_batch

LIKE = jax.ShapeDtypeStruct((25, 4, 4, 1), np.float32)
X = np.zeros((6, 4, 4, 1), np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])


def bad(index, value):
    x = X.copy()
    x[index] = value
    return x


def test_good_batches_pass_unchanged():
    batch = check_batch(X, Y.tolist(), 3, LIKE)
    np.testing.assert_array_equal(batch.x, X)
    np.testing.assert_array_equal(batch.y, Y)
    assert batch.y.dtype == np.int32
    assert batch.mask is None
    assert check_batch(X, Y, 3, batch.x).x.shape == X.shape
    assert check_batch(X, like=LIKE, name="query").y is None
    np.testing.assert_array_equal(check_batch([[1.0], [2.0]], [[0.5], [0.25]]).y, [[0.5], [0.25]])
    assert check_batch(X, Y, 5, every_class=False).y.max() == 2


@pytest.mark.parametrize(
    ("x", "y", "num_ways", "message"),
    [
        (X[:0], Y[:0], 3, "support x must have at least one example, but its shape is"),
        (np.float32(3), Y, 3, "at least one example"),
        (X, Y[:5], 3, r"one entry for each of the 6 examples of x, but its shape is \(5,\)"),
        (X, None, 3, "labels of the 6 examples, but there are none"),
        (X, Y, 2, "labels from 0 to 1, but they go from 0 to 2"),
        (X, Y - 1, 3, "labels from 0 to 2, but they go from -1 to 1"),
        (X, Y.astype(float), 3, "integer labels of shape .6,., but is float64"),
        (X, np.eye(3, dtype=int)[Y], 3, r"but is int64 of shape \(6, 3\)"),
        (X, Y, 5, r"each of the 5 classes, but has none of \[3, 4\]"),
        (X, list("abcabc"), 3, "support y must be numbers"),
        (X, Y == 1, 3, "support y must be numbers, but is bool"),
        (X[..., 0], Y, 3, r"examples of shape \(4, 4, 1\), as the model was trained with, but their shape is \(4, 4\)"),
        (X.astype(np.uint8), Y, 3, r"floating point, scaled like .* but is uint8"),
        (bad((2, 0, 0, 0), np.nan), Y, 3, "finite, but 1 of its 96 numbers are not"),
        (bad((slice(2), 0, 0, 0), np.inf), Y, 3, "finite, but 2 of its 96"),
        ([[1.0, 2.0], [3.0]], Y, 3, "must be an array, but its parts differ in shape"),
        (X, np.full(6, np.nan), None, "support y must be finite"),
    ],
)
def test_bad_batches_get_one_sentence(x, y, num_ways, message):
    with pytest.raises(InputError, match=message) as caught:
        check_batch(x, y, num_ways, LIKE)
    assert str(caught.value).count("\n") == 0


def test_messages_name_the_batch():
    with pytest.raises(InputError, match=r"^query x must"):
        check_batch(X[:0], name="query")
