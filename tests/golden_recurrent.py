"""What the published optimizers with an LSTM call things, in our names."""

import importlib

import jax.numpy as jnp
from golden_elementwise import (
    factored,
    features_of,
    last,
    per_tensor,
    steps_and,
)

from lopt.optimizers import recurrent

# As names of the package these are the factories of the same names.
nn_adam, rnn_mlp, velo = (
    importlib.import_module(f"lopt.optimizers.{name}")
    for name in ("nn_adam", "rnn_mlp", "velo")
)

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
