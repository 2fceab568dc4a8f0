"""What is known of a parameter tensor before training; needs nothing but Python.

Optimizers in jax and in torch read it. What its widths mean for a step is told, and
derived, in mup.py.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

Role = Literal["input", "hidden", "output", "embedding", "bias", "norm", "scalar"]
ROLES: tuple[Role, ...] = (
    "input", "hidden", "output", "embedding", "bias", "norm", "scalar",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ParamSpec:
    """What is known, before training, about one parameter tensor.

    The one home of muP, of axis layout and of roles. Specs are static: they are part of
    a compiled program. A tree of specs has the structure of the parameters.

    Attributes:
      role: the tensor's place in the network.
      shape: the tensor's shape.
      in_axes: axes that are summed over when the tensor is applied; `()` for vectors.
      out_axes: axes that remain. A jax dense kernel [in, out] has in_axes (0,), out_axes
        (1,); a torch `Linear` [out, in] the reverse; a convolution HWIO (0, 1, 2), (3,).
      width_in: fan-in over the fan-in of the base model, 1 where it does not grow.
      width_out: the same for the fan-out.
      forward: what the model multiplies this tensor's product by (muP form: 1/width_in
        on the output layer; a plain model: 1).
      depth: place in the network, 0 first to 1 last; None where unknown.
      num_layers: how many weight tensors are in a row in the network; None where unknown.
    """

    role: Role
    shape: tuple[int, ...]
    in_axes: tuple[int, ...] = ()
    out_axes: tuple[int, ...] = ()
    width_in: float = 1.0
    width_out: float = 1.0
    forward: float = 1.0
    depth: float | None = None
    num_layers: int | None = None

    @property
    def fan_in(self) -> int:
        """Number of terms in each output's sum; 1 for vectors and scalars."""
        return math.prod(self.shape[a] for a in self.in_axes)

    @property
    def fan_out(self) -> int:
        """Number of outputs."""
        return math.prod(self.shape[a] for a in self.out_axes)

    @property
    def is_matrix(self) -> bool:
        """Whether the tensor is a linear map, in_axes -> out_axes, that has elements."""
        return bool(self.in_axes and self.out_axes) and 0 not in self.shape


Form = Literal["mup", "plain"]
FORMS: tuple[Form, ...] = ("mup", "plain")
Kind = Literal["entrywise", "orthogonalized", "relative", "gradient"]


def update_multiplier(spec: ParamSpec, kind: Kind) -> float:
    """What a direction is multiplied by, 1 at the base width.

    Args:
      spec: the tensor that is updated.
      kind: how the direction scales with width; see the docstring of mup.py. An
        "orthogonalized" base takes vectors and embeddings entry by entry; what is
        "relative" has been multiplied by the RMS of the tensor, in which 1/√width_in of
        the multiplier lies already.
    """
    is_summed = spec.is_matrix and spec.role != "embedding"
    if kind == "gradient":
        share = spec.width_in * spec.forward**2 if is_summed else 1.0
        return spec.width_out / share
    if not is_summed:
        return 1.0
    if kind == "entrywise":
        return 1.0 / (spec.width_in * spec.forward)
    if kind == "relative":
        return 1.0 / (math.sqrt(spec.width_in) * spec.forward)
    base_in, base_out = spec.fan_in / spec.width_in, spec.fan_out / spec.width_out
    spectral_norm = max(spec.fan_in, spec.fan_out) / max(base_in, base_out)
    wanted = spec.width_out / spec.width_in
    return math.sqrt(wanted / spectral_norm) / spec.forward


def spec_of_shape(shape: tuple[int, ...], output_axis: int) -> ParamSpec:
    """What a shape alone tells, for kernels with this axis of outputs, 0 or -1."""
    rank = len(shape)
    if rank == 0:
        return ParamSpec(role="scalar", shape=shape)
    out_axes = (range(rank)[output_axis],)
    if rank == 1:
        return ParamSpec(role="bias", shape=shape, out_axes=out_axes)
    in_axes = tuple(axis for axis in range(rank) if axis not in out_axes)
    return ParamSpec(role="hidden", shape=shape, in_axes=in_axes, out_axes=out_axes)


def compared(spec: ParamSpec, base_param: Any) -> ParamSpec:
    """The spec with widths, and the role that follows, from the base model's tensor.

    Raises:
      ValueError: the ranks differ.
    """
    base = replace(spec, shape=tuple(base_param.shape))
    if len(base.shape) != len(spec.shape):
        message = f"a parameter of shape {spec.shape} has base shape {base.shape}"
        raise ValueError(f"{message}: the ranks must agree")
    width_in = spec.fan_in / base.fan_in
    width_out = spec.fan_out / base.fan_out
    role = spec.role
    if spec.is_matrix and (width_in == 1) != (width_out == 1):
        role = "input" if width_in == 1 else "output"
    return replace(spec, role=role, width_in=width_in, width_out=width_out)


def with_form(spec: ParamSpec, form: Form) -> ParamSpec:
    """The spec with what a model of this form multiplies the tensor's product by."""
    if form == "mup" and spec.role == "output":
        return replace(spec, forward=1.0 / spec.width_in)
    return spec
