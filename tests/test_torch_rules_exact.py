"""Rules in torch make the updates of the optimizers in jax, and the published ones."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import jax  # noqa: E402
import test_golden as golden  # noqa: E402
import torch_rules as fed  # noqa: E402

from lopt import features as jax_features  # noqa: E402
from lopt.optimizers import OPTIMIZERS  # noqa: E402
from lopt.published.matching import find  # noqa: E402
from lopt.specs import ParamSpec, spec_of_shape  # noqa: E402
from lopt.torch import features  # noqa: E402
from lopt.torch.rules import RULES  # noqa: E402

torch.set_num_threads(1)

CASES = {
    "adafac_mlp": [{}, {"hidden_sizes": (32, 32)}],
    "celo": [{}, {"phase": 1, "num_networks": 3}],
    "celo2": [
        {},
        {"axes": "last", "vectors": "learned", "weight_decay": 0.1},
        {"orthogonalize": False, "vectors": "adam", "vector_mult": 0.5},
    ],
    "learnable_adam": [{}, {"per_role": True}],
    "learnable_sgd": [{}],
    "learnable_sgdm": [{"per_role": True}],
    "mlp": [{}],
    "mup_adafac": [{"clip_norm": 1.0}],
    "nn_adam": [{"decay_strength": 0.1}],
    "rnn_mlp": [{}],
    "velo": [{}, {"loss_horizon": 10, "keeps_lstm_state": False}],
}
"""Options beside the defaults."""
EQUAL = 1e-5
"""For the updates of a run as a whole, in norm, and mostly for every entry."""
MAGNIFIED = 5e-5
"""For single entries where rounding errors grow: VeLO multiplies what its LSTM says by
100, and jax's own updates differ by 1.8e-5 if they are compiled without optimization,
torch's by 3.2e-5; orthogonalization makes some errors 485 times as large, by 1.7e-5 and
3.2e-5, with float64 in torch's network and iteration still 3.0e-5."""
FEW = ("bias", "empty", "square")
"""Tensors in the default run: compiling the others takes jax a minute."""
ALL = [(name, options) for name, cases in CASES.items() for options in cases]


def check(errors, name, options):
    orthogonalizes = name == "celo2" and options.get("orthogonalize", True)
    magnifies = orthogonalizes or name == "velo"
    assert errors.run < EQUAL
    assert errors.worst < (MAGNIFIED if magnifies else EQUAL)


@pytest.mark.parametrize("name", CASES)
def test_updates_are_those_of_jax(name):
    options = CASES[name][0]
    errors = fed.compare(RULES[name], num_steps=12, names=FEW, **options)
    check(errors, name, options)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), ALL)
def test_a_hundred_updates_are_those_of_jax(name, options):
    errors = fed.compare(RULES[name], num_steps=100, seed=1, **options)
    check(errors, name, options)


def test_a_cosine_is_that_of_jax():
    options = {"schedule": "cosine", "orthogonalize": False}
    errors = fed.compare(RULES["celo2"], num_steps=4, names=("bias", "square"), **options)
    assert errors.worst < EQUAL


def test_every_optimizer_has_a_rule_and_a_case():
    assert set(RULES) == set(OPTIMIZERS) == {*CASES, "layerwise"}


@pytest.mark.parametrize("name", CASES)
def test_state_has_the_same_keys_in_every_step_and_the_step_is_counted(name):
    found = fed.made(name)
    params, grads, losses = fed.drawn(2)
    p = [fed.to_torch(x) for x in params.values()]
    rule = fed.rule_of(found, RULES[name], 2)
    start = rule.init(p, [spec_of_shape(tuple(x.shape), 0) for x in p])
    _, state = fed.torch_updates(rule, [params] * 2, grads, losses)
    assert int(state.shared["step"]) == 2 and int(start.shared["step"]) == 0
    for one, two in zip(
        [start.shared, *start.per_param], [state.shared, *state.per_param], strict=True
    ):
        assert {k: (x.shape, x.dtype) for k, x in one.items()} == {
            k: (x.shape, x.dtype) for k, x in two.items()
        }


@pytest.mark.parametrize("name", ["celo", "velo", "rnn_mlp"])
def test_a_loss_that_is_missing_is_told(name):
    found = fed.made(name)
    rule = fed.rule_of(found, RULES[name], 5)
    p = [torch.zeros(3)]
    assert rule.reads_loss
    state = rule.init(p, [spec_of_shape((3,), 0)])
    with pytest.raises(TypeError, match="reads the loss"):
        rule.update(p, state, p, None)


