"""A Flax NNX loop with a learned optimizer: `python examples/nnx_loop.py`.

Half a minute. The lines marked 1 and 2 are all that differs from `optax.adamw`.
"""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import lopt


def network(rngs):
    layers = nnx.Linear(64, 48, rngs=rngs), nnx.relu, nnx.Linear(48, 48, rngs=rngs)
    return nnx.Sequential(*layers, nnx.relu, nnx.Linear(48, 10, rngs=rngs))


@nnx.jit
def train_step(model, optimizer, x, y):
    def loss_fn(model):
        logits = model(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads, value=loss)  # 2: the loss, too
    return loss


def main(num_steps=300):
    rng = np.random.default_rng(0)
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    model = network(nnx.Rngs(0))
    learned = lopt.load("layerwise", num_steps=num_steps)  # 1
    optimizer = nnx.Optimizer(model, learned, wrt=nnx.Param)

    losses = []
    for step in range(num_steps):
        rows = rng.integers(1500, size=64)
        losses.append(float(train_step(model, optimizer, x[rows], y[rows])))
        if step % 50 == 0:
            print(f"step {step}: loss {losses[-1]:.3f}")

    right = model(x[1500:]).argmax(1) == y[1500:]
    print(f"accuracy on digits that were not trained on: {right.mean():.1%}")
    return losses


if __name__ == "__main__":
    main()
