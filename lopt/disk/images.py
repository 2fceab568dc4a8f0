"""Folders of images: one folder for each class, its name the class, in sorted order.

A set with a test split of its own has two such folders of folders, `train` and `test`.
Images are PNG, JPEG, BMP, GIF (the first picture), PPM or WebP files, all of one size;
other files are not read. They are gray where all of the set are, in color otherwise;
what is transparent is not.
"""

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


def read(folder: Path) -> list[Part]:
    """The train part, and the test part if there is one.

    Raises:
      ConfigError: no images, images of several sizes, a damaged one, or no Pillow.
    """
    opener = _opener(folder)
    places = [folder / name for name in ("train", "test")]
    has_test = all(_folders(place) for place in places)
    places = places if has_test else [folder]
    classes = [path.name for path in _folders(places[0])]
    files = [_files(place, classes) for place in places]
    size, mode = _size_and_mode(opener, [path for part in files for path, _ in part])
    parts = []
    for place, part in zip(places, files, strict=True):
        xs = []
        for path, _ in part:
            with _opened(opener, path) as image:
                xs.append(np.asarray(image.convert(mode)).reshape(*size, -1))
        parts.append(Part(place, np.stack(xs), np.array([label for _, label in part])))
    return parts


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


def _size_and_mode(opener: Any, paths: list[Path]) -> tuple[tuple[int, int], str]:
    """Height and width of all images, "L" or "RGB", of whole files."""
    first, mode = (0, 0), "L"
    for i, path in enumerate(paths):
        with _opened(opener, path) as image:
            size = image.height, image.width
            if image.mode not in _GRAY + _COLOR:
                rule = "must have pixels of one byte a color"
                raise ConfigError(f"`{path}` {rule}, got mode {image.mode}")
            mode = "RGB" if image.mode in _COLOR else mode
            image.verify()  # checksums, which decoding does not look at
        first = first if i else size
        if size != first:
            rule = f"must be of {first[0]}x{first[1]} pixels, as `{paths[0]}` is"
            hint = "bring all images to one size first"
            raise ConfigError(f"`{path}` {rule}, got {size[0]}x{size[1]}", hint=hint)
    colors = 1 if mode == "L" else 3
    check_size(paths[0].parents[1], (len(paths), *first, colors))
    return first, mode


@contextmanager
def _opened(opener: Any, path: Path) -> Iterator[Any]:
    with reading(path, "image"):
        try:
            opened = opener.open(path, formats=_FORMATS)
        except (opener.UnidentifiedImageError, opener.DecompressionBombError):
            raise damaged(path, "is no image that lopt reads") from None
        with opened as image:
            yield image
