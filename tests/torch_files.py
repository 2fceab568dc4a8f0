"""A small file of every architecture, its weights moved at random."""

import jax
import numpy as np

from lopt.files import fileformat
from lopt.files.fileformat import Header, flatten
from lopt.optimizers import OPTIMIZERS
from lopt.torch.rules import RULES

SMALL = {
    "celo": {"hidden_size": 8},
    "nn_adam": {"hidden_size": 8},
    "rnn_mlp": {"hidden_size": 8, "hidden_sizes": [8]},
    "velo": {"hidden_size": 8, "num_networks": 4},
}


def write(folder, name, **options):
    """The path of the file."""
    rng = np.random.default_rng(0)
    options = {**SMALL.get(name, {}), **options}
    theta = jax.jit(OPTIMIZERS[name](**options).init)(jax.random.key(0))
    theta = {
        key: np.float32(x + 0.1 * rng.normal(size=x.shape))
        for key, x in flatten(theta).items()
    }
    path = folder / f"{name}.safetensors"
    fileformat.write(path, theta, Header(optimizer=name, options=options))
    return path


def write_all(folder):
    for name in RULES:
        write(folder, name)
