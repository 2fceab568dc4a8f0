"""Folders of images: one folder for each class, its name the class, in sorted order.

A set with a test split of its own has two such folders of folders, `train` and `test`.
Images are PNG, JPEG, BMP, GIF (the first picture), PPM or WebP files, all of one size;
other files are not read. They are gray where all of the set are, in color otherwise;
what is transparent is not.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lopt.disk.source import Part, check_size, damaged, reading, unreadable
from lopt.errors import ConfigError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".webp"}
# Named, because Pillow hands some formats to other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP")
_GRAY = ("1", "L", "LA")
_COLOR = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


Image = tuple[Path, Path | bytes]
"""What to blame for an image, and its file, or what would be in it."""


def read(folder: Path) -> list[Part]:
    """The train part, and the test part if there is one.

    Raises:
      ConfigError: no images, images of several sizes, a damaged one, or no Pillow.
    """
    places = [folder / name for name in ("train", "test")]
    has_test = all(_folders(place) for place in places)
    places = places if has_test else [folder]
    classes = [path.name for path in _folders(places[0])]
    files = [_files(place, classes) for place in places]
    xs = decoded(places[0], [[(path, path) for path, _ in part] for part in files])
    ys = [np.array([label for _, label in part]) for part in files]
    return [Part(*part) for part in zip(places, xs, ys, strict=True)]


def decoded(folder: Path, parts: list[list[Image]]) -> list[np.ndarray]:
    """The pixels of each part, [n, H, W, 1 or 3], all of one size.

    Raises:
      ConfigError: images of several sizes, a damaged one, or no Pillow.
    """
    opener = _opener(folder)
    size, mode = _size_and_mode(
        opener, folder, [image for part in parts for image in part]
    )
    arrays = []
    for part in parts:
        xs = []
        for image in part:
            with _opened(opener, image) as opened:
                xs.append(np.asarray(opened.convert(mode)).reshape(*size, -1))
        arrays.append(np.stack(xs))
    return arrays


def _opener(folder: Path) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError(
            f"`{folder}` holds images, and Pillow cannot be imported ({error})",
            hint="`pip install 'lopt[images]'`",
        ) from None
    return Image


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    return [path for path in folders if not path.name.startswith(".")]


def _files(place: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """The files of images, and the number of the class of each."""
    found = []
    for path in _folders(place):
        if path.name not in classes:
            rule = f"must have classes that the train split has: {', '.join(classes)}"
            raise ConfigError(f"`{place}` {rule}, got `{path.name}`")
        try:
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES)
        except OSError as error:
            raise unreadable(path, error) from None
        if not inside:
            known = ", ".join(sorted(_SUFFIXES))
            raise ConfigError(f"`{path}` must have images ({known}), got none")
        found += [(file, classes.index(path.name)) for file in inside]
    return found


def _size_and_mode(
    opener: Any, folder: Path, images: list[Image]
) -> tuple[tuple[int, int], str]:
    """Height and width of all images, "L" or "RGB", of whole files."""
    first, mode = (0, 0), "L"
    for i, image in enumerate(images):
        with _opened(opener, image) as opened:
            size = opened.height, opened.width
            if opened.mode not in _GRAY + _COLOR:
                rule = "must have pixels of one byte a color"
                raise ConfigError(f"`{image[0]}` {rule}, got mode {opened.mode}")
            mode = "RGB" if opened.mode in _COLOR else mode
            opened.verify()  # checksums, which decoding does not look at
        first = first if i else size
        if size != first:
            rule = f"must be of {first[0]}x{first[1]} pixels, as `{images[0][0]}` is"
            hint = "bring all images to one size first"
            got = f"{size[0]}x{size[1]}"
            raise ConfigError(f"`{image[0]}` {rule}, got {got}", hint=hint)
    colors = 1 if mode == "L" else 3
    check_size(folder, (len(images), *first, colors))
    return first, mode


@contextmanager
def _opened(opener: Any, image: Image) -> Iterator[Any]:
    name, file = image
    with reading(name, "image"):
        try:
            file = io.BytesIO(file) if isinstance(file, bytes) else file
            opened = opener.open(file, formats=_FORMATS)
        except (opener.UnidentifiedImageError, opener.DecompressionBombError):
            raise damaged(name, "is no image that lopt reads") from None
        with opened as picture:
            yield picture
