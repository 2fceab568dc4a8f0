"""A small file of every architecture, its weights moved at random."""

import numpy as np
from torch_rules import made

from lopt.files import fileformat
from lopt.torch.rules import RULES

SMALL = {
    "celo": {"hidden_size": 8},
    "nn_adam": {"hidden_size": 8},
    "rnn_mlp": {"hidden_size": 8, "hidden_sizes": (8,)},
    "velo": {"hidden_size": 8, "num_networks": 4},
}


def write_all(folder):
    """Each is named after its architecture."""
    for name in RULES:
        found = made(name, **SMALL.get(name, {}))
        theta = fileformat.flatten(found.theta)
        theta = {key: np.asarray(x) for key, x in theta.items()}
        fileformat.write(folder / f"{name}.safetensors", theta, found.header)
