"""A language model of bytes, as nanoGPT has them, in jax, with a learned optimizer.

    python examples/language_model_jax.py

One minute. The same weights, batches and optimizer as in language_model_torch.py: the
losses are the same, too. The lines marked 1 and 2 are lopt's.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
from language_model import HEADS, LAYERS, ROLES, SHAPES, START, batches, save_start
from safetensors.flax import load_file

import lopt


def norm(x):
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def block(x, attend, gather, widen, narrow):
    heads = (norm(x) @ attend).reshape(*x.shape[:2], 3, HEADS, -1)
    mixed = jax.nn.dot_product_attention(*jnp.moveaxis(heads, 2, 0), is_causal=True)
    x = x + mixed.reshape(x.shape) @ gather
    return x + jax.nn.gelu(norm(x) @ widen) @ narrow


def loss_fn(params, batch):
    x = params["tokens.weight"][batch[:, :-1]] + params["positions.weight"][None]
    for i in range(LAYERS):
        names = ("attend", "gather", "widen", "narrow")
        x = block(x, *[params[f"blocks.{i}.{name}.weight"] for name in names])
    logits = norm(x) @ params["head.weight"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()


def specs_of(params):
    """Roles, and the order, which a dict does not tell; PyTorch's modules tell both."""
    specs, last = lopt.param_specs(params, roles=ROLES), len(SHAPES) - 1
    places = {name: i / last for i, name in enumerate(SHAPES)}
    return {k: replace(s, depth=places[k], num_layers=last + 1) for k, s in specs.items()}


def main(num_steps=200, start=START):
    params = load_file(start)
    specs = specs_of(params)
    optimizer = lopt.load("layerwise", num_steps=num_steps, specs=specs)  # 1

    @jax.jit
    def train_step(params, state, batch):
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = optimizer.update(grads, state, params, value=loss)  # 2
        return optax.apply_updates(params, updates), state, loss

    losses, state = [], optimizer.init(params)
    for step, batch in enumerate(batches(num_steps)):
        params, state, loss = train_step(params, state, batch)
        losses.append(float(loss))
        if step % 20 == 0:
            print(f"step {step}: loss {losses[-1]:.4f}")
    return losses


if __name__ == "__main__":
    save_start(START)
    main()
