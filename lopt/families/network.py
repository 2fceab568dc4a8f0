"""Networks of layers in a row, each a weight, a bias and perhaps a gain.

    h_l = act(norm(W_l * h_{l-1}) + b_l),    y = f W_out * h_L + b_out

where * is a product of matrices or a convolution. A network is told by the shapes of its
weights at any width; what grows with the width decides on the roles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from lopt import mup
from lopt.base import Array, Batch, Params, PRNGKey, Role, Specs, Task
from lopt.checks import check_choices, check_integers, check_not_negative
from lopt.families.batch_norm import (
    Measure,
    Moments,
    normalized,
    with_running_moments,
)
from lopt.families.examples import task_on_examples
from lopt.families.layers import (
    ACTIVATIONS,
    INITS,
    draw_weights,
    layer_names,
    layer_specs,
    preactivation,
)
from lopt.families.stateless import Measured

NORMALIZATIONS = ("none", "layer", "batch")

Shapes = Callable[[int], Sequence[tuple[int, ...]]]
"""From the width to the shapes of the weights in order, [in, out] or HWIO."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """What families of networks have in common.

    Attributes:
      width: units or channels of each hidden layer.
      depth: number of hidden layers, as the family counts them.
      activation: "relu", "tanh", "gelu" or "silu".
      normalization: "layer" normalizes each hidden layer before its gain and bias over
        its features, "batch" over examples (lopt.families.batch_norm).
      init: "lecun", "he" or "uniform": the distribution that weights start from.
      form: "mup" multiplies the output weights' product by base_width / width; "plain"
        does not.
      base_width: the width at which both forms agree.
      output_init: what initial weights are multiplied by where no activation follows.

    Raises:
      BrokenRule: an option is out of range.
    """

    width: int
    depth: int
    activation: str
    normalization: str
    init: str
    form: mup.Form
    base_width: int
    output_init: float

    def __post_init__(self):
        check_integers(1, width=self.width, base_width=self.base_width)
        check_integers(0, depth=self.depth)
        check_not_negative(output_init=self.output_init)
        check_choices(ACTIVATIONS, activation=self.activation)
        check_choices(NORMALIZATIONS, normalization=self.normalization)
        check_choices(INITS, init=self.init)
        check_choices(mup.FORMS, form=self.form)

    @property
    def suffix(self) -> str:
        """What a task's name tells of the options that are rarely changed."""
        norm = "" if self.normalization == "none" else f"-{self.normalization}-norm"
        return norm + ("-plain" if self.form == "plain" else "")


def init_network(
    net: Network, shapes: Shapes, key: PRNGKey, width: int | None = None
) -> Params:
    """Initial parameters `{layer: {"w", "b", "scale"}}`, at another width if given."""
    weights = draw_weights(key, shapes(width or net.width), net.init)
    names, params = layer_names(len(weights)), {}
    for name, w, role in zip(names, weights, _roles(shapes), strict=True):
        params[name] = {"w": w, "b": jnp.zeros(w.shape[-1])}
        if net.normalization != "none" and role != "output":
            params[name]["scale"] = jnp.ones(w.shape[-1])
        if role == "output":
            params[name]["w"] *= net.output_init
    return params


def network_specs(net: Network, shapes: Shapes) -> Specs:
    """The specs of `init_network`'s parameters."""
    weights = _roles(shapes)
    names = layer_names(len(weights))
    roles: dict[str, Role] = {
        f"{name}/w": role for name, role in zip(names, weights, strict=True)
    }
    if net.normalization != "none":
        hidden = [name for name in names if roles[f"{name}/w"] != "output"]
        roles |= {f"{name}/scale": "norm" for name in hidden}
    return layer_specs(
        partial(init_network, net, shapes),
        width=net.width,
        base_width=net.base_width,
        roles=roles,
        form=net.form,
    )


def activate(
    net: Network, layer: Params, h: Array, running: Moments | None = None
) -> tuple[Array, Moments | None]:
    """act(norm(h) + b) of products [D, ...]: features first, examples last.

    Batch normalization is by the running moments, or the batch's own where None; these
    come second.
    """
    vector, own = (-1, *[1] * (h.ndim - 1)), None
    if net.normalization == "layer":
        h = jax.nn.standardize(h, axis=0)
    if net.normalization == "batch":
        h, own = normalized(h, running)
    if net.normalization != "none":
        h = h * layer["scale"].reshape(vector)
    h = preactivation(h + layer["b"].reshape(vector))
    return ACTIVATIONS[net.activation](h), own


def network_task(
    net: Network,
    init: Callable[[PRNGKey], Params],
    measure: Measure,
    *,
    specs: Specs,
    batch_size: int,
) -> Task:
    """A task on examples, without its name, data and bound; see `task_on_examples`."""

    def loss(params: Params, batch: Batch, key: PRNGKey) -> Measured:
        return measure(params, {}, batch, key)[0]

    task = task_on_examples(init, loss, specs=specs, batch_size=batch_size)
    return with_running_moments(task, measure) if net.normalization == "batch" else task


def _roles(shapes: Shapes) -> list[Role]:
    """Of the weights, by what grows; an output does not, whatever its inputs do."""
    roles: list[Role] = []
    for thin, wide in zip(shapes(1), shapes(2), strict=True):
        grows = thin[-2] != wide[-2], thin[-1] != wide[-1]
        is_input: Role = "input" if grows == (False, True) else "output"
        roles.append("hidden" if all(grows) else is_input)
    return roles
