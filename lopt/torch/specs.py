"""Specs of a PyTorch model: roles, axes, order and widths, by what its modules are.

Weights of torch have their outputs first: `Linear` is [out, in], a convolution OIHW;
transposed convolutions are [in, out, …], an `Embedding` [number, width], a `Conv1D` of
GPT-2 in transformers [in, out].
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from lopt.errors import unknown_name
from lopt.specs import (
    FORMS,
    ROLES,
    Form,
    ParamSpec,
    Role,
    compared,
    spec_of_shape,
    with_form,
)

_EMBEDDINGS = ("emb", "wte", "wpe")
"""What names of embeddings have in them, where no module tells."""

Named = Iterable[tuple[str, Tensor]]


def param_specs(
    model: nn.Module | Named,
    *,
    base: nn.Module | Named | None = None,
    roles: Mapping[str, Role] | None = None,
    form: Form = "plain",
) -> dict[str, ParamSpec]:
    """A `ParamSpec` for each parameter of a model, by name.

    Modules that have matrices are taken to lie in a row, in the order in which they were
    registered; what else there is has the place of the one before. The first matrix in
    the row is an "input", the last an "output", unless it is an embedding; others are
    "hidden". Of named parameters, whose modules are not known, a matrix with "emb",
    "wte" or "wpe" in its name is an embedding, and a vector "weight" a "norm".

    Args:
      model: a module, or its named parameters.
      base: the same model at the base width, the one that rates were tuned for: what
        differs grows with width; None: all widths count as 1. A matrix whose outputs
        alone grow is then "input", whose inputs alone grow "output".
      roles: roles that are known, by name; they win.
      form: "mup" if the model multiplies the products of its "output" tensors by
        1/`width_in`; "plain" if it does not.

    Raises:
      ValueError: the models differ in names or ranks.
      ConfigError: a role, its tensor, or the form is unknown.
    """
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    specs = _in_a_row(_by_kind(model))
    if base is not None:
        specs = _compared(specs, dict(_named(base)))
    for name, role in (roles or {}).items():
        if name not in specs:
            raise unknown_name("parameter", name, specs)
        if role not in ROLES:
            raise unknown_name("role", role, ROLES)
        specs[name] = replace(specs[name], role=role)
    return {name: with_form(spec, form) for name, spec in specs.items()}


def _named(model: nn.Module | Named) -> list[tuple[str, Tensor]]:
    if isinstance(model, nn.Module):
        return list(model.named_parameters())
    return list(model)


def _by_kind(model: nn.Module | Named) -> dict[str, ParamSpec]:
    """What the kind of each parameter tells: axes, and the roles that are no matter of
    place."""
    modules = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
    specs = {}
    for name, tensor in _named(model):
        owner, _, own_name = name.rpartition(".")
        module = modules.get(owner)
        specs[name] = _spec(name, own_name, tuple(tensor.shape), module)
    return specs


def _spec(
    name: str, own_name: str, shape: tuple[int, ...], module: nn.Module | None
) -> ParamSpec:
    rank = len(shape)
    if rank < 2:
        spec = spec_of_shape(shape, 0)
        return replace(spec, role="norm") if rank and own_name == "weight" else spec
    transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
    if transposed or type(module).__name__ == "Conv1D":
        spec = spec_of_shape(shape, 0)
        in_axes = tuple(axis for axis in range(rank) if axis != 1)
        return replace(spec, out_axes=(1,), in_axes=in_axes)
    by_name = rank == 2 and any(part in name.lower() for part in _EMBEDDINGS)
    is_embedding = isinstance(module, nn.Embedding | nn.EmbeddingBag)
    if is_embedding or (by_name and not isinstance(module, nn.Linear)):
        return replace(spec_of_shape(shape, -1), role="embedding")
    return spec_of_shape(shape, 0)


def _in_a_row(specs: Mapping[str, ParamSpec]) -> dict[str, ParamSpec]:
    """The specs with their places, and the roles that follow from these."""
    owners = {name: name.rpartition(".")[0] for name in specs}
    row = list(dict.fromkeys(owners[n] for n, s in specs.items() if s.is_matrix))
    if not row:
        return dict(specs)
    at, placed, last = 0, {}, len(row) - 1
    for name, spec in specs.items():
        at = row.index(owners[name]) if owners[name] in row else at
        if spec.is_matrix and spec.role == "hidden" and at in (0, last):
            spec = replace(spec, role="output" if at == last else "input")
        placed[name] = replace(spec, depth=at / max(last, 1), num_layers=len(row))
    return placed


def _compared(
    specs: Mapping[str, ParamSpec], base: Mapping[str, Any]
) -> dict[str, ParamSpec]:
    """The specs with widths; of matrices that grow on one side, with their roles."""
    for name in specs.keys() ^ base.keys():
        raise ValueError(f"only one of model and base has the parameter `{name}`")
    found = {}
    for name, spec in specs.items():
        wide = compared(replace(spec, role="hidden"), base[name])
        grows_alike = wide.role == "hidden" and wide.width_in == 1
        fixed = spec.role in ("embedding", "norm", "bias", "scalar") or grows_alike
        found[name] = replace(wide, role=spec.role) if fixed else wide
    return found
