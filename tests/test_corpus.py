"""The corpus is the released file, its splits do not overlap, its windows fit."""

import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from lopt import corpus
from lopt.base import SPLITS
from lopt.errors import ConfigError, LoptError

SIZES = {"lopt": (154, 42, 42, 42), "prose": (77, 21, 21, 21), "code": (77, 21, 21, 21)}


def rows(blocks):
    return [row.tobytes() for row in np.asarray(blocks)]


def classes_by_hand(text: bytes) -> list[int]:
    printable = {b: b - 31 for b in range(32, 127)}
    return [{10: 0, **printable}.get(b, 96) for b in text]


@pytest.mark.parametrize("name", corpus.CORPORA)
def test_splits_are_the_blocks_of_the_text_each_once(name):
    prose, code = corpus.FILE.read_bytes().split(b"\f")
    text = {"lopt": prose + code, "prose": prose, "code": code}[name]
    splits = corpus.corpus(name)
    assert tuple(splits) == SPLITS
    assert tuple(len(splits[split]) for split in SPLITS) == SIZES[name]
    found = sorted(row for split in SPLITS for row in rows(splits[split]))
    classes = np.array(classes_by_hand(text), np.uint8)
    assert found == sorted(rows(classes.reshape(-1, 1024)))
    assert len(set(found)) == len(found)
    assert splits["train"].dtype == np.uint8


def test_the_whole_is_its_parts_split_by_split():
    whole, prose, code = map(corpus.corpus, ("lopt", "prose", "code"))
    for split in SPLITS:
        assert rows(whole[split]) == rows(prose[split]) + rows(code[split])


def test_a_seed_redraws_all_splits_but_test():
    first, other = corpus.corpus("prose"), corpus.corpus("prose", seed=1)
    assert set(rows(first["test"])) == set(rows(other["test"]))
    for split in SPLITS[:3]:
        assert set(rows(first[split])) != set(rows(other[split]))
        assert not set(rows(other[split])) & set(rows(other["test"]))


def test_every_class_occurs():
    blocks = np.concatenate([*corpus.corpus("lopt").values()])
    assert set(np.unique(blocks)) == set(range(corpus.NUM_CLASSES))


def test_the_file_is_the_one_whose_hash_is_stated():
    assert hashlib.sha256(corpus.FILE.read_bytes()).hexdigest() == corpus.SHA256
    corpus.FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, b"", b"something else\f"])
def test_any_other_file_is_refused(monkeypatch, tmp_path, content):
    path = tmp_path / "corpus.txt"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(corpus, "FILE", path)
    corpus._parts.cache_clear()
    corpus._corpus.cache_clear()
    with pytest.raises(LoptError) as error:
        corpus.corpus("prose")
    assert error.value.message.startswith("`corpus.txt` must be the released one, of ")
    assert "\n" not in error.value.message


def test_an_unknown_corpus():
    with pytest.raises(ConfigError, match="unknown corpus `prosa`"):
        corpus.corpus("prosa")


@pytest.mark.parametrize("length", [1, 33, 1024])
def test_drawn_windows_lie_within_a_block(key, length):
    """And everywhere in it, at all places alike."""
    blocks = jnp.arange(5 * 1024).reshape(5, 1024)
    windows = np.asarray(corpus.sample_windows(key, blocks, 4000, length))
    assert windows.shape == (4000, length)
    start = windows[:, 0]
    np.testing.assert_array_equal(windows, start[:, None] + np.arange(length))
    assert set(start // 1024) == set(range(5))
    offsets, most = start % 1024, 1024 - length
    assert offsets.max() <= most
    if most:
        assert offsets.min() < 0.01 * most + 1 and offsets.max() > 0.99 * most - 1
        assert offsets.mean() == pytest.approx(most / 2, rel=0.05)


def test_fixed_windows_are_disjoint_and_from_everywhere():
    blocks = jnp.arange(5 * 1024).reshape(5, 1024)
    windows = np.asarray(corpus.fixed_windows(blocks, 20, 33))
    assert windows.shape == (20, 33)
    assert len(np.unique(windows)) == windows.size
    start = windows[:, 0]
    np.testing.assert_array_equal(windows, start[:, None] + np.arange(33))
    assert (np.bincount(start // 1024) == 4).all()
    assert ((start % 1024 + 32) < 1024).all()
    assert corpus.fixed_windows(blocks, 20, 1024).tolist() == blocks.tolist()
