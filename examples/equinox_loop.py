"""An Equinox loop with a learned optimizer: `python examples/equinox_loop.py`.

Half a minute. The lines marked 1 and 2 are all that differs from `optax.adamw`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import lopt


def main(num_steps=300):
    rng = np.random.default_rng(0)
    images, labels = load_digits(return_X_y=True)
    x, y = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
    model = eqx.nn.MLP(64, 10, width_size=48, depth=2, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_array)
    specs = lopt.param_specs(params, output_axis=0)  # Equinox's kernels are [out, in]
    optimizer = lopt.load("layerwise", num_steps=num_steps, specs=specs)  # 1

    @eqx.filter_jit
    def train_step(model, state, x, y):
        def loss_fn(model):
            logits = jax.vmap(model)(x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        loss, grads = eqx.filter_value_and_grad(loss_fn)(model)
        params = eqx.filter(model, eqx.is_array)
        updates, state = optimizer.update(grads, state, params, value=loss)  # 2
        return eqx.apply_updates(model, updates), state, loss

    losses, state = [], optimizer.init(params)
    for step in range(num_steps):
        rows = rng.integers(1500, size=64)
        model, state, loss = train_step(model, state, x[rows], y[rows])
        losses.append(float(loss))
        if step % 50 == 0:
            print(f"step {step}: loss {losses[-1]:.3f}")

    right = jax.vmap(model)(x[1500:]).argmax(1) == y[1500:]
    print(f"accuracy on digits that were not trained on: {right.mean():.1%}")
    return losses


if __name__ == "__main__":
    main()
