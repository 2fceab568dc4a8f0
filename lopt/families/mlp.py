"""Multilayer perceptrons that classify small vectors and images.

    h_0 = x,    h_l = act(norm(h_{l-1} W_l) + b_l),    logits = f h_L W_out + b_out

Shapes in names: B examples of a batch, D inputs of a layer, C classes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from lopt import mup, prng
from lopt.base import Array, Data, ModelState, Params, PRNGKey, Role, Specs, Split, Task
from lopt.config import BrokenRule
from lopt.data import Examples, dataset, sample_batch
from lopt.numerics import product

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}
INITS: dict[str, tuple[Callable[..., Array], float]] = {
    "lecun": (prng.normal, 1.0),
    "he": (prng.normal, 2.0),
    "uniform": (lambda *args: 3**0.5 * (2 * prng.uniform(*args) - 1), 1 / 3),
}
"""A law of unit variance, and the variance of weights times fan_in. "uniform" is what
torch's `Linear` has."""
NORMALIZATIONS = ("none", "layer")
SPECS = ("stated", "inferred")


@dataclass(frozen=True, kw_only=True)
class _Net:
    """What the functions of a task depend on; one compiled program for each."""

    num_inputs: int
    num_classes: int
    width: int
    depth: int
    batch_size: int
    activation: str
    normalization: str
    init: str
    form: mup.Form
    base_width: int
    output_init: float
    specs: str


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
    data_seed: int = 0,
) -> Task:
    """A classifier trained on softmax cross-entropy; metrics: `accuracy`.

    Args:
      dataset: a name in `lopt.data.DATASETS`.
      width: units of each hidden layer.
      depth: number of hidden layers; 0 is logistic regression.
      batch_size: examples of a minibatch, drawn with replacement.
      activation: "relu", "tanh", "gelu" or "silu".
      normalization: "layer" normalizes each hidden layer before its gain and bias.
      init: "lecun", "he" or "uniform": the distribution that weights start from.
      form: "mup" multiplies the output weights' product by base_width / width; "plain"
        does not.
      base_width: the width at which both forms agree.
      output_init: what the initial output weights are multiplied by.
      specs: "stated" tells the optimizer all there is to know of each tensor, "inferred"
        what shapes tell, as of parameters that a user gives without `specs`; the form
        must then be "plain".
      num_examples: of the train split; None: all of them.
      label_noise: fraction of the train split's labels that are wrong.
      input_scale: s in s (x + input_offset): inputs that are not of unit RMS.
      input_offset: in units of their RMS: inputs that are not centered. Pixels from 0 to
        1 are about 0.27 (x + 1.1).
      data_seed: of the examples and labels that are drawn, and of the splits but test.

    Raises:
      ConfigError: an option is out of range, or names something unknown.
    """
    options = {
        "width": width,
        "depth": depth,
        "batch_size": batch_size,
        "activation": activation,
        "normalization": normalization,
        "init": init,
        "form": form,
        "base_width": base_width,
        "output_init": output_init,
        "specs": specs,
    }
    variation = {
        "num_examples": num_examples,
        "label_noise": label_noise,
        "input_scale": input_scale,
        "input_offset": input_offset,
    }
    _validate(options)
    _validate_variation(_dataset(dataset), variation, data_seed)
    data = _dataset(dataset, **variation, seed=data_seed)
    num_inputs = data["train"][0].shape[1]
    num_classes = 1 + max(int(y.max()) for _, y in data.values())
    net = _Net(num_inputs=num_inputs, num_classes=num_classes, **options)
    name = f"mlp-{dataset}-{depth}x{width}-{activation}"
    name += "-layer-norm" if normalization == "layer" else ""
    name += "-plain" if form == "plain" else ""
    name += "-inferred" if specs == "inferred" else ""
    name += f"-{num_examples}-examples" if num_examples is not None else ""
    name += f"-noise-{label_noise:g}" if label_noise else ""
    name += f"-scale-{input_scale:g}" if input_scale != 1 else ""
    name += f"-offset-{input_offset:g}" if input_offset else ""
    name += f"-data-{data_seed}" if data_seed else ""
    return replace(_task(net), name=name, data=data)


_dataset = dataset  # `mlp` has an option of that name


def _validate(options: Mapping[str, Any]) -> None:
    least = {"width": 1, "depth": 0, "batch_size": 1, "base_width": 1}
    for option, lowest in least.items():
        value = options[option]
        if type(value) is not int or value < lowest:
            raise BrokenRule(option, f"be an integer of at least {lowest}", value)
    value = options["output_init"]
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise BrokenRule("output_init", "be a number of at least 0", value)
    choices = {
        "activation": ACTIVATIONS,
        "normalization": NORMALIZATIONS,
        "init": INITS,
        "form": mup.FORMS,
        "specs": SPECS,
    }
    for option, known in choices.items():
        if options[option] not in known:
            rule = "be " + " or ".join(f"`{name}`" for name in known)
            raise BrokenRule(option, rule, options[option])
    if options["specs"] == "inferred" and options["form"] != "plain":
        raise BrokenRule("form", "be `plain` where specs are inferred", options["form"])


