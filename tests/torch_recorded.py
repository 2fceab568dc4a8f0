"""Recorded gradients and losses, fed to an optimizer in jax and to the one in torch.

The layout mapping: a kernel of jax, [in, out] or HWIO, has its last axis first in torch,
[out, in] or OIHW; an embedding [number, width] and vectors are the same in both.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import torch

from lopt.base import ParamSpec
from lopt.optimizers import OPTIMIZERS
from lopt.torch.rules import RULES

SHAPES = {
    "a_embedding": (11, 6),
    "b_kernel": (6, 8),
    "c_kernel": (8, 8),
    "d_kernel": (8, 8),
    "e_bias": (8,),
    "f_gain": (8,),
    "g_convolution": (3, 3, 2, 5),
    "h_tall": (40, 3),
    "i_scalar": (),
}
WIDTHS = {"b_kernel": (1.0, 2.0), "c_kernel": (2.0, 2.0), "h_tall": (4.0, 1.0)}
ROLES = {"a": "embedding", "b": "input", "e": "bias", "f": "norm", "h": "output"}


def specs() -> dict[str, ParamSpec]:
    """Of the parameters, in jax's layout."""
    found = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        rank = len(shape)
        axes = dict(in_axes=tuple(range(rank - 1)), out_axes=tuple(range(rank))[-1:])
        width_in, width_out = WIDTHS.get(name, (1.0, 1.0))
        found[name] = ParamSpec(
            role=ROLES.get(name[0], "scalar" if not shape else "hidden"),
            shape=shape,
            **(axes if rank > 1 else {"out_axes": axes["out_axes"]}),
            width_in=width_in,
            width_out=width_out,
            forward=0.25 if name == "h_tall" else 1.0,
            depth=i / (len(SHAPES) - 1) if i % 3 else None,
            num_layers=4 if i % 3 else None,
        )
    return found


def order(spec: ParamSpec) -> tuple[int, ...]:
    """The axes of jax's layout in torch's order."""
    is_kernel = spec.is_matrix and spec.role != "embedding"
    rank = len(spec.shape)
    if not is_kernel:
        return tuple(range(rank))
    first = (rank - 1, rank - 2) if rank > 2 else (rank - 1,)
    return (*first, *(a for a in range(rank) if a not in first))


def to_torch(x, spec: ParamSpec) -> torch.Tensor:
    """An array in torch's layout."""
    return torch.tensor(np.transpose(x, order(spec)).copy(order="C"))


def from_torch(x: torch.Tensor, spec: ParamSpec) -> np.ndarray:
    """The inverse."""
    return np.transpose(x.numpy(), np.argsort(order(spec)).astype(int))


def spec_in_torch(spec: ParamSpec) -> ParamSpec:
    """The spec of a tensor in torch's layout."""
    axes = order(spec)
    return replace(
        spec,
        shape=tuple(spec.shape[a] for a in axes),
        in_axes=tuple(axes.index(a) for a in spec.in_axes),
        out_axes=tuple(axes.index(a) for a in spec.out_axes),
    )


def nested(theta, make):
    """Theta with other leaves."""
    return {
        k: nested(x, make) if isinstance(x, dict) else make(x) for k, x in theta.items()
    }


def random_theta(name: str, options: dict, *, size: float = 0.1, seed: int = 0):
    """Theta as initialized, moved at random, as numpy arrays."""
    theta = OPTIMIZERS[name](**options).init(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    return nested(
        theta,
        lambda x: np.asarray(x) + (size * rng.normal(size=x.shape)).astype(np.float32),
    )


def recording(num_steps: int, seed: int = 0):
    """Gradients, parameters and losses: sizes differ, gradients are noisy, some are 0."""
    rng = np.random.default_rng(seed)
    draw = {
        k: lambda s=s: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()
    }
    mean = {k: f() for k, f in draw.items()}
    params = {k: np.float32(0.3) * f() for k, f in draw.items()}
    for t in range(num_steps):
        scale = {k: np.float32(10.0 ** (i % 4 - 2)) for i, k in enumerate(SHAPES)}
        grads = {
            k: scale[k] * (mean[k] * np.float32(np.cos(t / 20)) + draw[k]()) for k in mean
        }
        if t in (0, 7):
            grads["e_bias"] = np.zeros_like(grads["e_bias"])
        params = {k: p - np.float32(0.01) * np.sign(grads[k]) for k, p in params.items()}
        yield grads, params, np.float32(2.0 * np.exp(-t / 50) + 0.1 * rng.random())


def largest_difference(
    name: str, theta, options: dict, *, num_steps: int = 100, with_specs: bool = True
) -> float:
    """max |torch − jax| / max |jax|, the largest of all steps and tensors."""
    all_specs = specs()
    names = list(SHAPES)
    make = OPTIMIZERS[name](**options).opt_fn
    in_jax = make(
        jax.tree.map(jnp.asarray, theta),
        specs=all_specs if with_specs else None,
        num_steps=num_steps,
    )
    rule = RULES[name](nested(theta, torch.tensor), num_steps=num_steps, **options)
    translated = [spec_in_torch(all_specs[k]) for k in names]
    if not with_specs:
        translated = [
            replace(
                s,
                role={0: "scalar", 1: "bias"}.get(len(s.shape), "hidden"),
                width_in=1.0,
                width_out=1.0,
                forward=1.0,
                depth=None,
                num_layers=None,
            )
            for s in translated
        ]
    update = jax.jit(in_jax.update)
    worst, jax_state, state = 0.0, None, None
    for grads, params, loss in recording(num_steps):

        def as_list(tree):
            return [to_torch(tree[k], all_specs[k]) for k in names]

        if jax_state is None:
            jax_state = in_jax.init(jax.tree.map(jnp.asarray, params))
            state = rule.init(as_list(params), translated)
        expected, jax_state = update(
            *jax.tree.map(jnp.asarray, (grads, jax_state, params)),
            value=jnp.asarray(loss),
        )
        with torch.no_grad():
            got = rule.update(as_list(grads), state, as_list(params), torch.tensor(loss))
        for k, x in zip(names, got, strict=True):
            want = np.asarray(expected[k])
            assert x.shape == to_torch(want, all_specs[k]).shape, (k, x.shape)
            error = np.abs(from_torch(x, all_specs[k]) - want).max()
            worst = max(worst, float(error / max(np.abs(want).max(), 1e-12)))
    return worst
