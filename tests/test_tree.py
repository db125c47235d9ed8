from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.core import InputError, Statistic
from metalearn.tree import merge, num_rows, partition, path_name, select, statistics, turning, with_statistics


class Pair(NamedTuple):
    first: object
    second: object


def _params():
    return {
        "body": [jnp.array([1.0, 2.0]), None],
        "norm": {"mean": Statistic(jnp.array(3.0)), "bias": jnp.array(4.0)},
        "head": Pair(jnp.array(5.0), jnp.array(6.0)),
    }


def _values(tree):
    return [np.asarray(v).tolist() for v in jax.tree.leaves(tree)]


def test_without_a_pattern_everything_but_statistics_is_trained():
    trained, rest = partition(_params())
    assert _values(trained) == [[1.0, 2.0], 5.0, 6.0, 4.0]
    assert _values(rest) == [3.0]
    assert isinstance(rest["norm"]["mean"], Statistic) and trained["norm"]["mean"] is None


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("head", [5.0, 6.0]),
        ("head/first", [5.0]),
        ("^body/0$", [[1.0, 2.0]]),
        ("norm", [4.0]),
        ("bias|second", [6.0, 4.0]),
    ],
)
def test_a_pattern_is_searched_in_paths(where, expected):
    trained, rest = partition(_params(), where)
    assert _values(trained) == expected
    assert len(_values(rest)) == 5 - len(expected)


@pytest.mark.parametrize("where", [None, "head", "norm", "body"])
def test_merge_is_the_inverse_of_partition(where):
    params = _params()
    merged = merge(*partition(params, where))
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    assert _values(merged) == _values(params)


@pytest.mark.parametrize("where", ["tail", "norm/mean", "body/1"])
def test_a_pattern_without_a_trainable_leaf_is_an_error(where):
    with pytest.raises(InputError, match=f"where='{where}' matches no trainable parameter.*body/0"):
        partition(_params(), where)


def test_a_pattern_that_is_none_is_an_error():
    with pytest.raises(InputError, match=r"where='\(' is no regular expression"):
        partition(_params(), "(")


def test_paths_are_written_with_slashes():
    leaves, _ = jax.tree_util.tree_flatten_with_path(_params())
    assert [path_name(path) for path, _ in leaves] == [
        "body/0", "head/first", "head/second", "norm/bias", "norm/mean/value",
    ]  # fmt: skip


def test_statistics_are_replaced_and_nothing_else_is():
    params = _params()
    new = statistics(params)
    assert _values(new) == [3.0]
    new["norm"]["mean"] = Statistic(jnp.array(7.0))
    replaced = with_statistics(params, new)
    assert _values(replaced) == [[1.0, 2.0], 5.0, 6.0, 4.0, 7.0]
    assert isinstance(replaced["norm"]["mean"], Statistic)
    assert with_statistics(params, None) is params


def test_a_statistic_survives_transformations():
    doubled = jax.jit(jax.vmap(lambda tree: jax.tree.map(lambda v: 2 * v, tree)))({"a": Statistic(jnp.arange(3.0))})
    assert isinstance(doubled["a"], Statistic)
    assert _values(doubled) == [[0.0, 2.0, 4.0]]


def test_select_chooses_every_leaf():
    a, b = {"x": jnp.array([1.0, 2.0]), "y": 3}, {"x": jnp.array([4.0, 5.0]), "y": 6}
    assert _values(select(jnp.array(True), a, b)) == [[1.0, 2.0], 3]
    assert _values(select(jnp.array(False), a, b)) == [[4.0, 5.0], 6]


def test_num_rows_is_the_common_leading_dimension():
    assert num_rows({"x": jnp.zeros((4, 2)), "y": jnp.zeros(4), "none": None}) == 4


@pytest.mark.parametrize(
    "tree", [{"x": jnp.zeros((4, 2)), "y": jnp.zeros(3)}, {"x": jnp.zeros(3), "y": jnp.zeros(())}, {"x": None}]
)
def test_num_rows_refuses_leaves_that_disagree(tree):
    with pytest.raises(InputError, match="same leading dimension"):
        num_rows(tree)


def test_turning_turns_narrow_matrices_and_those_back():
    tree = {"narrow": jnp.arange(34.0).reshape(17, 2), "wide": jnp.ones((2, 17)), "square": jnp.ones((4, 4))}
    tree |= {"kernel": jnp.ones((3, 3, 40, 2)), "bias": jnp.ones(2), "many": jnp.ones((40, 17))}
    turned = turning(tree)
    assert turned(tree)["narrow"].shape == (2, 17)
    assert {name for name in tree if turned(tree)[name].shape != tree[name].shape} == {"narrow"}
    for name, leaf in turned(turned(tree)).items():
        np.testing.assert_array_equal(leaf, tree[name])
