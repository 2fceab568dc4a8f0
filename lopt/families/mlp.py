"""Multilayer perceptrons that classify small vectors and images."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

import jax

from lopt import mup
from lopt.base import Params, PRNGKey, Task
from lopt.checks import check_choices, check_integers
from lopt.config import BrokenRule
from lopt.data import Examples, short_name
from lopt.factories import taken
from lopt.families.batch_norm import LayerMoments
from lopt.families.classification import count_classes, cross_entropy, loss_bound
from lopt.families.dense import apply_dense, dense_shapes
from lopt.families.examples import load
from lopt.families.network import Network, init_network, network_specs, network_task


def mlp(
    *,
    dataset: str = "digits",
    width: int = 32,
    depth: int = 2,
    batch_size: int = 64,
    activation: str = "relu",
    normalization: str = "none",
    init: str = "lecun",
    form: mup.Form = "mup",
    base_width: int = 32,
    output_init: float = 0.1,
    specs: str = "stated",
    num_examples: int | None = None,
    label_noise: float = 0.0,
    input_scale: float = 1.0,
    input_offset: float = 0.0,
    eval_examples: int | None = None,
    classes: Sequence[int] | None = None,
    data_seed: int = 0,
    stream_examples: int | None = None,
) -> Task:
    """A multilayer perceptron that classifies; metrics: `accuracy`.

    Args:
      dataset: a name in `lopt.data.DATASETS` or a path (`lopt.disk`), of classes.
      width: units of each hidden layer.
      depth: number of hidden layers; 0 is logistic regression.
      batch_size: examples of a minibatch, drawn with replacement.
      activation: and all from here to `output_init`: see `lopt.families.network.Network`.
      specs: "stated" tells the optimizer all there is to know of each tensor, "inferred"
        what shapes tell, as of parameters that a user gives without `specs`; the form
        must then be "plain".
      num_examples: of the train split; None: 2000, or all of them.
      label_noise: fraction of the train split's labels that are wrong.
      input_scale: s in s (x + input_offset): inputs that are not of unit RMS.
      input_offset: in units of their RMS: inputs that are not centered. Pixels from 0 to
        1 are about 0.27 (x + 1.1).
      eval_examples: of each other split, at most; None: 400.
      classes: of whose examples the task is, labelled 0, 1, … in this order; None: all.
      data_seed: of the examples and labels that are drawn, and of the splits but test.
      stream_examples: of the train split are on the device at a time; meta-training goes
        through all of it in such chunks (`lopt.streams`). All else sees the first one.

    Raises:
      ConfigError: an option is out of range, or names something unknown.
    """
    options = locals()
    data, suffix, stream = load(of="classes", **taken(load, options))
    net = Network(**taken(Network, options))
    check_integers(1, batch_size=batch_size)
    check_choices(("stated", "inferred"), specs=specs)
    if specs == "inferred" and form != "plain":
        raise BrokenRule("form", "be `plain` where specs are inferred", form)
    name = f"mlp-{short_name(dataset)}-{depth}x{width}-{activation}"
    name += net.suffix + ("-inferred" if specs == "inferred" else "")
    ends = data["train"][0].shape[1], count_classes(data)
    task = _task(net, ends, batch_size, specs)
    bound = loss_bound(ends[1])
    name += suffix
    return replace(task, name=name, data=data, stream=stream, loss_bound=bound)


@cache
def _task(net: Network, ends: tuple[int, int], batch_size: int, specs: str) -> Task:
    """The same functions for the same network."""
    init = partial(init_network, net, dense_shapes(net, ends))
    known = network_specs(net, dense_shapes(net, ends))
    if specs == "inferred":
        known = mup.infer_specs(jax.eval_shape(init, jax.random.key(0)))

    def measure(params: Params, running: LayerMoments, batch: Examples, key: PRNGKey):
        del key
        x_BxD, y_B = batch
        logits_CxB, own = apply_dense(net, known, params, x_BxD.T, running)
        return cross_entropy(logits_CxB, y_B), own

    return network_task(net, init, measure, specs=known, batch_size=batch_size)
