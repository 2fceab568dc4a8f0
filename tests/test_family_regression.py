"""What a regression computes, in plain numpy; its options."""

import jax
import numpy as np
import pytest
from family_tools import loss_and_metrics, params_without_zeros
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from lopt.errors import ConfigError
from lopt.families.regression import regression


@pytest.mark.parametrize("dataset", ["diabetes", "linnerud"])
@pytest.mark.parametrize(("form", "multiplier"), [("mup", 32 / 48), ("plain", 1.0)])
def test_loss_is_that_of_plain_numpy(key, dataset, form, multiplier):
    task = regression(dataset=dataset, width=48, depth=1, form=form, activation="tanh")
    params = params_without_zeros(task, key)
    x, y = map(np.asarray, task.data["valid"])
    first, last = (jax.tree.map(np.asarray, layer) for layer in params.values())
    h = np.tanh(x @ first["w"] + first["b"])
    error = multiplier * (h @ last["w"]) + last["b"] - y
    loss, metrics = loss_and_metrics(task, params, task.data["valid"], key)
    assert loss == pytest.approx(np.mean(error**2), rel=1e-4)
    r2 = 1 - np.sum(error**2) / np.sum(y**2)
    assert metrics["r2"] == pytest.approx(r2, rel=1e-3)


def test_r2_of_the_train_split_is_that_of_scikit_learn(key):
    """There alone the mean of the targets is zero, which is what a guess is."""
    task = regression(depth=0)
    x, y = map(np.asarray, task.data["train"])
    best = LinearRegression().fit(x, y)
    params = {"layer_0": {"w": best.coef_.T, "b": best.intercept_}}
    loss, metrics = loss_and_metrics(task, params, task.data["train"], key)
    expected = r2_score(y, best.predict(x))
    assert 0.4 < expected < 0.6
    assert metrics["r2"] == pytest.approx(expected, rel=1e-3)
    assert loss == pytest.approx(1 - expected, rel=1e-3)


def test_the_bound_is_above_the_guess_on_every_split():
    task = regression(dataset="linnerud")
    guesses = [float(np.mean(np.asarray(y) ** 2)) for _, y in task.data.values()]
    assert task.loss_bound == pytest.approx(1.5 * max(guesses))
    assert max(guesses) > 2  # of three examples


def test_options_are_in_the_name_and_data_not_in_the_program():
    one = regression(width=48, depth=1, form="plain")
    other = regression(width=48, depth=1, form="plain", num_examples=50, data_seed=2)
    assert one.name == "regression-diabetes-1x48-relu-plain"
    assert other.name == one.name + "-50-examples-data-2"
    assert one.loss is other.loss and one.init is other.init
    assert len(other.data["train"][0]) == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "digits"}, "`dataset` must have targets, got 'digits'"),
        ({"num_examples": 244}, "`num_examples` must be an integer from 1 to 243, got"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1, got 0"),
        ({"activation": "rely"}, "`activation` must be `relu` or `tanh` or"),
        ({"input_scale": -1.0}, "`input_scale` must be positive, got -1.0"),
    ],
)
def test_bad_options(unchecked_types, options, message):
    with pytest.raises(ConfigError) as error:
        regression(**options)
    assert str(error.value).startswith(message)
