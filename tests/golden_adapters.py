"""Translations of what the published optimizers call things into our names."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from recordings import Recording

from lopt import features
from lopt.optimizers import network, recurrent

# As names of the package these are the factories of the same names.
adafac, celo_module, celo2, mlp_module, nn_adam, rnn_mlp, velo = (
    importlib.import_module(f"lopt.optimizers.{name}")
    for name in ("adafac_mlp", "celo", "celo2", "mlp", "nn_adam", "rnn_mlp", "velo")
)


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
