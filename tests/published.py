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
GROUPS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)
"""Inputs of Celo's and VeLO's networks, which are stored group by group."""


def elements(*stack):
    """The network of elements, with these axes before its own."""
    groups = {f"w0__{i}": random(*stack, n, 4) for i, n in enumerate(GROUPS)}
    rest = {"b0": (4,), "w1": (4, 5), "b1": (5,), "w2": (5, 3), "b2": (3,)}
    later = {name: random(*stack, *shape) for name, shape in rest.items()}
    return {f"ff_mod_stack/~/{name}": x for name, x in {**groups, **later}.items()}


def lstm(num_inputs, size):
    return {
        "rnn_params/rnn/linear/w": random(num_inputs + size, 4 * size),
        "rnn_params/rnn/linear/b": random(4 * size),
        "lstm_init_state/hidden": random(1, size),
        "lstm_init_state/cell": random(1, size),
    }


def linear(name, num_inputs, num_outputs):
    return {
        f"{name}/w": random(num_inputs, num_outputs),
        f"{name}/b": random(num_outputs),
    }


def mixture(num_inputs, num_networks):
    """VeLO's names, which are Celo's, too."""
    theta = {**elements(num_networks), **lstm(6, 6)}
    for name in ("linear", "linear_1", "linear_2"):
        theta |= linear(f"rnn_params/{name}", num_inputs, 6)
    controls = linear("rnn_params/rnn_to_controls", 6, num_networks)
    return theta | controls | linear("rnn_params/step_size", 6, 1)


PUBLISHED = {
    "celo": mixture(18, 2),
    "celo2": elements(),
    "velo": mixture(30, 3),
    "rnn_mlp": {
        **dense(lambda i, k: f"ffmod_params/mlp/~/linear_{i}/{k}", 40, 5, 2 + 4),
        **lstm(18 + 2 + 4, 6),
        **linear("rnn_to_in_params/rnn_to_in", 6, 2),
        **linear("rnn_to_ff_params/rnn_to_ff", 6, 3),
        "initial_from_lstm": random(2),
        "initial_from_mlp": random(4),
    },
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
        **lstm(19, 6),
        **linear("rnn_to_controls_params/rnn_to_controls", 6, 4),
    },
}
"""One theta of every architecture, with the names of its project."""


def as_ours(theta):
    """Arrays as lopt has them: [outputs, inputs] in networks of elements, and whole."""
    theta = {k: x for k, x in theta.items() if not k.startswith("rnn_params/linear/")}
    groups = [theta.pop(k) for k in [*theta] if "w0__" in k]
    if groups:
        theta["ff_mod_stack/~/w0"] = np.concatenate(groups, axis=-2)
    networks = ("ff_mod_stack/~/w", "ffmod_params/", "mlp/", "nn/~/w")
    return [
        np.swapaxes(x, -2, -1) if k.startswith(networks) and x.ndim > 1 else x
        for k, x in theta.items()
    ]


def flat(theta):
    return fileformat.flatten(jax.device_get(theta))


def write(path, tensors):
    """A file in the format that the suffix names."""
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(tensors, path)
    else:
        path.write_bytes(flax_bytes(nested(tensors)))
    return path
