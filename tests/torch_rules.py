"""An optimizer in jax and its rule in torch, fed the same gradients and losses.

A jax kernel [in, out] is a torch weight [out, in]; HWIO is OIHW.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from exported import CARD

from lopt.checkpoint import Checkpoint
from lopt.files.fileformat import Header
from lopt.mup import infer_specs
from lopt.optimizers import OPTIMIZERS
from lopt.options import resolved
from lopt.specs import spec_of_shape

SHAPES = {
    "bias": (7,),
    "conv": (3, 3, 2, 5),
    "empty": (0, 3),
    "hidden": (24, 6),
    "scalar": (),
    "square": (8, 8),
    "wide": (3, 40),
}
"""In jax's layouts, in the order of jax's leaves."""

QUICKLY = {"xla_backend_optimization_level": "0"}
"""Compiled without LLVM's optimizations."""


def made(name, **options):
    """A checkpoint of an architecture, whose theta is nowhere zero."""
    return _made(name, tuple(options.items()))


@functools.cache
def _made(name, options):
    options = dict(options)
    lopt = OPTIMIZERS[name](**options)
    theta = jax.jit(lopt.init, compiler_options=QUICKLY)(jax.random.key(0))
    rng = np.random.default_rng(0)
    theta = jax.tree.map(lambda x: x + np.float32(0.1 * rng.normal(size=x.shape)), theta)
    header = Header(
        optimizer=name, options=resolved(OPTIMIZERS[name], options), card=CARD
    )
    return Checkpoint(path=Path("memory"), lopt=lopt, theta=theta, header=header)


def to_torch(x):
    """An array in jax's layout, in torch's."""
    x = np.asarray(x)
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(x.ndim)
    return torch.from_numpy(np.array(x if axes is None else x.transpose(axes)))


def from_torch(x):
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(x.dim())
    return (x if axes is None else x.permute(axes)).numpy()


def drawn(num_steps, shapes=SHAPES, seed=0):
    """Parameters, and a gradient of each and a loss for every step.

    Gradients are unequal along rows and columns, and shrink.
    """
    rng = np.random.default_rng(seed)

    def scaled(shape):
        x = rng.standard_normal(shape)
        for axis, n in enumerate(shape):
            sizes = 10 ** rng.uniform(-1, 1, n)
            x = x * sizes.reshape([n if i == axis else 1 for i in range(len(shape))])
        return x

    params = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    base = {k: scaled(s) for k, s in shapes.items()}
    grads = [
        {
            k: np.asarray(0.1 / (1 + t) ** 0.3 * (b + 0.5 * scaled(b.shape)), np.float32)
            for k, b in base.items()
        }
        for t in range(num_steps)
    ]
    losses = 2.0 * 0.97 ** np.arange(num_steps) + 0.05 * rng.uniform(size=num_steps)
    return params, grads, losses.astype(np.float32)


def jax_updates(found, params, grads, losses, num_steps, specs=None):
    """Updates of every step."""
    optimizer = found.lopt.opt_fn(found.theta, specs=specs, num_steps=num_steps)

    def step(carry, inputs):
        params, state = carry
        grads, loss = inputs
        updates, state = optimizer.update(grads, state, params, value=loss)
        return (jax.tree.map(jnp.add, params, updates), state), updates

    run = jax.jit(lambda c, x: jax.lax.scan(step, c, x))
    params = jax.tree.map(jnp.asarray, params)
    stacked = jax.tree.map(lambda *x: np.stack(x), *grads)
    _, updates = run((params, optimizer.init(params)), (stacked, losses))
    return jax.device_get(updates)


def rule_of(found, factory, num_steps):
    """The rule of a checkpoint, by its header's options."""
    theta = jax.tree.map(lambda x: torch.from_numpy(np.array(x)), found.theta)
    return factory(theta, num_steps=num_steps, **found.header.options)


def torch_updates(rule, params, grads, losses):
    """Updates of every step, and the last state.

    Args:
      rule: that is tested.
      params: an iterable of what they are before every step.
      grads: of every step.
      losses: of every step.
    """
    updates, state = [], None
    with torch.no_grad():
        for p, g, loss in zip(params, grads, losses, strict=True):
            p, g = ([to_torch(x) for x in tree.values()] for tree in (p, g))
            if state is None:
                state = rule.init(p, [spec_of_shape(tuple(x.shape), 0) for x in p])
            updates.append(rule.update(g, state, p, torch.tensor(loss)))
            assert all(x.dtype == torch.float32 for x in updates[-1])
    return updates, state


def passed(params, updates):
    """The parameters before every step of a run with these updates, [steps, *s] each."""
    for t in range(len(next(iter(updates.values())))):
        yield params
        params = {k: x + updates[k][t] for k, x in params.items()}


class Errors(NamedTuple):
    """Differences of updates, relative, the largest of all tensors.

    Attributes:
      run: norm over all entries of all steps, to that of the updates.
      worst: of one entry of one step, to the largest entry of that step, or of the run's
        median step if this is larger: an update may pass through zero.
    """

    run: float
    worst: float


def errors_of(ours, theirs):
    """The errors of each tensor's updates, which are found in the order of `theirs`."""
    run, worst = [0.0], [0.0]
    for i, expected in enumerate(theirs.values()):
        found = np.stack([from_torch(u[i]) for u in ours])
        assert found.shape == expected.shape and np.isfinite(found).all()
        difference = np.asarray(found, float) - expected
        run.append(np.linalg.norm(difference) / (np.linalg.norm(expected) + 1e-30))
        axes = tuple(range(1, found.ndim))
        largest = np.abs(expected).max(axes, initial=1e-30)
        error = np.abs(difference).max(axes, initial=0.0)
        worst.append((error / np.maximum(largest, np.median(largest))).max())
    return Errors(float(max(run)), float(max(worst)))


def compare(factory, num_steps, seed=0, names=tuple(SHAPES), **options):
    """The errors of updates of the tensors that are named.

    Torch is fed the parameters that jax passed through, too: else a rule that answers to
    a small difference with a larger one would be compared on another run.
    """
    found = made(factory.__name__, **options)
    shapes = {name: SHAPES[name] for name in names}
    params, grads, losses = drawn(num_steps, shapes, seed)
    specs = infer_specs(jax.tree.map(jnp.asarray, params))
    theirs = jax_updates(found, params, grads, losses, num_steps, specs)
    rule = rule_of(found, factory, num_steps)
    ours, _ = torch_updates(rule, passed(params, theirs), grads, losses)
    return errors_of(ours, theirs)
