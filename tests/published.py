"""Thetas of published optimizers, with the names and layouts of their projects."""

import itertools
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from flax_files import flax_bytes, nested

from lopt.files import fileformat

DATA = Path(__file__).parent / "data"
RNG = np.random.default_rng(7)


def random(*shape):
    return np.asarray(0.1 * RNG.standard_normal(shape), np.float32)


def dense(name, *sizes):
    """Weights [inputs, outputs] and biases; `name(layer, kind)` names them."""
    theta = {}
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        theta[name(i, "w")] = random(n_in, n_out)
        theta[name(i, "b")] = random(n_out)
    return theta


ADAFAC = {
    **dense(lambda i, k: f"nn/~/{k}{i}", 39, 4, 3, 2),
    "momentum_decays": random(3),
    "rms_decays": random(1),
    "adafactor_decays": random(3),
}
PUBLISHED = {
    "learnable_sgd": {"log_lr": random()},
    "learnable_sgdm": {"log_lr": random(), "one_minus_momentum": random()},
    "learnable_adam": {
        "log_lr": random(),
        "one_minus_beta1": random(),
        "one_minus_beta2": random(),
        "log_epsilon": random(),
    },
    "mlp": dense(lambda i, k: f"mlp/~/linear_{i}/{k}", 19, 5, 2),
    "adafac_mlp": ADAFAC,
    "mup_adafac": ADAFAC,
    "nn_adam": {
        **{f"per_layer_{n}": random() for n in ("lr", "beta1", "beta2", "epsilon")},
        "rnn_params/rnn/linear/w": random(19 + 6, 24),
        "rnn_params/rnn/linear/b": random(24),
        "lstm_init_state/hidden": random(1, 6),
        "lstm_init_state/cell": random(1, 6),
        "rnn_to_controls_params/rnn_to_controls/w": random(6, 4),
        "rnn_to_controls_params/rnn_to_controls/b": random(4),
    },
}
"""One theta of every architecture, with google/learned_optimization's names."""


def flat(theta):
    return fileformat.flatten(jax.device_get(theta))


def write(path, tensors):
    """A file in the format that the suffix names."""
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(tensors, path)
    else:
        path.write_bytes(flax_bytes(nested(tensors)))
    return path
