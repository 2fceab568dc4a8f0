"""Roles from shapes; multipliers, by hand and measured, of each kind of tensor."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt import mup
from lopt.base import ParamSpec
from lopt.errors import ConfigError


def mlp_params(width, num_inputs=64, num_outputs=10):
    sizes = [num_inputs, width, width, num_outputs]
    return {
        f"layer_{i}": {"w": np.zeros((n, m)), "b": np.zeros(m)}
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    }


def matrix(role, shape, *, width_in=1.0, width_out=1.0, forward=1.0):
    return ParamSpec(
        role=role,
        shape=shape,
        in_axes=tuple(range(len(shape) - 1)),
        out_axes=(len(shape) - 1,),
        width_in=width_in,
        width_out=width_out,
        forward=forward,
    )


def test_roles_are_found_by_comparing_shapes():
    specs = mup.param_specs(mlp_params(256), base_params=mlp_params(32))
    assert specs["layer_0"]["w"] == matrix("input", (64, 256), width_out=8)
    assert specs["layer_1"]["w"] == matrix("hidden", (256, 256), width_in=8, width_out=8)
    assert specs["layer_2"]["w"] == matrix("output", (256, 10), width_in=8)
    assert specs["layer_1"]["b"] == ParamSpec(
        role="bias", shape=(256,), out_axes=(0,), width_out=8
    )
    assert specs["layer_2"]["b"].width_out == 1


def test_mup_form_multiplies_the_output_alone():
    specs = mup.param_specs(
        mlp_params(256), base_params=mlp_params(32), form="mup", roles={}
    )
    forwards = {spec.forward for spec in jax.tree.leaves(specs["layer_0"])}
    forwards |= {spec.forward for spec in jax.tree.leaves(specs["layer_1"])}
    assert forwards == {1.0}
    assert specs["layer_2"]["w"].forward == 1 / 8
    assert specs["layer_2"]["b"].forward == 1


def test_stated_roles_win():
    roles = {"layer_0/w": "embedding", "layer_1/b": "norm", "layer_2/w": "output"}
    specs = mup.param_specs(mlp_params(32), base_params=mlp_params(32), roles=roles)
    found = {path: specs[path[:7]][path[8:]].role for path in roles}
    assert found == roles
    assert specs["layer_1"]["w"].role == "hidden"
    narrower = mup.param_specs(
        mlp_params(16), base_params=mlp_params(32), roles=roles, form="mup"
    )
    assert narrower["layer_2"]["w"].forward == 2


def test_shapes_alone_do_not_tell_order_or_output():
    params = {
        "z": jnp.zeros(()),
        "a": [jnp.zeros(3), jnp.zeros((3, 4))],
        "conv": jnp.zeros((3, 3, 8, 16)),
    }
    specs = mup.infer_specs(params)
    assert specs["z"] == ParamSpec(role="scalar", shape=())
    assert specs["a"][0] == ParamSpec(role="bias", shape=(3,), out_axes=(0,))
    assert specs["a"][1] == matrix("hidden", (3, 4))
    conv = specs["conv"]
    assert (conv.in_axes, conv.out_axes) == ((0, 1, 2), (3,))
    assert (conv.fan_in, conv.fan_out) == (72, 16)
    for spec in jax.tree.leaves(specs):
        assert spec.depth is None and spec.num_layers is None
        assert spec.width_in == spec.width_out == 1
        assert mup.update_multiplier(spec, "entrywise") == 1
        assert mup.update_multiplier(spec, "orthogonalized") == 1


def test_kernels_may_have_their_outputs_first():
    shapes = {"a": (8, 3), "conv": (16, 8, 3, 5), "v": (7,), "s": ()}
    wide, base = (
        {k: jnp.zeros(tuple(n * d for d in s[:1]) + s[1:]) for k, s in shapes.items()}
        for n in (2, 1)
    )
    specs = mup.param_specs(wide, base_params=base, output_axis=0)
    assert (specs["a"].fan_in, specs["a"].fan_out) == (3, 16)
    assert (specs["a"].role, specs["a"].width_out) == ("input", 2)
    assert (specs["conv"].in_axes, specs["conv"].out_axes) == ((1, 2, 3), (0,))
    for same in ("v", "s"):
        assert specs[same] == mup.param_specs(wide, base_params=base)[same]


def test_an_empty_tree_has_no_specs():
    assert mup.infer_specs({}) == {}
    assert mup.param_specs((), base_params=()) == ()


@pytest.mark.parametrize("n", [1, 2, 8, 32, 0.5])
@pytest.mark.parametrize(
    ("spec_of", "entrywise", "orthogonalized"),
    [
        # role, and the multipliers as functions of n = width / base width. Shapes are
        # chosen with n · 32 < 64 for n < 2 on the input side.
        (
            lambda n: matrix("input", (16, int(32 * n)), width_out=n),
            lambda n: 1,
            lambda n: 1,
        ),
        (
            lambda n: matrix("input", (1024, int(32 * n)), width_out=n),
            lambda n: 1,
            lambda n: math.sqrt(n),
        ),
        (
            lambda n: matrix(
                "hidden", (int(32 * n), int(32 * n)), width_in=n, width_out=n
            ),
            lambda n: 1 / n,
            lambda n: 1 / math.sqrt(n),
        ),
        (
            lambda n: matrix(
                "hidden", (3, 3, int(8 * n), int(16 * n)), width_in=n, width_out=n
            ),
            lambda n: 1 / n,
            lambda n: 1 / math.sqrt(n),
        ),
        (
            lambda n: matrix("output", (int(32 * n), 10), width_in=n, forward=1 / n),
            lambda n: 1,
            lambda n: 1,
        ),
        (
            lambda n: matrix("output", (int(32 * n), 10), width_in=n),
            lambda n: 1 / n,
            lambda n: 1 / n,
        ),
        (
            lambda n: matrix("embedding", (100, int(32 * n)), width_out=n),
            lambda n: 1,
            lambda n: 1,
        ),
        (
            lambda n: ParamSpec(
                role="norm", shape=(int(32 * n),), out_axes=(0,), width_out=n
            ),
            lambda n: 1,
            lambda n: 1,
        ),
    ],
    ids=["input", "input-tall", "hidden", "conv", "output-mup", "output-plain",
         "embedding", "norm"],
)  # fmt: skip
def test_multipliers(spec_of, entrywise, orthogonalized, n):
    spec = spec_of(n)
    assert mup.update_multiplier(spec, "entrywise") == pytest.approx(entrywise(n))
    assert mup.update_multiplier(spec, "orthogonalized") == pytest.approx(
        orthogonalized(n)
    )


@pytest.mark.parametrize("role", ["input", "hidden", "output"])
@pytest.mark.parametrize("form", mup.FORMS)
def test_orthogonalized_updates_meet_the_spectral_condition(role, form):
    """‖f m D‖ / √(fan_out / fan_in), measured, is the same at every width."""
    ratios = []
    for width in (16, 64, 256):
        layer = {"input": "layer_0", "hidden": "layer_1", "output": "layer_2"}[role]
        spec = mup.param_specs(mlp_params(width), base_params=mlp_params(32), form=form)[
            layer
        ]["w"]
        noise = np.random.RandomState(0).randn(*spec.shape)
        u, _, vt = np.linalg.svd(noise, full_matrices=False)
        direction = u @ vt / np.sqrt(np.mean((u @ vt) ** 2))
        multiplier = mup.update_multiplier(spec, "orthogonalized")
        norm = np.linalg.norm(spec.forward * multiplier * direction, ord=2)
        ratios.append(norm / math.sqrt(spec.fan_out / spec.fan_in))
    assert ratios == pytest.approx([ratios[0]] * 3)


@pytest.mark.parametrize("role", ["input", "hidden", "output"])
@pytest.mark.parametrize("form", mup.FORMS)
def test_aligned_entrywise_updates_change_activations_alike(role, form):
    """The mean |f m D h| of D = sign(δ hᵀ) is the same at every width."""
    changes = []
    for width in (16, 64, 256):
        layer = {"input": "layer_0", "hidden": "layer_1", "output": "layer_2"}[role]
        spec = mup.param_specs(mlp_params(width), base_params=mlp_params(32), form=form)[
            layer
        ]["w"]
        random = np.random.RandomState(0)
        h, delta = random.randn(spec.fan_in), random.randn(spec.fan_out)
        direction = np.sign(np.outer(h, delta))
        update = mup.update_multiplier(spec, "entrywise") * direction
        change = np.mean(np.abs(spec.forward * (h @ update)))
        changes.append(change / np.mean(np.abs(h)))
    assert changes == pytest.approx([changes[0]] * 3)


@pytest.mark.parametrize("kind", ["relative", "gradient"])
@pytest.mark.parametrize("role", ["input", "hidden", "output"])
@pytest.mark.parametrize("form", mup.FORMS)
def test_updates_relative_to_tensors_and_gradients_change_activations_alike(
    form, role, kind
):
    """With all weights at 1/√fan_in; and with δ at 1 over the outputs that grow."""
    changes = []
    for width in (16, 64, 256):
        layer = {"input": "layer_0", "hidden": "layer_1", "output": "layer_2"}[role]
        spec = mup.param_specs(mlp_params(width), base_params=mlp_params(32), form=form)[
            layer
        ]["w"]
        h, delta = np.ones(spec.fan_in), np.ones(spec.fan_out)
        scale = spec.fan_in**-0.5
        if kind == "gradient":
            scale = spec.forward / spec.width_out
        update = mup.update_multiplier(spec, kind) * scale * np.outer(h, delta)
        changes.append(np.mean(np.abs(spec.forward * (h @ update))))
    assert changes == pytest.approx([changes[0]] * 3)


def test_vectors_have_multipliers_for_gradients_alone():
    specs = mup.param_specs(mlp_params(256), base_params=mlp_params(32))
    biases = [specs[f"layer_{i}"]["b"] for i in range(3)]
    assert [mup.update_multiplier(b, "gradient") for b in biases] == [8, 8, 1]
    assert [mup.update_multiplier(b, "relative") for b in biases] == [1, 1, 1]
    every = mup.update_multipliers(specs, "gradient", mlp_params(256))
    assert every["layer_0"] == {"b": 8, "w": 8} and every["layer_2"]["w"] == 1 / 8
    none = mup.update_multipliers(None, "gradient", mlp_params(256))
    assert set(jax.tree.leaves(none)) == {1.0}


def test_faults_name_both_sides(unchecked_types):
    with pytest.raises(ValueError, match=r"\(3, 4\) has base shape \(3,\)"):
        mup.param_specs(jnp.zeros((3, 4)), base_params=jnp.zeros(3))
    with pytest.raises(ValueError, match=r"structure|node"):
        mup.param_specs({"a": jnp.zeros(3)}, base_params={"b": jnp.zeros(3)})
    with pytest.raises(ConfigError, match="unknown parameter `layer_0/v`"):
        mup.param_specs(mlp_params(32), roles={"layer_0/v": "input"})
    with pytest.raises(ConfigError, match="unknown role `imput`") as error:
        mup.param_specs(mlp_params(32), roles={"layer_0/w": "imput"})
    assert error.value.hint == "did you mean `input`?"
