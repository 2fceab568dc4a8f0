"""Datasets from disk: what lies at a path, read, checked, and nothing executed.

The format is told by names:

* MNIST's (IDX files, plain or gzip): a folder of `*images-idx3-ubyte*` files and their
  labels, or one such file, whose labels lie beside it;
* CIFAR-10's and CIFAR-100's "binary version": its folder;
* a folder with one folder of images for each class (`pip install 'lopt[images]'`);
* `.npz`: arrays `x` and `y`;
* what Hugging Face's `datasets` has saved (`pip install 'lopt[datasets]'`): its folder.

A text is any file, read as bytes, or such a folder with a column `text`.

Nothing is downloaded. A set is read once in a process, and lives in memory. Of more than
`LARGEST` numbers, inputs stay on disk and are read by and by, in a plain IDX file or an
`.npz` that is not compressed; such sets in other formats are refused. Whatever is wrong
is one `ConfigError`, which names the file, the rule and the value.
"""

import os
from pathlib import Path

from lopt.bundled import Raw
from lopt.disk import cifar, hugging_face, idx, images, npz
from lopt.disk.source import FEWEST as FEWEST
from lopt.disk.source import LARGEST as LARGEST
from lopt.disk.source import Part, check_size, joined, unreadable
from lopt.errors import ConfigError

_FORMATS = (
    "MNIST's `*-idx3-ubyte` and `*-idx1-ubyte` files, CIFAR's `*.bin` files, a folder of "
    "images for each class, an `.npz` of `x` and `y`, or what `datasets` has saved"
)


def read(name: str) -> Raw:
    """The dataset at a path; `~` is the home folder.

    Raises:
      ConfigError: nothing is there, or not what it should be.
    """
    path, files = _found(name, _FORMATS)
    if not files:
        raise ConfigError(f"`{path}` is empty", hint=f"put there {_FORMATS}")
    return joined(*_parts(path, files))


def read_text(name: str) -> list[bytes]:
    """The text at a path, and its test split if it has one.

    Raises:
      ConfigError: nothing is there, or not what it should be.
    """
    path, files = _found(name, "a text file")
    if hugging_face.is_saved(path, {file.name for file in files}):
        texts = hugging_face.read_text(path)
    elif path.is_dir():
        raise ConfigError(f"`{path}` must be a text file, got a folder")
    else:
        try:
            check_size(path, (path.stat().st_size,))
            texts = [path.read_bytes()]
        except OSError as error:
            raise unreadable(path, error) from None
    check_size(path, (sum(map(len, texts)),))
    return texts


def _found(name: str, wanted: str) -> tuple[Path, list[Path]]:
    """A path, and the files in it if it is a folder."""
    path = Path(os.path.expanduser(name)).absolute()
    try:
        exists = path.is_dir() or path.is_file()
        files = sorted(path.iterdir()) if path.is_dir() else [path]
    except OSError as error:
        raise unreadable(path, error) from None
    if not exists:
        hint = f"lopt downloads no dataset; put there {wanted}"
        raise ConfigError(f"no dataset is at `{path}`", hint=hint)
    return path, files


def _parts(path: Path, files: list[Path]) -> list[Part]:
    """The train part, and the test part if there is one, by the format of the names."""
    names = {file.name for file in files}
    if hugging_face.is_saved(path, names):
        return hugging_face.read(path)
    if any(idx.is_images(file) for file in files):
        return idx.read([file for file in files if idx.is_images(file)], path)
    if path.suffix == ".npz":
        return npz.read(path)
    for form in cifar.FORMS:
        if names & {*form.train, form.test}:
            return cifar.read(path, form)
    if names & {"data_batch_1", "batches.meta"}:
        raise ConfigError(
            f"`{path}` holds pickles, which can run any code when they are read",
            hint="get CIFAR's binary version, `*.bin` files, from the same place",
        )
    if any(file.is_dir() for file in files if path.is_dir()):
        return images.read(path)
    raise ConfigError(f"`{path}` is in no format that lopt reads", hint=_FORMATS)
