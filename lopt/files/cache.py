"""Where lopt keeps what can be made anew: in the user's cache folder."""

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder for things of a kind; it need not be there."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "lopt" / kind
