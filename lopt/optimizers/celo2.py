"""Celo2: a per-parameter MLP whose direction is normalized, then orthogonalized.

What the network says is a direction alone: its inputs and its output are brought to an
RMS of one, so that the step size is the user's, with a schedule and weight decay around
it, as for a hand-designed optimizer. Vectors and embeddings are AdamW's.

References:
  Moudgil, Knyazev, Belilovsky, Celo2: towards learned optimization free lunch, 2026,
  arXiv 2602.19142.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from lopt import checks, features, mup
from lopt.architecture import CLIP, Start, velo_channels
from lopt.base import Array, LearnedOptimizer, MetaParams, ParamSpec
from lopt.bases import orthogonalize as semi_orthogonal
from lopt.numerics import root
from lopt.optimizers import network, per_element
from lopt.optimizers.channels import (
    Decays,
    Moments,
    channels,
    first_adam,
    init_moments,
    updated_moments,
)
from lopt.optimizers.pieces import Channels
from lopt.optimizers.stored import STATE_DTYPES, StateDtype, stored
from lopt.packing import as_matrices, from_matrices

EPS = 1e-9
"""Added to the mean squares that inputs and output are normalized by."""
ADAM = (0.9, 0.95, 1e-8)
"""b1, b2 and ε."""


class AdamMoments(NamedTuple):
    """Adam's, of a tensor that is not learned."""

    mu: Array  # shape=[*s]
    nu: Array  # shape=[*s]


class Celo2State(NamedTuple):
    """Statistics of every tensor, in the order of the leaves."""

    step: Array  # shape=[], int32
    tensors: tuple[Moments | AdamMoments, ...]


def celo2(
    *,
    hidden_sizes: Sequence[int] = (8, 8),
    momentum_decays: Sequence[float] = (0.9, 0.99, 0.999),
    rms_decays: Sequence[float] = (0.95,),
    factored_decays: Sequence[float] = (0.9, 0.99, 0.999),
    learning_rate: float = 0.001,
    vector_mult: float = 1.0,
    weight_decay: float = 0.0,
    schedule: Literal["constant", "cosine"] = "constant",
    orthogonalize: bool = True,
    vectors: Literal["adamw", "adam", "learned"] = "adamw",
    axes: Literal["specs", "last"] = "specs",
    state_dtype: StateDtype = "float32",
    start: Start = "random",
) -> LearnedOptimizer:
    """A network's direction of unit RMS, at a learning rate that is not learned.

    p ← p - η (λ u + ω p), where u is the first output of a relu network of `channels`,
    semi-orthogonal if asked for, divided by its RMS; λ is the tensor's muP multiplier (1
    without specs). The other two outputs are the published ones, and say nothing.

    Args:
      hidden_sizes: widths of the hidden layers.
      momentum_decays: decays of the momenta.
      rms_decays: decays of the second moments; one, or as many as momenta.
      factored_decays: decays of the factored second moments; one, or as many.
      learning_rate: η.
      vector_mult: η of what is not learned, relative to that.
      weight_decay: ω.
      schedule: η over the run; "cosine" ends at 0, and needs `num_steps`.
      orthogonalize: whether directions of matrices are orthogonalized.
      vectors: what all but matrices get: AdamW; "adam", without bias correction and with
        ε inside the root, as in the published meta-training; or the network's direction
        ("Celo2-base", with `orthogonalize=False`).
      axes: what a matrix is: by its spec, which flattens a kernel's inputs and leaves
        embeddings to AdamW; or, as published, the "last" two axes of any tensor that has
        as many, once for each place along the others.
      state_dtype: of accumulators between updates: "bfloat16" halves their memory.
      start: what theta is at first; see `architecture.STARTS`.

    Raises:
      BrokenRule: a size, a decay or a constant is out of range.
    """
    checks.check_sizes(hidden_sizes=hidden_sizes)
    checks.check_positive(learning_rate=learning_rate, vector_mult=vector_mult)
    checks.check_not_negative(weight_decay=weight_decay)
    checks.check_choices(STATE_DTYPES, state_dtype=state_dtype)
    checks.check_decays(
        momentum_decays=momentum_decays,
        rms_decays=rms_decays,
        factored_decays=factored_decays,
    )
    checks.check_counts(
        momentum_decays, rms_decays=rms_decays, factored_decays=factored_decays
    )
    all_decays = (momentum_decays, rms_decays, factored_decays)
    num_inputs = velo_channels(*map(len, all_decays))
    adam = first_adam(len(momentum_decays), len(rms_decays))
    passed = network.passed(start, adam, momentum_decays)

    def init(key):
        sizes = (num_inputs, *hidden_sizes, 3)
        return {"network": network.init_network(key, sizes, passed)}

    def opt_fn(theta, *, specs=None, num_steps=None):
        if schedule == "cosine" and num_steps is None:
            raise TypeError("celo2 with a cosine needs `num_steps`, the length of a run")
        decays = tuple(jnp.asarray(d, jnp.float32) for d in all_decays)

        def views(tree) -> list[Array]:
            leaves = map(features.at_least_float32, jax.tree.leaves(tree))
            return [_view(x, s, axes) for x, s in zip(leaves, known(tree), strict=True)]

        def known(tree) -> list[ParamSpec]:
            return jax.tree.leaves(mup.infer_specs(tree) if specs is None else specs)

        def init_fn(params):
            tensors = zip(views(params), known(params), strict=True)
            moments = (
                init_moments(p, decays)
                if vectors == "learned" or _is_matrix(spec, axes)
                else AdamMoments(jnp.zeros_like(p), jnp.zeros_like(p))
                for p, spec in tensors
            )
            return Celo2State(jnp.zeros([], jnp.int32), tuple(moments))

        def update_fn(updates, state, params=None, **extra_args):
            del extra_args
            checks.check_params(params)
            step = jnp.asarray(optax.safe_increment(state.step))
            p, g = views(params), views(updates)
            moments = tuple(map(partial(_updated, decays), state.tensors, g))
            learned = [i for i, x in enumerate(moments) if not isinstance(x, AdamMoments)]
            found = directions(
                theta["network"],
                [_clipped(channels(g[i], p[i], moments[i])) for i in learned],
                orthogonalize=orthogonalize,
            )
            found = dict(zip(learned, found, strict=True))
            rate = learning_rate * _course(schedule, state.step, num_steps)
            leaves, treedef = jax.tree.flatten(params)
            changes = []
            for i, spec in enumerate(known(params)):
                if i in found:
                    kind = "orthogonalized" if orthogonalize else "entrywise"
                    mult = 1.0 if specs is None else mup.update_multiplier(spec, kind)
                    own_rate, u = rate, mult * found[i]
                else:
                    own_rate = rate * vector_mult
                    u = _adam(moments[i], step, is_corrected=vectors == "adamw")
                x = -own_rate * (u + weight_decay * p[i])
                changes.append(_tensor(x, spec, axes).astype(leaves[i].dtype))
            return treedef.unflatten(changes), Celo2State(step, moments)

        optimizer = optax.GradientTransformationExtraArgs(init_fn, update_fn)
        return stored(optimizer, state_dtype, ("tensors",))

    return LearnedOptimizer(init, opt_fn)


