"""Every recorded update of the published optimizers is reproduced.

The recordings are numbers that came out of other implementations; their folder is
named by LOPT_GOLDEN (default `../shared/golden` beside the repository). What they
contain, the mathematics and the tolerances are in the README there.
"""

import functools
import importlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax_files import flax_bytes

from lopt import features
from lopt.base import ParamSpec
from lopt.optimizers import OPTIMIZERS, network, recurrent
from lopt.published.importing import import_file
from lopt.published.matching import find

# As names of the package these are the factories of the same names.
adafac, celo_module, celo2, mlp_module, nn_adam, rnn_mlp, velo = (
    importlib.import_module(f"lopt.optimizers.{name}")
    for name in ("adafac_mlp", "celo", "celo2", "mlp", "nn_adam", "rnn_mlp", "velo")
)

FOLDER = Path(
    os.environ.get("LOPT_GOLDEN")
    or Path(__file__).parents[1] / ".." / "shared" / "golden"
)
FILES = sorted(FOLDER.glob("*.npz"))
STATE_TOLERANCE = 1e-4
SENSITIVE = {("celo2__edge", "const"): 3e-2, ("celo2_wd__edge", "const"): 3e-2}
"""Recordings and tensors whose rounding errors Newton-Schulz amplifies."""


@dataclass(frozen=True)
class Recording:
    """One file: its arrays by key, and its configuration."""

    arrays: dict[str, np.ndarray]
    config: dict

    @property
    def constants(self) -> dict:
        return self.config["hyperparameters"]

    @property
    def names(self) -> list[str]:
        return self.config["leaf_order"]

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose keys start with `prefix/`, by the rest of the key."""
        prefix += "/"
        found = {k: v for k, v in self.arrays.items() if k.startswith(prefix)}
        return {k.removeprefix(prefix): v for k, v in found.items()}


@dataclass(frozen=True)
class Adapter:
    """Translates one published optimizer's names into ours.

    Attributes:
      tolerance: bound for E; from the README.
      architecture: the name of our optimizer.
      options: recording -> its options; those that only say where a meta-training
        starts are left out, for theta is recorded.
      state: our state, recording -> recorded key -> array.
      seen: what the network saw: recorded key -> array; keys as in the recording,
        without the step. Arguments: recording, theta, grads, params, the states
        before and after, the loss.
    """

    tolerance: float
    architecture: str
    state: Callable[..., dict]
    options: Callable[[Recording], dict] = lambda _: {}
    seen: Callable[..., dict] = lambda *_: {}


def last(x):
    """Our decay index is the first axis, the recorded one the last."""
    return np.moveaxis(x, 0, -1)


def per_tensor(prefix, tree, change=lambda x: x):
    return {f"{prefix}/{name}": change(x) for name, x in tree.items()}


def hidden_sizes(rec):
    return (rec.constants["hidden_size"],) * rec.constants["hidden_layers"]


def steps_and(rec, *names):
    return {name: rec.constants[name] for name in names}


# learnable_*


def learnable_state(*prefixes, count=None):
    def state(ours, rec):
        del rec
        out = {"iteration": ours.step}
        if count:
            out[count] = ours.step
        for prefix, tree in zip(prefixes, ours.accumulators, strict=True):
            out |= per_tensor(f"optax_opt_state/0/{prefix}", tree)
        return out

    return state


# nn_adam


def nn_adam_options(rec):
    sizes = {"hidden_size": rec.constants["lstm_hidden_size"]}
    return sizes | steps_and(rec, "output_scale", "decay_strength")


def nn_adam_state(ours, rec):
    return {
        "iteration": ours.step,
        "lstm_hidden_state/hidden": ours.lstm.hidden,
        "lstm_hidden_state/cell": ours.lstm.cell,
        **per_tensor("rolling_features/m", ours.momenta),
        **per_tensor("rolling_features/rms", ours.second_moments),
        **{
            f"per_layer_{n}/{name}": ours.raw[n][i]
            for n in nn_adam.NAMES
            for i, name in enumerate(rec.names)
        },
    }


def nn_adam_seen(rec, theta, grads, params, before, after, loss):
    del rec
    clipped = {k: jnp.clip(g, -1000.0, 1000.0) for k, g in grads.items()}
    tensors = [
        (params[k], clipped[k], after.momenta[k], after.second_moments[k])
        for k in sorted(params)
    ]
    return {
        "aux/lstm_in": nn_adam.lstm_inputs(tensors, before.raw),
        "aux/lstm_out": after.lstm.hidden,
        "aux/controls": recurrent.linear(theta["controls"], after.lstm.hidden),
    }


# mlp


def mlp_options(rec):
    return {"hidden_sizes": hidden_sizes(rec), **steps_and(rec, "step_mult", "exp_mult")}


def mlp_state(ours, rec):
    del rec
    return {
        "iteration": ours.step,
        **per_tensor("rolling_features/m", ours.momenta, last),
    }


def mlp_seen(rec, theta, grads, params, before, after, loss):
    del rec, theta, before
    return {
        f"feat/{k}": features_of(mlp_module.channels, g, params[k], after.momenta[k])
        for k, g in grads.items()
    }


def features_of(channels, *arrays):
    """Normalized channels, last axis; a 0-d tensor has one axis in the recordings."""
    return with_one_axis(network.normalized(channels(*arrays), eps=1e-5))


def with_one_axis(channels):
    seen = jnp.moveaxis(channels, 0, -1)
    return seen if seen.ndim > 1 else seen[None]


# adafac_mlp


def adafac_options(rec):
    c = rec.constants
    return {
        "hidden_sizes": hidden_sizes(rec),
        "momentum_decays": c["initial_momentum_decays"],
        "rms_decays": c["initial_rms_decays"],
        "factored_decays": c["initial_adafactor_decays"],
        **steps_and(rec, "step_mult", "exp_mult"),
    }


def behind_preprocessing(state):
    return state if hasattr(state, "momenta") else state[-1]


def adafac_state(ours, rec):
    ours = behind_preprocessing(ours)
    out = {
        "iteration": ours.step,
        **per_tensor("mom_rolling/m", ours.momenta, last),
        **per_tensor("rms_rolling/rms", ours.second_moments, last),
    }
    for name, axes in rec.config["factored_dims_d1_d0"].items():
        v = ours.factored_moments[name]
        out |= factored(f"fac_rolling_features/{{}}/{name}", v, axes)
    return out


def factored(key, v, axes):
    """Our statistics keep the axes that they are means over, the recorded do not."""
    if axes is None:
        return {key.format("v_diag"): last(v.full)}
    d1, d0 = axes
    return {
        key.format("v_row"): last(np.squeeze(v.row, d0 + 1)),
        key.format("v_col"): last(np.squeeze(v.col, d1 + 1)),
    }


def adafac_seen(rec, theta, grads, params, before, after, loss):
    del rec, theta, before
    after = behind_preprocessing(after)
    return {
        f"feat/{k}": features_of(
            adafac.channels,
            g,
            params[k],
            after.momenta[k],
            after.second_moments[k],
            after.factored_moments[k],
        )
        for k, g in grads.items()
    }


def mup_adafac_seen(rec, theta, grads, params, before, after, loss):
    """The network sees the preprocessed gradients."""
    if rec.constants["clip_grad"]:
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in grads.values()))
        grads = {k: g / jnp.maximum(norm, 1.0) for k, g in grads.items()}
    return adafac_seen(rec, theta, grads, params, before, after, loss)


def mup_adafac_options(rec):
    clip_norm = 1.0 if rec.constants["clip_grad"] else 0.0
    return {"clip_norm": clip_norm, **adafac_options(rec)}


# celo2


def celo2_options(rec):
    c = rec.constants
    assert not (c["exp_mult"] or c["param_scale_mult"] or c["precondition_output"])
    wrapped = "step_mult" in c
    rate = c["step_mult"] if wrapped else c["learning_rate"]
    if wrapped:
        vectors = {"vectors": "adam", "vector_mult": c["mult_1d"]}
    elif "adamw_learning_rate" in c:
        assert c["adamw_weight_decay"] == c["weight_decay"]
        vectors = {"vectors": "adamw", "vector_mult": c["adamw_learning_rate"] / rate}
    else:
        vectors = {"vectors": "learned"}
    return {
        "hidden_sizes": (c["ff_hidden_size"],) * c["ff_hidden_layers"],
        "momentum_decays": c["initial_momentum_decays"],
        "rms_decays": c["initial_rms_decays"],
        "factored_decays": c["initial_adafactor_decays"],
        "learning_rate": rate,
        "axes": "last",
        **vectors,
        **steps_and(rec, "weight_decay", "orthogonalize"),
    }


def celo2_state(ours, rec):
    wrapped = "step_mult" in rec.constants
    learned, others = ("state_2d", "state_1d") if wrapped else ("celo2", "adam")
    out = {f"{learned}/iteration": ours.step}
    if wrapped:
        rate = rec.constants["step_mult"]
        multiplied = rate * rec.constants["mult_1d"]
        out |= {
            "step_mult": rate,
            "step_mult_1d": multiplied,
            "state_1d/iteration": ours.step,
        }
    else:
        out["adam/count"] = ours.step
    for name, moments in zip(rec.names, ours.tensors, strict=True):
        if isinstance(moments, celo2.AdamMoments):
            change = (lambda x: x[..., None]) if wrapped else (lambda x: x)
            keys = ("mom_rolling/m", "rms_rolling/rms") if wrapped else ("mu", "nu")
            for key, value in zip(keys, moments, strict=True):
                out[f"{others}/{key}/{name}"] = change(value)
            continue
        m, r, v = moments
        out[f"{learned}/mom_rolling/m/{name}"] = last(m)
        out[f"{learned}/rms_rolling/rms/{name}"] = last(r)
        axes = rec.config["factored_dims_d1_d0"][name]
        out |= factored(f"{learned}/fac_rolling/{{}}/{name}", v, axes)
    return out


def celo2_seen(rec, theta, grads, params, before, after, loss):
    del before
    seen = {}
    for name, moments in zip(rec.names, after.tensors, strict=True):
        if isinstance(moments, celo2.AdamMoments):
            continue
        g = jnp.clip(grads[name], -1000.0, 1000.0)
        channels = celo2.channels(g, params[name], moments)
        (direction,) = celo2.directions(
            theta["network"], [channels], orthogonalize=rec.constants["orthogonalize"]
        )
        seen[f"dir/{name}"] = direction if direction.ndim else direction[None]
        shape, axes = params[name].shape, tuple(range(params[name].ndim))[-2:]
        channels = channels if len(shape) > 1 else channels[:-1]
        seen[f"feat/{name}"] = with_one_axis(
            jnp.concatenate(
                [
                    jnp.broadcast_to(
                        x * features.rms_scale(x, 1e-9, tuple(a + 1 for a in axes)),
                        (len(x), *shape),
                    )
                    for x in channels
                ]
            )
        )
    return seen


# velo, celo


def mixture_options(rec):
    sizes = (rec.constants["ff_hidden_size"],) * rec.constants["ff_hidden_layers"]
    return {
        "hidden_size": rec.constants["lstm_hidden_size"],
        "num_networks": rec.constants["param_inits"],
        "hidden_sizes": sizes,
        **steps_and(rec, "step_mult", "exp_mult"),
    }


def velo_options(rec):
    c = rec.constants
    horizon = 10 if c["use_bugged_loss_features"] else None
    kept = not c["use_bugged_next_lstm_state"]
    return {**mixture_options(rec), "loss_horizon": horizon, "keeps_lstm_state": kept}


def celo_options(rec):
    return {**mixture_options(rec), "phase": rec.constants["train_phase"]}


def horizon_of(rec):
    is_short = rec.constants.get("use_bugged_loss_features", False)
    return 10 if is_short else rec.config["num_steps"]


def velo_state(ours, rec):
    out = {
        "iteration": ours.step,
        "lstm_hidden_state/hidden": ours.lstm.hidden,
        "lstm_hidden_state/cell": ours.lstm.cell,
        "loss_buffer/iteration": ours.losses.step,
        "loss_buffer/means": ours.losses.means,
        "loss_buffer/running_min": ours.losses.lowest,
        "loss_buffer/decays": velo.course.loss_decays(horizon_of(rec)),
    }
    for name, (m, r, v) in zip(rec.names, ours.moments, strict=True):
        out[f"mom_rolling/m/{name}"] = last(m)
        out[f"rms_rolling/rms/{name}"] = last(r)
        axes = rec.config["factored_dims_d1_d0"][name]
        out |= factored(f"fac_rolling/{{}}/{name}", v, axes)
    return out


def mixture_seen(inputs):
    def seen(rec, theta, grads, params, before, after, loss):
        fractions = velo.course.fraction_features(before.step, rec.config["num_steps"])
        losses = velo.course.loss_features(after.losses, horizon_of(rec))
        run = jnp.concatenate([fractions, losses])
        leaves = [params[name] for name in rec.names]
        rows = inputs(run, leaves, before.moments)
        hidden = velo.advance(theta, rows, before.lstm).hidden
        multiplier = recurrent.linear(theta["step_size"], hidden)[:, 0]
        if rec.config["cls"] == "Celo":
            multiplier = 0.1 * jnp.exp(multiplier)
        out = {
            "aux/lstm_in": rows,
            "aux/controls": recurrent.linear(theta["controls"], hidden),
            "aux/lr_mult": multiplier,
        }
        for name, p, moments in zip(rec.names, leaves, after.moments, strict=True):
            g = jnp.clip(grads[name], -1000.0, 1000.0)
            out[f"feat/{name}"] = features_of(velo.element_channels, g, p, moments)
        return out

    return seen


# rnn_mlp


def rnn_mlp_options(rec):
    c = rec.constants
    return {
        "hidden_size": c["lstm_hidden_size"],
        "hidden_sizes": (c["hidden_size"],) * c["hidden_layer"],
        "from_mlp": c["from_mlp_size"],
        "from_lstm": c["from_lstm_size"],
        "lstm_to_mlp": c["lstm_to_ff"],
        "decays": c["decays"],
        "step_mult": c["step_multiplier"],
        "exp_mult": c["magnitude_rate"],
    }


def rnn_mlp_state(ours, rec):
    out = {
        "iteration": ours.step,
        "dynamic_clip/iteration": ours.clipping.step,
        "dynamic_clip/value": ours.clipping.size,
        "from_lstm": ours.from_lstm,
        "lstm_hidden_state/hidden": ours.lstm.hidden,
        "lstm_hidden_state/cell": ours.lstm.cell,
    }
    for split, losses in {"train": ours.train, "valid": ours.valid}.items():
        names = "mean", "var", "updates"
        out |= per_tensor(f"{split}_loss_accum", dict(zip(names, losses, strict=True)))
    for i, (name, (m, r)) in enumerate(zip(rec.names, ours.statistics, strict=True)):
        out[f"from_mlp/{name}"] = ours.from_mlp[i]
        out[f"mom_rolling/m/{name}"] = last(m)
        out[f"rms_rolling/rms/{name}"] = last(r)
    return out


def rnn_mlp_seen(rec, theta, grads, params, before, after, loss):
    p = [params[name] for name in rec.names]
    _, g = rnn_mlp.clip(before.clipping, [grads[name] for name in rec.names])
    known = after.train, before.valid, before.from_lstm, before.from_mlp
    out = {
        "aux/lstm_in": rnn_mlp.tensor_inputs(loss, *known, g, p, after.statistics),
        "aux/lstm_out": after.lstm.hidden,
        "aux/ff_inputs": recurrent.linear(theta["to_mlp"], after.lstm.hidden),
    }
    for i, name in enumerate(rec.names):
        seen = features_of(rnn_mlp.channels, g[i], p[i], after.statistics[i])
        out[f"feat/{name}"] = seen.reshape(-1, seen.shape[-1])
    return out


# What the README calls the measured agreement, with its suggested bounds.
ADAPTERS = {
    "LearnableSGD": Adapter(
        tolerance=5e-5,
        architecture="learnable_sgd",
        state=learnable_state(),
    ),
    "LearnableSGDM": Adapter(
        tolerance=5e-5,
        architecture="learnable_sgdm",
        state=learnable_state("trace"),
    ),
    "LearnableAdam": Adapter(
        tolerance=5e-5,
        architecture="learnable_adam",
        state=learnable_state("mu", "nu", count="optax_opt_state/0/count"),
    ),
    "NNAdam": Adapter(
        tolerance=1e-4,
        architecture="nn_adam",
        options=nn_adam_options,
        state=nn_adam_state,
        seen=nn_adam_seen,
    ),
    "MLPLOpt": Adapter(
        tolerance=2e-4,
        architecture="mlp",
        options=mlp_options,
        state=mlp_state,
        seen=mlp_seen,
    ),
    "AdafacMLPLOpt": Adapter(
        tolerance=1e-4,
        architecture="adafac_mlp",
        options=adafac_options,
        state=adafac_state,
        seen=adafac_seen,
    ),
    **dict.fromkeys(
        ("scale_by_celo2 (celo2_optax.py)", "Celo2 (celo2.py)"),
        Adapter(
            tolerance=1e-4,
            architecture="celo2",
            options=celo2_options,
            state=celo2_state,
            seen=celo2_seen,
        ),
    ),
    "RNNMLPLOpt": Adapter(
        tolerance=3e-4,
        architecture="rnn_mlp",
        options=rnn_mlp_options,
        state=rnn_mlp_state,
        seen=rnn_mlp_seen,
    ),
    "HyperV2": Adapter(
        tolerance=1e-4,
        architecture="velo",
        options=velo_options,
        state=velo_state,
        seen=mixture_seen(velo.tensor_inputs),
    ),
    "Celo": Adapter(
        tolerance=1e-4,
        architecture="celo",
        options=celo_options,
        state=velo_state,
        seen=mixture_seen(celo_module.run_alone),
    ),
    "MuAdafacMLPLOpt": Adapter(
        tolerance=1e-4,
        architecture="mup_adafac",
        options=mup_adafac_options,
        state=adafac_state,
        seen=mup_adafac_seen,
    ),
}


@functools.cache
def load(path: Path) -> Recording:
    """The recording; of one that we have no optimizer for, the configuration alone."""
    with np.load(path, allow_pickle=False) as file:
        config = json.loads(str(file["config"]))
        keys = [k for k in file.files if k != "config" and config["cls"] in ADAPTERS]
        arrays = {k: file[k] for k in keys}
    return Recording(arrays, config)


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

    # Without LLVM's optimizations: half of the time goes into compiling.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
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


def displacement_error(ours, recorded, start) -> float:
    """The README's E; infinite where our parameters are not finite."""
    ours, recorded, start = (np.asarray(x, np.float64) for x in (ours, recorded, start))
    distance = np.abs(recorded - start).max(initial=0.0)
    error = np.abs(ours - recorded).max(initial=0.0)
    error -= 2e-7 * np.abs(recorded).max(initial=0.0)
    if np.isnan(error):
        return np.inf
    return max(error, 0.0) / distance if distance else (np.inf if error > 0 else 0.0)


def relative_error(ours, recorded) -> float:
    """The largest difference, relative to the largest entry."""
    ours, recorded = np.asarray(ours, np.float64), np.asarray(recorded, np.float64)
    assert ours.shape == recorded.shape
    error = np.abs(ours - recorded).max(initial=0.0)
    if np.isnan(error):
        return np.inf
    return error / np.abs(recorded).max() if error else 0.0


def is_unused(key: str) -> bool:
    """Counters that the README says are not used, and the run length."""
    return bool(re.search(r"(^|/)(t|num_steps)$", key))


@pytest.mark.skipif(not FILES, reason=f"no recordings in {FOLDER}: set LOPT_GOLDEN")
def test_recordings_are_there():
    found = {path.stem.split("__")[0] for path in FILES}
    assert found >= {"learnable_adam", "nn_adam", "mlp_lopt", "adafac_mlp"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recorded_update_is_reproduced(path):
    rec = load(path)
    adapter = ADAPTERS.get(rec.config["cls"])
    if adapter is None:
        pytest.skip(f"lopt has no `{rec.config['architecture']}` yet")
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
    adapter = ADAPTERS.get(rec.config["cls"])
    if adapter is None:
        pytest.skip(f"lopt has no `{rec.config['architecture']}` yet")
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
