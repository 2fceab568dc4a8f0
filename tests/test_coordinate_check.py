"""One rate suits every width: the coordinate check, at two widths."""

import inspect

import coordinate_check
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt import mup
from lopt.bases import BASES
from lopt.optimizers import mixing
from lopt.optimizers.layerwise import layerwise
from lopt.packing import packing

WIDTHS = (64, 256)


@pytest.fixture(scope="module")
def slopes():
    """Slopes of every case and layer, by form and use of multipliers."""
    found = {}
    for form, multipliers in coordinate_check.SETTINGS:
        seeds = 4 if multipliers else 1
        changes = coordinate_check.changes(form, multipliers, widths=WIDTHS, seeds=seeds)
        found[form, multipliers] = {
            case: coordinate_check.slopes(WIDTHS, change)
            for case, change in changes.items()
        }
    return found


def test_every_base_and_the_combination_are_checked():
    assert set(coordinate_check.CASES) == {*BASES, "random theta"}


@pytest.mark.parametrize("case", [*BASES, "random theta"])
@pytest.mark.parametrize("form", ["mup", "plain"])
def test_activations_change_alike_at_every_width(slopes, form, case):
    assert np.abs(slopes[form, True][case]).max() < 0.15


@pytest.mark.parametrize("case", [*BASES, "random theta"])
def test_without_multipliers_they_do_not(slopes, case):
    assert slopes["plain", False][case].max() > 0.5


@pytest.mark.parametrize("case", BASES)
def test_a_case_is_the_base_that_it_names(key, case):
    """The second update of a matrix follows that base's direction and no other's."""
    params = {"w": jnp.zeros((6, 4))}
    grads = [
        {"w": scale * jax.random.normal(k, (6, 4))}
        for scale, k in zip((10.0, 1.0), jax.random.split(key), strict=True)
    ]
    optimizer = coordinate_check.LOPT.opt_fn(
        coordinate_check.theta_of(case, key), num_steps=9
    )
    state = optimizer.init(params)
    for grad in grads:
        updates, state = optimizer.update(grad, state, params, value=1.0)
    update = np.asarray(updates["w"])
    for name, base in BASES.items():
        direction = second_direction(base(), grads)
        cosine = np.sum(-update * direction)
        cosine /= np.linalg.norm(update) * np.linalg.norm(direction)
        assert (cosine > 0.9999) == (name == case), (name, cosine)


def second_direction(base, grads):
    """Of a base, from the prior's blend of the gradient and its momenta."""
    prior = inspect.signature(layerwise).parameters
    pack = packing(mup.infer_specs(grads[0]))
    shares = jnp.asarray([prior["prior_blend"].default])
    decays = jnp.asarray(prior["momenta"].default)
    momenta = mixing.start_momenta(pack.pack(grads[0]), len(decays))
    state = base.init(pack.pack(grads[0]), pack)
    for step, grad in enumerate(grads):
        g = pack.pack(grad)
        momenta, unbiased = mixing.update_momenta(decays, g, momenta, jnp.asarray(step))
        u = mixing.blend(pack, shares, g, unbiased)
        direction, state = base.direction(u, g, state, jnp.asarray(step), pack)
    return np.asarray(direction[0][0])
