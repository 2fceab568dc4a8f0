"""A corpus of bytes that does not change, in four splits, and windows of it.

corpus.txt is lopt's own text as of 2026-11-21 (commit c7a09af), two *parts* with a form
feed between them. "prose": README.md, benchmarks/LOG.md, then every docstring of lopt/.
"code": lopt/*.py, lopt/estimators/, lopt/families/ and lopt/files/ without docstrings.
Files come in the order of their paths, and both parts are cut off at 140 KiB, so that
tasks on either share a compiled program. What is learned on it depends on every byte: a
file of another SHA-256 is refused.

A byte's class is 0 for a line feed, b - 31 for printable ASCII (32 <= b <= 126) and 96
for any other byte: the parts share their classes, and any other text would too.

A text of the user's own, at a path (`lopt.disk`), is one part, or two if it has a test
split of its own.

Each part is cut into blocks of 1024 bytes, and whole blocks go to the splits, by the rule
of `lopt.data`; "lopt" is both parts, split by split. A window lies within one block, so
that no byte of a test window is in a window of another split. Both parts repeat
themselves, more than novels do: losses on them say little of other texts.
"""

import hashlib
from functools import cache, lru_cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from lopt import prng
from lopt.base import SPLITS, Array, PRNGKey, Split
from lopt.config import is_data_path
from lopt.data import split_indices
from lopt.disk import FEWEST, read_text
from lopt.errors import ConfigError, LoptError, unknown_name

FILE = Path(__file__).with_suffix(".txt")
SHA256 = "2b236bc0d333c544d8d615a0558d8b842ee45b34c6645f5b6827936b76140600"
"""Of corpus.txt."""
CORPORA: dict[str, tuple[int, ...]] = {"lopt": (0, 1), "prose": (0,), "code": (1,)}
"""The parts that each is made of."""
NUM_CLASSES = 97
BLOCK = 1024  # bytes that stay together in one split


def corpus(name: str, *, seed: int = 0) -> dict[Split, Array]:
    """The four splits of a corpus: blocks of classes, `[N, 1024] uint8` each.

    Args:
      name: a key of `CORPORA`, or a path, which has a `/` or a suffix.
      seed: of which blocks are in the train, the meta and the valid split; the test
        split is the same for all.

    Raises:
      ConfigError: no corpus has this name, or what is at the path is no text, or short.
      LoptError: the file is absent, or not the one that was released.
    """
    if is_data_path(name):
        return dict(_from_disk(name, seed))
    if name not in CORPORA:
        known = ", ".join(f"`{known}`" for known in CORPORA)
        hint = f"known: {known}; the path of a text has a `/` or a suffix"
        raise unknown_name("corpus", name, CORPORA, hint=hint)
    return dict(_corpus(name, seed))


@lru_cache(maxsize=2)  # two, because a text from disk may be large
def _from_disk(name: str, seed: int) -> dict[Split, Array]:
    texts = read_text(name)
    for text, least in zip(texts, (FEWEST, 1), strict=False):
        if len(text) < least * BLOCK:
            rule = f"must have at least {least * BLOCK} bytes"
            rule += " in its test split" if text is not texts[0] else ""
            raise ConfigError(f"`{name}` {rule}, got {len(text)}")
    parts = [_blocks(text) for text in texts]
    blocks = np.concatenate(parts)
    num_test = len(blocks) - len(parts[0])
    whole = (len(blocks),) * len(SPLITS)
    order = np.arange(len(blocks))
    indices = split_indices(order, seed, num_test=num_test, sizes=whole)
    return {s: jnp.asarray(blocks[i]) for s, i in zip(SPLITS, indices, strict=True)}


@lru_cache
def _corpus(name: str, seed: int) -> dict[Split, Array]:
    blocks = [_blocks(_parts()[part]) for part in CORPORA[name]]
    indices = [split_indices(np.arange(len(part)), seed) for part in blocks]
    return {
        split: jnp.concatenate(
            [part[of[i]] for part, of in zip(blocks, indices, strict=True)]
        )
        for i, split in enumerate(SPLITS)
    }


@cache
def _parts() -> list[bytes]:
    text = FILE.read_bytes() if FILE.exists() else b""
    found = hashlib.sha256(text).hexdigest()
    if found != SHA256:
        rule = f"must be the released one, of SHA-256 {SHA256[:12]}, got {found[:12]}"
        hint = "install lopt anew: recorded losses are those of the released file"
        raise LoptError(f"`{FILE.name}` {rule}", hint=hint)
    return text.split(b"\f")


def _blocks(text: bytes) -> np.ndarray:
    """Classes in whole blocks, [N, 1024] uint8; what is left at the end is left out."""
    class_of = np.full(256, NUM_CLASSES - 1, np.uint8)
    class_of[ord("\n")] = 0
    class_of[32:127] = np.arange(1, 96)
    whole = len(text) // BLOCK * BLOCK
    return class_of[np.frombuffer(text[:whole], np.uint8).reshape(-1, BLOCK)]


def sample_windows(key: PRNGKey, blocks: Array, num: int, length: int) -> Array:
    """Windows [num, length], each from a block and an offset that are drawn uniformly."""
    # Bits modulo N: uniform to within N / 2³².
    block, offset = prng.bits(key, 2, num)
    start = block % jnp.uint32(blocks.shape[0]) * jnp.uint32(BLOCK)
    start += offset % jnp.uint32(BLOCK - length + 1)
    places = start[:, None] + jnp.arange(length, dtype=jnp.uint32)[None, :]
    return blocks.reshape(-1).at[places].get(mode="promise_in_bounds")


def fixed_windows(blocks: Array, num: int, length: int) -> Array:
    """At most `num` windows [., length] that do not overlap, from all over the blocks."""
    per_block = BLOCK // length
    windows = blocks[:, : per_block * length].reshape(-1, length)
    num = min(num, len(windows))
    return windows[np.arange(num) * len(windows) // num]
