"""One rate suits every width: the coordinate check, at two widths."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt.bases import BASES

SCRIPT = Path(__file__).parents[1] / "scripts" / "coordinate_check.py"
WIDTHS = (64, 256)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("coordinate_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def slopes(script):
    """Slopes of every case and layer, by form and use of multipliers."""
    found = {}
    for form, multipliers in script.SETTINGS:
        seeds = 4 if multipliers else 1
        changes = script.changes(form, multipliers, widths=WIDTHS, seeds=seeds)
        found[form, multipliers] = {
            case: script.slopes(WIDTHS, change) for case, change in changes.items()
        }
    return found


def test_every_base_and_the_combination_are_checked(script):
    assert set(script.CASES) == {*BASES, "random theta"}


@pytest.mark.parametrize("case", [*BASES, "random theta"])
@pytest.mark.parametrize("form", ["mup", "plain"])
def test_activations_change_alike_at_every_width(slopes, form, case):
    assert np.abs(slopes[form, True][case]).max() < 0.15


@pytest.mark.parametrize("case", [*BASES, "random theta"])
def test_without_multipliers_they_do_not(slopes, case):
    assert slopes["plain", False][case].max() > 0.5


@pytest.mark.parametrize("case", BASES)
def test_a_case_is_the_base_that_it_names(script, key, case):
    """The second update of a matrix follows that base's direction and no other's."""
    params = {"w": jnp.zeros((6, 4))}
    grads = [
        {"w": scale * jax.random.normal(k, (6, 4))}
        for scale, k in zip((10.0, 1.0), jax.random.split(key), strict=True)
    ]
    theta = script.theta_of(case, key)
    update = second_update(script.LOPT.opt_fn(theta, num_steps=9), grads, params)
    for name, base in BASES.items():
        direction = second_update(base().transform, grads, params)
        if base().kind == "orthogonalized":
            u, _, vt = np.linalg.svd(direction, full_matrices=False)
            direction = u @ vt
        cosine = np.sum(-update * direction)
        cosine /= np.linalg.norm(update) * np.linalg.norm(direction)
        assert (cosine > 0.985) == (name == case), (name, cosine)


def second_update(transform, grads, params):
    transform = optax.with_extra_args_support(transform)
    state = transform.init(params)
    for grad in grads:
        updates, state = transform.update(grad, state, params, value=1.0)
    return np.asarray(updates["w"])