def directions(
    theta: MetaParams, tensors: Sequence[Channels], *, orthogonalize: bool
) -> list[Array]:
    """The network's directions [*s] of unit RMS, from the channels of tensors.

    Where there are more than two axes, each place along all but the last two has a
    matrix of its own.
    """
    matrices = [_matrices(c) for c in tensors]
    all_of_them = list(itertools.chain.from_iterable(matrices))
    directions = iter(
        network.apply_network(theta, all_of_them, jnp.zeros(0), EPS, lambda y: y[0])
    )
    stacks = [jnp.stack([next(directions) for _ in group]) for group in matrices]
    if orthogonalize:
        stacks = _orthogonalized(stacks)
    return [
        (u * features.rms_scale(u, EPS)).reshape(per_element.shape_of(c.seen))
        for u, c in zip(stacks, tensors, strict=True)
    ]


def _matrices(channels: Channels) -> list[Channels]:
    """The channels of each matrix of a tensor."""
    leading = per_element.shape_of(channels.seen)[:-2]

    def at(x: Array, place: tuple[int, ...]) -> Array:
        index = [min(i, n - 1) for i, n in zip(place, x.shape[1:], strict=False)]
        return x[(slice(None), *index)]

    return [
        channels._replace(seen=tuple(at(x, place) for x in channels.seen))
        for place in np.ndindex(*leading)
    ]


def _orthogonalized(stacks: list[Array]) -> list[Array]:
    """Stacks [B, m, n] of matrices, those of one shape in one go; vectors as they are."""
    found = list(stacks)
    for shape in {x.shape[1:] for x in stacks if x.ndim == 3}:
        alike = [i for i, x in enumerate(stacks) if x.shape[1:] == shape]
        ends = itertools.accumulate(len(stacks[i]) for i in alike)
        matrices = semi_orthogonal(jnp.concatenate([stacks[i] for i in alike]))
        for i, part in zip(alike, jnp.split(matrices, [*ends][:-1]), strict=True):
            found[i] = part
    return found


def _updated(
    decays: Decays, moments: Moments | AdamMoments, g: Array
) -> Moments | AdamMoments:
    """The moments with another gradient."""
    if isinstance(moments, AdamMoments):
        b1, b2, _ = ADAM
        mu = b1 * moments.mu + (1 - b1) * g
        return AdamMoments(mu, b2 * moments.nu + (1 - b2) * g * g)
    return updated_moments(moments, g, decays, clip=CLIP)


def _clipped(channels: Channels) -> Channels:
    """Of the clipped gradient, which is clipped where it is read: it is no array."""
    make = channels.make
    return channels._replace(make=lambda g, *x: make(jnp.clip(g, -CLIP, CLIP), *x))


def _adam(moments: AdamMoments, step: Array, *, is_corrected: bool) -> Array:
    """Adam's direction after `step` gradients."""
    b1, b2, eps = ADAM
    mu, nu = moments
    if not is_corrected:
        return mu * jax.lax.rsqrt(nu + eps)
    t = step.astype(jnp.float32)
    return mu / (1 - b1**t) / (root(nu / (1 - b2**t)) + eps)


def _course(schedule: str, step: Array, num_steps: ArrayLike | None) -> ArrayLike:
    """What the learning rate is multiplied by."""
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / num_steps, 1.0)))


def _is_matrix(spec: ParamSpec, axes: str) -> bool:
    if axes == "last":
        return len(spec.shape) >= 2 and 0 not in spec.shape
    return spec.is_matrix and spec.role != "embedding"


def _view(x: Array, spec: ParamSpec, axes: str) -> Array:
    """A tensor as [fan_in, fan_out] where its spec makes it a matrix."""
    is_flattened = axes == "specs" and _is_matrix(spec, axes)
    return as_matrices(x[None], spec)[0] if is_flattened else x


def _tensor(x: Array, spec: ParamSpec, axes: str) -> Array:
    """The inverse of `_view`."""
    is_flattened = axes == "specs" and _is_matrix(spec, axes)
    return from_matrices(x[None], spec)[0] if is_flattened else x
