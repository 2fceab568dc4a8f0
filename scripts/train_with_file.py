"""Train a small network with an exported learned optimizer, in a plain optax loop.

    python scripts/train_with_file.py runs/quickstart/layerwise.safetensors

Takes about 20 s on 2 cores. The network and the loop are a user's own: nothing of lopt
but `lopt.load`. AdamW, with a cosine schedule at the best of four learning rates, trains
the same networks on the same minibatches. Prints both test losses and accuracies at the
end of training, means over three seeds. One small test set is no comparison: that is
what `lopt evaluate` is for.
"""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import lopt

NUM_STEPS, BATCH_SIZE = 600, 64
SIZES = (64, 48, 48, 10)
SEEDS = (0, 1, 2)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)


def init(key):
    layers = itertools.pairwise(SIZES)
    return [
        {
            "w": jax.random.normal(jax.random.fold_in(key, i), shape) / shape[0] ** 0.5,
            "b": jnp.zeros(shape[1]),
        }
        for i, shape in enumerate(layers)
    ]


def apply(params, x):
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def loss_fn(params, x, y):
    logits = apply(params, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def train(optimizer, x, y, seed):
    """The parameters after `NUM_STEPS` steps with any optax optimizer."""
    optimizer = optax.with_extra_args_support(optimizer)
    params = init(jax.random.key(seed))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, rows):
        loss, grads = jax.value_and_grad(loss_fn)(params, x[rows], y[rows])
        updates, state = optimizer.update(grads, state, params, value=loss)
        return optax.apply_updates(params, updates), state

    rng = np.random.default_rng(seed)
    for _ in range(NUM_STEPS):
        rows = rng.integers(len(x), size=BATCH_SIZE)
        params, state = step(params, state, rows)
    return params


def adamw(rate):
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, rate, warmup_steps=NUM_STEPS // 20, decay_steps=NUM_STEPS
    )
    return optax.adamw(schedule, weight_decay=0.1)


def main(path):
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(labels))
    images, labels = images[order], labels[order]
    train_images = images[:1000]
    images = (images - train_images.mean(axis=0)) / train_images.std()
    x, y = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    (train_x, train_y), valid, test = (
        (x[part], y[part])
        for part in (slice(0, 1000), slice(1000, 1400), slice(1400, None))
    )

    def run(optimizer):
        return [train(optimizer, train_x, train_y, seed) for seed in SEEDS]

    def mean_loss(networks, x, y):
        return float(np.mean([loss_fn(params, x, y) for params in networks]))

    def accuracy(params, x, y):
        return (apply(params, x).argmax(-1) == y).mean()

    learned = run(lopt.load(path, num_steps=NUM_STEPS))
    tried = [run(adamw(rate)) for rate in RATES]
    best = int(np.argmin([mean_loss(networks, *valid) for networks in tried]))

    print(f"{NUM_STEPS} steps, network {SIZES}, handwritten digits, {len(SEEDS)} seeds")
    for name, networks in (
        (path, learned),
        (f"AdamW, best of {len(RATES)} rates: {RATES[best]:g}", tried[best]),
    ):
        correct = float(np.mean([accuracy(params, *test) for params in networks]))
        loss = mean_loss(networks, *test)
        print(f"  test loss {loss:.3f}, accuracy {correct:.1%}: {name}")


if __name__ == "__main__":
    main(sys.argv[1])
