"""Speaking roles: whose text it is, in its order, and what follows each character."""

import os

import numpy as np
import pytest

import metalearn as ml
from metalearn.core import InputError
from metalearn.data import partitions, shakespeare

PLAY = """First Witch:
When shall we three meet again
In thunder, lightning, or in rain?

Second Witch:
When the hurlyburly's done,


First Witch:
Where the place?

Third Witch:
There to meet with: Macbeth.
"""
FIRST = "When shall we three meet again\nIn thunder, lightning, or in rain?\nWhere the place?"


def _spoken(text, codes):
    return "".join(text.vocabulary[code] for code in np.ravel(codes))


@pytest.fixture
def play(tmp_path):
    (tmp_path / "play.txt").write_text(PLAY)
    return tmp_path / "play.txt"


def test_a_small_play(play):
    text = shakespeare(play, length=8, min_characters=28)
    assert text.names == ("First Witch", "Third Witch")  # the second says 27 characters
    assert text.vocabulary == "".join(sorted(set(PLAY)))
    first, third = (text.x[text.roles == role] for role in (0, 1))
    assert _spoken(text, first) == FIRST[: 8 * ((len(FIRST) - 1) // 8)]
    assert _spoken(text, third) == "There to meet with: Macb"
    assert _spoken(text, text.y[text.roles == 1]) == "here to meet with: Macbe"
    assert len(shakespeare(play, length=28, min_characters=1).names) == 1  # one more character is needed to follow
    assert shakespeare(play, length=27, min_characters=1).names == ("First Witch", "Third Witch")


def test_where_the_text_is(play, tmp_path, monkeypatch):
    monkeypatch.setenv("METALEARN_SHAKESPEARE", str(play))
    np.testing.assert_array_equal(shakespeare(min_characters=28).x, shakespeare(play, min_characters=28).x)
    (tmp_path / "prose.txt").write_text("Call me Ishmael.\n" * 500)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff" * 500)
    for path, said in (
        (tmp_path / "nothing.txt", "cannot be read as text"),
        (tmp_path / "bytes.txt", "cannot be read as text"),
        (tmp_path / "prose.txt", "no role that speaks 2000"),
        (None, "no role that speaks 2000"),  # a play, but a short one
    ):
        with pytest.raises(InputError, match=said):
            shakespeare(path)
    monkeypatch.delenv("METALEARN_SHAKESPEARE")
    with pytest.raises(InputError, match=r"no path: get input\.txt of Karpathy's tinyshakespeare.*METALEARN_SHAKES"):
        shakespeare()
    with pytest.raises(InputError, match="length must be"):
        shakespeare(play, length=0)


@pytest.fixture
def text():
    """The whole text; or a skip, saying why."""
    if not os.environ.get("METALEARN_SHAKESPEARE"):
        with pytest.raises(InputError) as error:
            shakespeare()
        pytest.skip(str(error.value))
    return shakespeare()


def test_the_roles_of_the_whole_text(text):
    assert len(text.names) == 99 and len(text.vocabulary) == 65
    assert text.x.shape == text.y.shape == (11_418, 80) and text.x.dtype == np.int32
    counts = dict(zip(text.names, np.bincount(text.roles).tolist(), strict=True))
    assert max(counts, key=counts.get) == "GLOUCESTER" and counts["GLOUCESTER"] == 470 and min(counts.values()) == 25
    assert _spoken(text, text.x[text.roles == text.names.index("ROMEO")]).startswith("Is the day so young?\nAy me!")


def test_what_follows_is_the_next_character(text):
    np.testing.assert_array_equal(text.x[:, 1:], text.y[:, :-1])
    same = text.roles[1:] == text.roles[:-1]
    np.testing.assert_array_equal(text.y[:-1][same, -1], text.x[1:][same, 0])  # no gap and no overlap
    assert text.x.min() == 0 and text.x.max() == 64


def test_roles_are_clients_split_in_time(text):
    parts = partitions.by_group(text.roles)
    learn, test = partitions.split_each(parts, 0.2, ordered=True)
    for k in (0, 50, 98):
        assert {text.names[role] for role in text.roles[parts[k]]} == {text.names[k]}
        assert learn[k].max() < test[k].min() and len(test[k]) == round(0.2 * len(parts[k]))
    population = ml.data.clients(text.x, text.y, learn)
    task = ml.data.everyone(population, ml.data.clients(text.x, text.y, test))
    assert task.support.x.dtype == np.int32 and task.support.x.shape == (99, max(map(len, learn)), 80)
    for k in (0, 50, 98):
        np.testing.assert_array_equal(task.support.y[k, : len(learn[k])], text.y[learn[k]])
