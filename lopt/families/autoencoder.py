"""Autoencoders, plain and variational: dense layers to a code of few numbers, and back.

The variational loss is 2 σ² / D times the negative bound on the log-likelihood (ELBO) of
a Gaussian decoder of variance σ² = kl_weight / 2, but for a constant:

    mean (x - x̂)² + kl_weight KL / D,    KL = ½ Σ (μ² + s² - 1 - log s²),    z = μ + s ε

Gaussian and not Bernoulli, for inputs are standardized: they are no probabilities.
(Kingma and Welling, arXiv 1312.6114, 2013; the weight: Higgins et al., beta-VAE, 2017.)

Shapes in names: B examples of a batch, D inputs, Z numbers of a code.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

import jax.numpy as jnp

from lopt import mup, prng
from lopt.base import Array, Params, PRNGKey, Task
from lopt.checks import check_choices, check_integers, check_positive
from lopt.data import Examples, short_name
from lopt.factories import taken
from lopt.families.batch_norm import LayerMoments
from lopt.families.dense import apply_dense, dense_shapes
from lopt.families.examples import guess_bound, load
from lopt.families.network import Network, init_network, network_specs, network_task


def autoencoder(
    *,
    dataset: str = "digits",
    width: int = 32,
    depth: int = 1,
    code_size: int = 8,
    variational: bool = False,
    kl_weight: float = 0.1,
    batch_size: int = 64,
    activation: str = "relu",
    normalization: str = "none",
    init: str = "lecun",
    form: mup.Form = "mup",
    base_width: int = 32,
    output_init: float = 0.1,
    num_examples: int | None = None,
    eval_examples: int | None = None,
    classes: Sequence[int] | None = None,
    data_seed: int = 0,
    stream_examples: int | None = None,
) -> Task:
    """An autoencoder, plain or variational; metrics: `reconstruction`, `kl`.

    The mean input costs 1; `kl` is in nats an example, 0 if not variational.

    Args:
      dataset: a name in `lopt.data.DATASETS` or a path; its labels are not read.
      width: units of each hidden layer.
      depth: hidden layers of the encoder, and of the decoder.
      code_size: numbers of a code.
      variational: whether the code is a sample, and its distribution is paid for.
      kl_weight: of what is paid.
      batch_size: and all that follow: as of `mlp`.

    Raises:
      ConfigError: an option is out of range, or names something unknown.
    """
    options = locals()
    data, suffix, stream = load(**taken(load, options))
    net = Network(**taken(Network, options))
    check_integers(1, code_size=code_size, batch_size=batch_size)
    check_choices((True, False), variational=variational)
    check_positive(kl_weight=kl_weight)
    kind = "vae" if variational else "autoencoder"
    name = f"{kind}-{short_name(dataset)}-{depth}x{width}-code-{code_size}-{activation}"
    name += f"-kl-{kl_weight:g}" if variational and kl_weight != 0.1 else ""
    weight = float(kl_weight) if variational else 0.0
    task = _task(net, data["train"][0].shape[1], code_size, weight, batch_size)
    bound = guess_bound(x for x, _ in data.values())
    name += net.suffix + suffix
    return replace(task, name=name, data=data, stream=stream, loss_bound=bound)


@cache
def _task(
    net: Network, num_inputs: int, code_size: int, kl_weight: float, batch_size: int
) -> Task:
    statistics = 2 * code_size if kl_weight else code_size
    shapes = dense_shapes(net, (num_inputs, statistics), (code_size, num_inputs))
    init, specs = partial(init_network, net, shapes), network_specs(net, shapes)

    def measure(params: Params, running: LayerMoments, batch: Examples, key: PRNGKey):
        x_DxB = batch[0].T
        layers = sorted(params.items())
        encoder, decoder = dict(layers[: net.depth + 1]), dict(layers[net.depth + 1 :])
        code_ZxB, own = apply_dense(net, specs, encoder, x_DxB, running)
        kl = jnp.zeros(())
        if kl_weight:
            code_ZxB, kl = _sample(key, code_ZxB)
        found_DxB, decoded = apply_dense(net, specs, decoder, code_ZxB, running)
        reconstruction = jnp.mean((found_DxB - x_DxB) ** 2)
        value = reconstruction + kl_weight / num_inputs * kl
        return (value, {"reconstruction": reconstruction, "kl": kl}), own | decoded

    return network_task(net, init, measure, specs=specs, batch_size=batch_size)


def _sample(key: PRNGKey, statistics: Array) -> tuple[Array, Array]:
    """Codes [Z, B] of these means and log-variances, and the mean KL from N(0, 1)."""
    mean_ZxB, log_variance_ZxB = jnp.split(statistics, 2)
    noise_ZxB = prng.normal(key, *mean_ZxB.shape)
    code_ZxB = mean_ZxB + jnp.exp(0.5 * log_variance_ZxB) * noise_ZxB
    terms = mean_ZxB**2 + jnp.exp(log_variance_ZxB) - 1 - log_variance_ZxB
    return code_ZxB, 0.5 * jnp.mean(jnp.sum(terms, axis=0))