@pytest.mark.parametrize(("name", "options"), [
    ("velo", {}), ("celo", {}), ("celo2", {"schedule": "cosine"}),
])  # fmt: skip
def test_a_length_that_is_missing_is_told(name, options):
    with pytest.raises(TypeError, match="num_steps"):
        fed.rule_of(fed.made(name, **options), RULES[name], None)


def test_axes_are_factored_as_in_jax():
    for shape in [(4, 4), (3, 3, 8, 8), (3, 3, 3, 3), (2, 5, 5), (1, 7), (7, 1)]:
        spec = spec_of_shape(fed.to_torch(np.zeros(shape)).shape, 0)
        kernel = features.kernel_axes(spec)
        if len(shape) != 3:  # torch_rules has no layout for three
            assert tuple(spec.shape[a] for a in kernel) == shape
        expected = jax_features.factored_axes([spec.shape[a] for a in kernel])
        assert features.factored_axes(spec) == tuple(kernel[a] for a in expected)
    embedding = ParamSpec(role="embedding", shape=(9, 9), in_axes=(0,), out_axes=(1,))
    assert features.factored_axes(embedding) == (0, 1)


def recorded_specs(rec):
    """In jax's layouts, which torch then takes as they are."""
    known = golden.specs_of(rec)
    if known is not None:
        return list(known.values())
    shapes = (tuple(rec.config["leaf_shapes"][name]) for name in rec.names)
    return [spec_of_shape(shape, -1) for shape in shapes]


@pytest.mark.parametrize("path", golden.FILES, ids=lambda path: path.stem)
def test_recorded_update_is_reproduced(path):
    rec = golden.load(path)
    adapter = golden.ADAPTERS.get(rec.config["cls"])
    if adapter is None:
        pytest.skip(f"lopt has no `{rec.config['architecture']}` yet")
    if rec.constants.get("is_valid_steps"):
        pytest.skip("no rule in torch takes validation losses")
    options = adapter.options(rec)
    found = find(rec.under("theta"), adapter.architecture, Path("recording"))
    theta = found.theta(OPTIMIZERS[adapter.architecture](**options))
    theta = jax.tree.map(lambda x: torch.from_numpy(np.array(x)), theta)
    num_steps = rec.config["num_steps"]
    rule = RULES[adapter.architecture](theta, num_steps=num_steps, **options)
    start = {name: rec.under("params0")[name] for name in rec.names}
    p = [torch.from_numpy(np.array(x)) for x in start.values()]
    with torch.no_grad():
        state = rule.init(p, recorded_specs(rec))
        for t in range(rec.config["steps_recorded"]):
            grads = rec.under(f"grads/{t}")
            g = [torch.from_numpy(np.array(grads[name])) for name in rec.names]
            loss = torch.from_numpy(np.array(rec.arrays[f"loss/{t}"], np.float32))
            updates = rule.update(g, state, p, loss)
            p = [a + b for a, b in zip(p, updates, strict=True)]
            for name, ours in zip(rec.names, p, strict=True):
                recorded = rec.under(f"params/{t}").get(name)
                if recorded is None:
                    continue
                error = golden.displacement_error(ours.numpy(), recorded, start[name])
                tolerance = golden.SENSITIVE.get((path.stem, name), adapter.tolerance)
                assert error <= tolerance, f"{name} after step {t}: E = {error:.1e}"


@pytest.mark.parametrize("name", ["adafac_mlp", "celo2", "mlp"])
def test_state_in_bfloat16_makes_about_the_same_updates(name):
    params, grads, losses = fed.drawn(6)
    found = [
        fed.torch_updates(
            fed.rule_of(fed.made(name, state_dtype=dtype), RULES[name], 9),
            *([params] * 6, grads, losses),
        )
        for dtype in ("float32", "bfloat16")
    ]
    (exact, _), (near, state) = found
    assert int(state.shared["step"]) == 6
    kept = [x for own in state.per_param for x in own.values()]
    assert {x.dtype for x in kept} == {torch.bfloat16}
    for a, b in zip(exact[-1], near[-1], strict=True):
        assert torch.linalg.norm(a - b) <= 0.1 * torch.linalg.norm(a)
    assert any(not torch.equal(a, b) for a, b in zip(exact[-1], near[-1], strict=True))
