"""Texts from disk as corpora: their splits, the families, and what is refused."""

import jax
import numpy as np
import pytest

from lopt import corpus, disk
from lopt.base import SPLITS
from lopt.config import load_suite
from lopt.errors import ConfigError
from lopt.families import FAMILIES
from lopt.suites import build_tasks


def numbered(num):
    """Blocks that can be told apart: block i begins with i, in two printable bytes."""
    head = [bytes([32 + i // 64, 32 + i % 64]) for i in range(num)]
    return b"".join(b + b"-" * (corpus.BLOCK - 2) for b in head)


def block_numbers(blocks):
    blocks = np.asarray(blocks, np.int64) - 1
    return {int(i) for i in 64 * blocks[:, 0] + blocks[:, 1]}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "my.book.txt"
    path.write_bytes(numbered(100) + b"left over")
    return str(path)


def test_splits_are_whole_blocks_by_the_rule_of_all_datasets(path):
    splits = corpus.corpus(path)
    found = [block_numbers(splits[split]) for split in SPLITS]
    assert [len(part) for part in found] == [55, 15, 15, 15]
    assert set.union(*found) == set(range(100))
    assert all(splits[split].dtype == np.uint8 for split in SPLITS)
    other = corpus.corpus(path, seed=3)
    assert block_numbers(other["test"]) == found[3]
    assert block_numbers(other["train"]) != found[0]


def test_a_long_text_is_taken_whole(tmp_path):
    """There is no cap on blocks, as there is on examples."""
    path = tmp_path / "long.txt"
    path.write_bytes(b"a" * corpus.BLOCK * 4000)
    sizes = [len(blocks) for blocks in corpus.corpus(str(path)).values()]
    assert sizes == [2200, 600, 600, 600]


def test_any_bytes_have_a_class(tmp_path):
    path = tmp_path / "all.bin"
    path.write_bytes(bytes(range(256)) * 80)
    blocks = np.concatenate([*corpus.corpus(str(path)).values()])
    printable = {b: b - 31 for b in range(32, 127)}
    expected = [{10: 0, **printable}.get(b, 96) for b in range(256)] * 4
    np.testing.assert_array_equal(blocks, [expected] * 20)


@pytest.mark.parametrize("family", ["transformer", "recurrent"])
def test_families_of_text_take_a_path(path, family, key):
    task = FAMILIES[family](dataset=path, sequence_length=9, batch_size=3)
    assert "-my-" in task.name and "/" not in task.name
    batch = np.asarray(task.batch(key, task.data, "train"))
    assert batch.shape == (3, 10)
    assert task.loss is FAMILIES[family](sequence_length=9, batch_size=3).loss
    params, state = jax.eval_shape(task.init, key, task.data)
    assert jax.eval_shape(task.loss, params, state, batch, key)[0].shape == ()


def test_a_path_is_relative_to_the_suite(path, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    suite = tmp_path / "suite.toml"
    text = '[[tasks]]\nfamily = "recurrent"\ndataset = "my.book.txt"\n'
    suite.write_text(text)
    (entry,) = build_tasks(load_suite(suite))
    assert entry.task.name == "gru-my-1x32"
    suite.write_text(text.replace("my.book", "your"))
    with pytest.raises(ConfigError) as error:
        build_tasks(load_suite(suite))
    assert error.value.message == f"`tasks.0`: no dataset is at `{tmp_path}/your.txt`"
    assert error.value.hint == "lopt downloads no dataset; put there a text file"


def refused(path, message):
    with pytest.raises(ConfigError) as error:
        corpus.corpus(str(path))
    assert error.value.message == message.format(path=path)


def test_what_is_no_text(tmp_path, monkeypatch):
    short = tmp_path / "short.txt"
    short.write_bytes(b"a" * (20 * 1024 - 1))
    refused(short, "`{path}` must have at least 20480 bytes, got 20479")
    refused(tmp_path, "`{path}` must be a text file, got a folder")
    named = tmp_path / "dataset_dict.json"
    named.write_bytes(b"{}")
    refused(named, "`{path}` must have at least 20480 bytes, got 2")
    monkeypatch.setattr("lopt.disk.source.LARGEST", 20478)
    refused(short, "`{path}` must have at most 20478 numbers, got 20479")

    def read_bytes(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.read_bytes", read_bytes)
    refused(named, "cannot read `{path}`: permission denied")


def test_a_test_split_of_its_own(tmp_path, monkeypatch):
    path = str(tmp_path / "set")
    texts = [numbered(40), numbered(50)[40 * corpus.BLOCK :]]
    monkeypatch.setattr(corpus, "read_text", lambda name: texts)
    corpus._from_disk.cache_clear()
    found = [block_numbers(part) for part in corpus.corpus(path).values()]
    assert found[3] == set(range(40, 50))
    assert set.union(*found[:3]) == set(range(40))
    assert [len(part) for part in found] == [26, 7, 7, 10]
    corpus._from_disk.cache_clear()
    texts[1] = texts[1][:1023]
    refused(path, "`{path}` must have at least 1024 bytes in its test split, got 1023")


def test_a_name_that_is_neither_is_told_how_a_path_looks():
    with pytest.raises(ConfigError, match="unknown corpus `novel`") as error:
        corpus.corpus("novel")
    assert "the path of a text has a `/` or a suffix" in error.value.hint


def test_a_dataset_that_is_no_text(unchecked_types):
    for wrong in (5, ["lopt"], True):
        with pytest.raises(ConfigError, match="`dataset` must be a name or a path, got"):
            FAMILIES["transformer"](dataset=wrong)


def test_a_text_is_none_of_examples(path):
    with pytest.raises(ConfigError, match="is in no format that lopt reads"):
        disk.read(path)