def _validate_variation(
    data: Mapping[Split, Examples], variation: Mapping[str, Any], seed: int
) -> None:
    most = len(data["train"][1])
    value = variation["num_examples"]
    if value is not None and (type(value) is not int or not 1 <= value <= most):
        raise BrokenRule("num_examples", f"be an integer from 1 to {most}", value)
    rules: dict[str, tuple[Callable[[float], bool], str]] = {
        "label_noise": (lambda v: 0 <= v < 1, "be a number of at least 0 and below 1"),
        "input_scale": (lambda v: 0 < v < math.inf, "be a positive number"),
        "input_offset": (lambda v: -math.inf < v < math.inf, "be a finite number"),
    }
    for option, (holds, rule) in rules.items():
        value = variation[option]
        if type(value) not in (int, float) or not holds(value):
            raise BrokenRule(option, rule, value)
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise BrokenRule("data_seed", "be an integer of at least 0", seed)


@cache
def _task(net: _Net) -> Task:
    """The task without its name and data: the same functions for the same net."""
    specs = _specs(net)
    *_, output = specs.values()
    forward = output["w"].forward

    def init(key: PRNGKey, data: Data) -> tuple[Params, ModelState]:
        del data
        return _init(net, key), ()

    def batch(key: PRNGKey, data: Data, split: Split) -> Examples:
        return sample_batch(key, data[split], net.batch_size)

    def eval_batch(data: Data, split: Split) -> Examples:
        return data[split]

    def loss(params: Params, model_state: ModelState, batch: Examples, key: PRNGKey):
        del key
        x_BxD, y_B = batch
        logits_CxB = _logits(net, forward, params, x_BxD)
        correct_B = jnp.argmax(logits_CxB, axis=0) == y_B
        metrics = {"accuracy": jnp.mean(correct_B, dtype=logits_CxB.dtype)}
        return _cross_entropy(logits_CxB, y_B), (model_state, metrics)

    return Task(
        name="",
        data=None,
        specs=specs,
        loss_bound=1.5 * math.log(net.num_classes),
        init=init,
        batch=batch,
        eval_batch=eval_batch,
        loss=loss,
    )


def _layer_names(net: _Net) -> list[str]:
    """Names that sort in the order of the layers, as jax sorts the keys of dicts."""
    digits = len(str(net.depth))
    return [f"layer_{i:0{digits}}" for i in range(net.depth + 1)]


def _init(net: _Net, key: PRNGKey) -> Params:
    names = _layer_names(net)
    sizes = [net.num_inputs, *[net.width] * net.depth, net.num_classes]
    draw, gain = INITS[net.init]
    # One draw for all layers: each further one costs compile time in every program.
    noise = draw(key, sum(i * o for i, o in pairwise(sizes)))
    params, used = {}, 0
    for name, (fan_in, fan_out) in zip(names, pairwise(sizes), strict=True):
        w = noise[used : used + fan_in * fan_out].reshape(fan_in, fan_out)
        used += fan_in * fan_out
        params[name] = {"w": w * math.sqrt(gain / fan_in), "b": jnp.zeros(fan_out)}
        if net.normalization == "layer" and name != names[-1]:
            params[name]["scale"] = jnp.ones(fan_out)
    params[names[-1]]["w"] *= net.output_init
    return params


def _specs(net: _Net) -> Specs:
    key = jax.random.key(0)
    if net.specs == "inferred":
        return mup.infer_specs(jax.eval_shape(partial(_init, net), key))
    names = _layer_names(net)
    roles: dict[str, Role] = {f"{name}/w": "hidden" for name in names}
    roles[f"{names[0]}/w"] = "input"
    roles[f"{names[-1]}/w"] = "output"
    if net.normalization == "layer":
        roles |= {f"{name}/scale": "norm" for name in names[:-1]}
    base = replace(net, width=net.base_width)
    specs = mup.param_specs(
        jax.eval_shape(partial(_init, net), key),
        base_params=jax.eval_shape(partial(_init, base), key),
        roles=roles,
        form=net.form,
    )
    last = max(net.depth, 1)
    return {
        name: {
            key: replace(spec, depth=i / last, num_layers=net.depth + 1)
            for key, spec in specs[name].items()
        }
        for i, name in enumerate(names)
    }


def _logits(net: _Net, forward: float, params: Params, x_BxD: Array) -> Array:
    """The logits [C, B]; examples last, for products of few features are faster so."""
    *hidden, output = (params[name] for name in _layer_names(net))
    h_DxB = x_BxD.T
    for layer in hidden:
        h_DxB = product(layer["w"], h_DxB)
        if net.normalization == "layer":
            h_DxB = jax.nn.standardize(h_DxB, axis=0) * layer["scale"][:, None]
        h_DxB = ACTIVATIONS[net.activation](h_DxB + layer["b"][:, None])
    return forward * product(output["w"], h_DxB) + output["b"][:, None]


def _cross_entropy(logits_CxB: Array, y_B: Array) -> Array:
    # One-hot, because a gather's gradient is a scatter, which is slow under vmap.
    num_classes = logits_CxB.shape[0]
    target_CxB = jax.nn.one_hot(y_B, num_classes, dtype=logits_CxB.dtype, axis=0)
    log_p_CxB = jax.nn.log_softmax(logits_CxB, axis=0)
    return -jnp.mean(jnp.sum(target_CxB * log_p_CxB, axis=0))
