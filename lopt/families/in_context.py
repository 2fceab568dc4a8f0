"""In-context linear regression: transformers that learn a linear map from examples.

Each sequence of a minibatch is a problem of its own, drawn anew: w and all x_i from
N(0, I), y_i = wᵀx_i / √d. Its places are (x_i, y_i), i = 1 … n, and a query (x, 0), in no
order. With h = W_in [x; y] of each, s running over the examples but not over the query,

    linear:   h ← h + W_out Σ_s W_v h_s (scale h_sᵀ W_kᵀ W_q h) / n,   once in each block,
    softmax:  the blocks of `lopt.families.blocks`,

and the prediction is f W_y h of the query. The loss is its squared error: a guess at zero
costs 1, a step of gradient descent, as a linear block can take it, (d + 1) / (n + d + 1).
(Garg et al., arXiv 2208.01066, 2022; von Oswald et al., Transformers learn in-context by
gradient descent, 2212.07677, 2023; the linear kind: Ahn et al., 2306.00297, 2023.)

Shapes in names: B sequences, T = n + 1 places, N = BT, D inputs, P = D + 1, W width.
"""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from lopt import mup, prng
from lopt.base import SPLITS, Array, Data, Params, PRNGKey, Split, Task
from lopt.checks import check_choices, check_integers
from lopt.factories import taken
from lopt.families import attention, blocks
from lopt.families.layers import preactivation, specs_by_name
from lopt.families.stateless import Measured, stateless_task

EVAL_SEQUENCES: dict[Split, int] = {"train": 64, "meta": 128, "valid": 256, "test": 512}
"""What a curve is read on: the same problems each time."""
KINDS = {
    "linear": (blocks.attention_shapes, blocks.apply_attention, attention.linear),
    "softmax": (blocks.block_shapes, blocks.apply_blocks, attention.softmax),
}


def in_context(
    *,
    kind: str = "linear",
    num_inputs: int = 4,
    context: int = 16,
    width: int = 32,
    depth: int = 2,
    num_heads: int = 1,
    batch_size: int = 64,
    form: mup.Form = "mup",
    base_width: int = 32,
    data_seed: int = 0,
) -> Task:
    """In-context linear regression by a transformer; no metrics.

    Args:
      kind: "linear", attention alone, or "softmax", whole blocks.
      num_inputs: d, numbers of an x.
      context: n, examples before the query.
      width: and all not told of: see `lopt.families.blocks.Blocks`.
      batch_size: sequences of a minibatch.
      data_seed: of the problems that curves are read on.

    Raises:
      ConfigError: an option is out of range.
    """
    net = blocks.Blocks(**taken(blocks.Blocks, locals()))
    check_choices(KINDS, kind=kind)
    check_integers(1, num_inputs=num_inputs, context=context, batch_size=batch_size)
    check_integers(0, most=2**32 - 1, data_seed=data_seed)
    keys = np.random.RandomState(data_seed).randint(2**32, size=(4, 2), dtype=np.uint32)
    suffix = "-plain" if form == "plain" else ""
    suffix += f"-data-{data_seed}" if data_seed else ""
    name = f"in-context-{kind}-{context}x{num_inputs}-{depth}x{width}" + suffix
    data = {split: jnp.asarray(key) for split, key in zip(SPLITS, keys, strict=True)}
    task = _task(net, kind, num_inputs, context, batch_size)
    return replace(task, name=name, data=data)


@cache
def _task(net: blocks.Blocks, kind: str, d: int, n: int, batch_size: int) -> Task:
    seen_TxS = jnp.broadcast_to(jnp.arange(n + 1) < n, (n + 1, n + 1))
    shapes, apply, weigh = KINDS[kind]
    places = {"length": n + 1, "weigh": partial(weigh, seen_TxS=seen_TxS)}

    def init(key: PRNGKey, width: int = net.width) -> Params:
        first, last = {"inputs": (d + 1, width)}, {"outputs": (width, 1)}
        layers = [first, *shapes(width) * net.depth, last]
        return blocks.draw_blocks(key, layers, net.depth)

    def loss(params: Params, sequences: tuple[Array, Array], key: PRNGKey) -> Measured:
        del key
        z_PxN, y_B = sequences
        first, *layers, last = (params[name] for name in sorted(params))
        h_WxN = preactivation(first["inputs"].T @ z_PxN)
        h_WxB = apply(net, layers, h_WxN, **places)[:, n :: n + 1]
        forward = specs[max(specs)]["outputs"].forward
        found_1xB = preactivation(forward * last["outputs"].T @ h_WxB)
        return jnp.mean((found_1xB[0] - y_B) ** 2), {}

    def batch(key: PRNGKey, data: Data, split: Split) -> tuple[Array, Array]:
        del data, split
        return draw_sequences(key, batch_size, n, d)

    def eval_batch(data: Data, split: Split) -> tuple[Array, Array]:
        key = jax.random.wrap_key_data(data[split])
        return draw_sequences(key, EVAL_SEQUENCES[split], n, d)

    specs = specs_by_name(init, net)
    draw = {"batch": batch, "eval_batch": eval_batch}
    return stateless_task(init, loss, specs=specs, loss_bound=2.0, **draw)


def draw_sequences(key: PRNGKey, num: int, n: int, d: int) -> tuple[Array, Array]:
    """Places [P, N] of so many sequences, and the answers [B] to their queries."""
    drawn = prng.normal(key, d, num, n + 2)
    w_DxBx1, x_DxBxT = drawn[:, :, :1], drawn[:, :, 1:]
    y_BxT = jnp.sum(w_DxBx1 * x_DxBxT, axis=0) / d**0.5
    told_1xBxT = y_BxT.at[:, n].set(0.0)[None]
    return jnp.concatenate([x_DxBxT, told_1xBxT]).reshape(d + 1, -1), y_BxT[:, n]
