"""Multilayer perceptrons that predict numbers from tables.

Shapes in names: B examples of a batch, D inputs, K targets.
"""

from dataclasses import replace
from functools import cache, partial

import jax.numpy as jnp

from lopt import mup
from lopt.base import Params, PRNGKey, Task
from lopt.checks import check_integers
from lopt.data import Examples, short_name
from lopt.factories import taken
from lopt.families.batch_norm import LayerMoments
from lopt.families.dense import apply_dense, dense_shapes
from lopt.families.examples import guess_bound, load
from lopt.families.network import Network, init_network, network_specs, network_task


def regression(
    *,
    dataset: str = "diabetes",
    width: int = 32,
    depth: int = 2,
    batch_size: int = 32,
    activation: str = "relu",
    normalization: str = "none",
    init: str = "lecun",
    form: mup.Form = "mup",
    base_width: int = 32,
    output_init: float = 0.1,
    num_examples: int | None = None,
    input_scale: float = 1.0,
    input_offset: float = 0.0,
    eval_examples: int | None = None,
    data_seed: int = 0,
    stream_examples: int | None = None,
) -> Task:
    """A multilayer perceptron trained on squared error; metrics: `r2`.

    Targets have unit variance over the train split: a guess at its mean costs 1 there.

    Args:
      dataset: a name in `lopt.data.DATASETS` or a path (`lopt.disk`), of targets.
      width: and all from here to `stream_examples`: as of `mlp`.
      depth: 0 is linear regression.
      batch_size: examples of a minibatch, drawn with replacement.
      activation: and all from here to `output_init`: see `lopt.families.network.Network`.
      num_examples: and all that follow: as of `mlp`.

    Raises:
      ConfigError: an option is out of range, or names something unknown.
    """
    options = locals()
    data, suffix, stream = load(of="targets", **taken(load, options))
    net = Network(**taken(Network, options))
    check_integers(1, batch_size=batch_size)
    x, y = data["train"]
    name = f"regression-{short_name(dataset)}-{depth}x{width}-{activation}"
    return replace(
        _task(net, (x.shape[1], y.shape[1]), batch_size),
        name=name + net.suffix + suffix,
        data=data,
        stream=stream,
        loss_bound=guess_bound(y for _, y in data.values()),
    )


@cache
def _task(net: Network, ends: tuple[int, int], batch_size: int) -> Task:
    shapes = dense_shapes(net, ends)
    init, specs = partial(init_network, net, shapes), network_specs(net, shapes)

    def measure(params: Params, running: LayerMoments, batch: Examples, key: PRNGKey):
        del key
        x_BxD, y_BxK = batch
        guess_KxB, own = apply_dense(net, specs, params, x_BxD.T, running)
        value = jnp.mean((guess_KxB - y_BxK.T) ** 2)
        # Against the mean of the train split, which is zero: a batch's own mean would be
        # no guess, and of one example there is no variance.
        return (value, {"r2": 1 - value / jnp.mean(y_BxK**2)}), own

    return network_task(net, init, measure, specs=specs, batch_size=batch_size)
