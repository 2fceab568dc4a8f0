"""Every recorded update of the published optimizers is reproduced."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax_files import flax_bytes
from golden_adapters import ADAPTERS, Adapter
from recordings import FILES, FOLDER, Recording, displacement_error, load, relative_error

from lopt.base import ParamSpec
from lopt.optimizers import OPTIMIZERS
from lopt.published.importing import import_file
from lopt.published.matching import find

STATE_TOLERANCE = 1e-4
SENSITIVE = {("celo2__edge", "const"): 3e-2, ("celo2_wd__edge", "const"): 3e-2}
"""Recordings and tensors whose rounding errors Newton-Schulz amplifies."""


def specs_of(rec: Recording):
    """Specs whose muP multipliers are the recorded ones; None where there are none."""
    multipliers = rec.under("mup_lrs")
    if not multipliers:
        return None
    return {
        name: ParamSpec(
            role="hidden",
            shape=tuple(rec.config["leaf_shapes"][name]),
            in_axes=(0,),
            out_axes=(1,),
            width_in=1.0 / float(value),
        )
        for name, value in multipliers.items()
    }


def run(adapter: Adapter, rec: Recording):
    """Our parameters after every step, states by recorded key, and network inputs.

    All steps are one compiled program; what comes out is numpy, one row for each step.
    """
    lopt = OPTIMIZERS[adapter.architecture](**adapter.options(rec))
    found = find(rec.under("theta"), adapter.architecture, Path("recording"))
    theta = found.theta(lopt)
    specs, num_steps = specs_of(rec), rec.config["num_steps"]
    optimizer = lopt.opt_fn(theta, specs=specs, num_steps=num_steps)

    has_seen = bool(rec.under("feat") or rec.under("aux") or rec.under("dir"))

    def step(carry, inputs):
        params, state = carry
        grads, loss, extra = inputs
        updates, after = optimizer.update(grads, state, params, value=loss, **extra)
        arguments = rec, theta, grads, params, state, after, loss
        seen = adapter.seen(*arguments) if has_seen else {}
        params = {k: params[k] + updates[k] for k in params}
        return (params, after), (params, after, seen)

    @jax.jit
    def all_steps(params, grads, losses, extra):
        state = optimizer.init(params)
        _, history = jax.lax.scan(step, (params, state), (grads, losses, extra))
        return state, history

    steps = range(rec.config["steps_recorded"])
    grads = [rec.under(f"grads/{t}") for t in steps]
    stacked = {k: np.stack([g[k] for g in grads]) for k in rec.names}
    losses = np.stack([rec.arrays[f"loss/{t}"] for t in steps])
    valid = rec.constants.get("is_valid_steps")
    extra = {"is_valid": np.isin(steps, valid)} if valid else {}
    arguments = rec.under("params0"), stacked, losses, extra
    start, history = jax.device_get(all_steps(*arguments))
    history = [jax.tree.map(lambda x, t=t: x[t], history) for t in steps]
    states = {"init": start} | {str(t): state for t, (_, state, _) in enumerate(history)}
    return (
        [params for params, _, _ in history],
        {t: adapter.state(state, rec) for t, state in states.items()},
        [seen for *_, seen in history],
    )


def is_unused(key: str) -> bool:
    """Counters that the README says are not used, and the run length."""
    return bool(re.search(r"(^|/)(t|num_steps)$", key))


@pytest.mark.skipif(not FILES, reason=f"no recordings in {FOLDER}: set LOPT_GOLDEN")
def test_recordings_are_there():
    assert {load(path).config["cls"] for path in FILES} == set(ADAPTERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recorded_update_is_reproduced(path):
    rec = load(path)
    adapter = ADAPTERS[rec.config["cls"]]
    trajectory, states, seen = run(adapter, rec)

    start = rec.under("params0")
    for t, params in enumerate(trajectory):
        for name, recorded in rec.under(f"params/{t}").items():
            error = displacement_error(params[name], recorded, start[name])
            tolerance = SENSITIVE.get((path.stem, name), adapter.tolerance)
            assert error <= tolerance, f"{name} after step {t}: E = {error:.1e}"

    for key, recorded in rec.under("state").items():
        t, name = key.split("/", 1)
        if not is_unused(name):
            error = relative_error(states[t][name], recorded)
            assert error <= STATE_TOLERANCE, f"state {name} after {t}: {error:.1e}"

    for kind in ("feat", "aux", "dir"):
        for key, recorded in rec.under(kind).items():
            t, name = key.split("/", 1)
            ours = seen[int(t)][f"{kind}/{name}"]
            if name == "lstm_in":
                error = np.abs(ours - recorded).max()
            else:
                error = relative_error(ours, recorded)
            assert error <= STATE_TOLERANCE, f"{kind} {name} at {t}: {error:.1e}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recorded_theta_travels_through_files(path, tmp_path):
    rec = load(path)
    adapter = ADAPTERS[rec.config["cls"]]
    theta = rec.under("theta")
    lopt = OPTIMIZERS[adapter.architecture](**adapter.options(rec))
    expected = find(theta, adapter.architecture, path).theta(lopt)

    safetensors.numpy.save_file(theta, tmp_path / "theta.safetensors")
    (tmp_path / "theta.state").write_bytes(flax_bytes(theta))
    for file in tmp_path.iterdir():
        imported = import_file(file, adapter.architecture, adapter.options(rec))
        equal = jax.tree.map(np.array_equal, imported.checkpoint.theta, expected)
        assert all(jax.tree.leaves(equal))
        for name, value in adapter.options(rec).items():
            told = imported.checkpoint.header.options[name]
            assert np.array_equal(told, value), name
