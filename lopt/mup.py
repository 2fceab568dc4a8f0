"""Maximal-update parametrization: what is known of each tensor, and what follows.

A network's width grows from a base model's. muP asks that one step of training change
every activation by an amount that does not depend on width. All multipliers here are
*relative*: 1 at the base width, so that rates tuned there hold everywhere.

Let n_in = `width_in` and n_out = `width_out`, let f = `forward` be what the model
multiplies a tensor's product by, and let h' = f W h, entries of h being Θ(1). An update
m D of W changes h' by f m D h.

*Entrywise* directions (Adam, sign, RMS-normalized) have entries Θ(1) at every width,
and they align with h, because a gradient is a sum of products δ hᵀ: each entry of D h
is a sum of n_in like terms, thus Θ(n_in). It follows that

    m = 1 / (n_in f).

Input weights have n_in = 1, so m = 1; hidden ones m = 1/n_in; output ones m = 1 in muP
form (f = 1/n_in) and 1/n_in in a plain model (f = 1). A row of an embedding is looked
up, not summed, and biases and gains are added to an activation or multiply it: m = 1.
(Yang et al., "Tensor Programs V", arXiv 2203.03466, 2022, table 8; for all entrywise
rules Yang and Littwin, "Tensor Programs IVb", arXiv 2308.01814, 2023.)

*Orthogonalized* directions are D = √max(fan_in, fan_out) O with O semi-orthogonal, so
that entries have unit RMS and the spectral norm is √max(fan_in, fan_out). The spectral
condition (Yang, Simon and Bernstein, "A spectral condition for feature learning", arXiv
2310.17813, 2023) asks that the effective update f m D have the spectral norm
Θ(√(fan_out / fan_in)), so that

    m ∝ √(fan_out / fan_in) / (√max(fan_in, fan_out) f),

over its value at the base shape. Square hidden weights get 1/√n_in: the spectral norm
of a matrix with unit entries is √n where it is orthogonal, n where its rank is low.

*Relative* directions are of unit RMS, times the RMS of the tensor that they move (VeLO).
All matrices but those of inputs start at an RMS ∝ 1/√fan_in, here muP's output weights,
too; that RMS is 1/√n_in of the multiplier already, and what remains is

    m = 1 / (√n_in f).

Where weights start otherwise, say outputs at zero, nothing of this kind is muP.

*Gradients* themselves have entries f δ h, δ being the gradient in h'. It is Θ(1 / n_out)
once the layers above have learned something, for n_out outputs share the loss, and thus

    m = n_out / (n_in f²),

and n_out for vectors and embeddings. (Tensor Programs V, table 8, the column of SGD.)

A decoupled decay -λ ω φ has no multiplier: it shrinks a tensor, whatever its scale, by
the same factor at every width.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import jax

from lopt.base import ROLES, Params, Role, Specs
from lopt.errors import unknown_name
from lopt.specs import FORMS as FORMS
from lopt.specs import Form, Kind, compared, spec_of_shape, update_multiplier, with_form


def infer_specs(params: Params, *, output_axis: Literal[0, -1] = -1) -> Specs:
    """Specs from shapes alone, by the layout of jax kernels: the last axis is output.

    A dense kernel is [in, out], a convolution HWIO; with `output_axis` 0, as in Equinox
    and torch, [out, in] and OIHW. Vectors are taken for biases. What shapes cannot tell
    stays unknown: every matrix is "hidden", of width 1, `depth` and `num_layers` are
    None. Names are not used: jax sorts the keys of dicts.
    """
    return jax.tree.map(lambda x: spec_of_shape(tuple(x.shape), output_axis), params)


def param_specs(
    params: Params,
    *,
    base_params: Params | None = None,
    roles: Mapping[str, Role] | None = None,
    form: Form = "plain",
    output_axis: Literal[0, -1] = -1,
) -> Specs:
    """A `ParamSpec` for each parameter, by comparing with the shapes of a base model.

    The dimensions that differ from the base are those that grow with width. A matrix
    whose outputs alone grow is "input", whose inputs alone grow "output", and "hidden"
    otherwise (thus at the base width itself: state roles). A role that is stated wins.

    Args:
      params: arrays, or anything with a `shape`.
      base_params: the same tree at the base width; None: all widths count as 1.
      roles: roles that are known, by path: `{"head/w": "output"}`.
      form: "mup" if the model multiplies the products of its "output" tensors by
        1/`width_in`; "plain" if it does not.
      output_axis: of all kernels: the last, or, as in Equinox, the first.

    Raises:
      ValueError: the trees differ in structure or rank.
      ConfigError: a role or the path of a role is unknown.
    """
    specs = infer_specs(params, output_axis=output_axis)
    if base_params is not None:
        specs = jax.tree.map(compared, specs, base_params)
    if roles:
        specs = _state_roles(specs, roles)
    return jax.tree.map(lambda spec: with_form(spec, form), specs)


def update_multipliers(specs: Specs | None, kind: Kind, params: Params) -> Any:
    """`update_multiplier` of every tensor, as a tree; 1 where there are no specs."""
    if specs is None:
        return jax.tree.map(lambda _: 1.0, params)
    return jax.tree.map(lambda _, spec: update_multiplier(spec, kind), params, specs)


def _state_roles(specs: Specs, roles: Mapping[str, Role]) -> Specs:
    leaves, treedef = jax.tree_util.tree_flatten_with_path(specs)
    by_path = {
        jax.tree_util.keystr(path, simple=True, separator="/"): spec
        for path, spec in leaves
    }
    for path, role in roles.items():
        if path not in by_path:
            raise unknown_name("parameter", path, by_path)
        if role not in ROLES:
            raise unknown_name("role", role, ROLES)
        by_path[path] = replace(by_path[path], role=role)
    return treedef.unflatten(by_path.values())
