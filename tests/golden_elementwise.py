"""What the published networks for each element call things, in our names."""

import importlib

import jax.numpy as jnp
import numpy as np

from lopt import features
from lopt.optimizers import network

# As names of the package these are the factories of the same names.
adafac, celo2, mlp_module = (
    importlib.import_module(f"lopt.optimizers.{name}")
    for name in ("adafac_mlp", "celo2", "mlp")
)


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
    return with_one_axis(network.normalized(channels(*arrays).whole(), eps=1e-5))


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
        channels = channels.whole() if len(shape) > 1 else channels.whole()[:-1]
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
