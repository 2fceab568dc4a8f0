"""What a language model of bytes has in common in PyTorch and in jax, in NumPy alone.

Its sizes, its text, its batches, and the weights that it starts from: a safetensors file,
whose names are those of PyTorch's modules and whose kernels are [in, out], as in jax.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import lopt

START = Path("runs/language_model.safetensors")
WIDTH, HEADS, LAYERS, LENGTH, BATCH = 64, 4, 2, 64, 16
KERNELS = {
    "attend": (WIDTH, 3 * WIDTH),
    "gather": (WIDTH, WIDTH),
    "widen": (WIDTH, 4 * WIDTH),
    "narrow": (4 * WIDTH, WIDTH),
}
SHAPES = {
    "tokens.weight": (256, WIDTH),
    "positions.weight": (LENGTH, WIDTH),
    **{f"blocks.{i}.{k}.weight": s for i in range(LAYERS) for k, s in KERNELS.items()},
    "head.weight": (WIDTH, 256),
}
"""Of all parameters, in the order in which they are applied."""
ROLES = {
    "tokens.weight": "embedding",
    "positions.weight": "embedding",
    "head.weight": "output",
}


def save_start(path, seed=0):
    """Writes weights as GPT-2's are initialized: normal, 0.02."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    drawn = {name: rng.normal(0, 0.02, shape) for name, shape in SHAPES.items()}
    save_file({name: x.astype(np.float32) for name, x in drawn.items()}, path)


def batches(num_steps, seed=0):
    """Windows of lopt's own text, [BATCH, LENGTH + 1] bytes: what to read and predict."""
    text = Path(lopt.__file__).with_name("corpus.txt").read_bytes()
    rng = np.random.default_rng(seed)
    for _ in range(num_steps):
        starts = rng.integers(len(text) - LENGTH, size=(BATCH, 1))
        yield np.frombuffer(text, np.uint8)[starts + np.arange(LENGTH + 1)]
