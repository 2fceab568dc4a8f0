"""What families of next-byte predictors share: windows of a corpus, loss, the options.

Shapes in names: B windows, T bytes of each, N = BT with T changing fastest, C classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from lopt import mup
from lopt.base import Array, Data, Params, PRNGKey, Split, Task
from lopt.checks import check_choices, check_integers
from lopt.config import BrokenRule
from lopt.corpus import BLOCK, NUM_CLASSES, corpus, fixed_windows, sample_windows
from lopt.data import short_name
from lopt.families.classification import cross_entropy, loss_bound
from lopt.families.layers import specs_by_name
from lopt.families.stateless import Measured, stateless_task

EVAL_WINDOWS: dict[Split, int] = {"train": 32, "meta": 32, "valid": 64, "test": 128}
"""What a curve is read on, forward only: 32 take about as long as 0.7 steps on batches of
16. The meta-loss is read most often, and what is reported should be told from noise."""


@dataclass(frozen=True, kw_only=True)
class TextNet:
    """What one compiled program depends on.

    Attributes:
      kind: what a family asks for beside the rest: its blocks, or a cell.
      width: units of a layer.
      depth: blocks of a transformer, layers of a recurrent network.
      sequence_length: T, bytes that a window predicts, each from those before it.
      batch_size: windows of a minibatch.
      form: "mup" multiplies the output weights' product by base_width / width; "plain"
        does not.
      base_width: the width at which both forms agree.

    Raises:
      BrokenRule: an option is out of range.
    """

    kind: Any
    width: int
    depth: int
    sequence_length: int
    batch_size: int
    form: mup.Form
    base_width: int

    def __post_init__(self):
        check_integers(1, width=self.width, depth=self.depth, base_width=self.base_width)
        check_integers(1, batch_size=self.batch_size)
        check_integers(1, most=BLOCK - 1, sequence_length=self.sequence_length)
        check_choices(mup.FORMS, form=self.form)

    @property
    def forward(self) -> float:
        """f, what the output weights' product is multiplied by."""
        return self.base_width / self.width if self.form == "mup" else 1.0


InitFn = Callable[[TextNet, PRNGKey, int], Params]
"""`(net, key, width) -> params`, a dict of layers; the width need not be the net's."""
LogitsFn = Callable[[TextNet, Params, Array], Array]
"""`(net, params, x_BxT) -> logits_CxN`, of the byte after each."""


def text_task(
    family: str,
    net: TextNet,
    init: InitFn,
    logits: LogitsFn,
    *,
    dataset: str,
    data_seed: int,
) -> Task:
    """A language model of bytes; metrics: `accuracy` and `bits_per_byte`.

    The same net is the same functions, whatever the data.

    Args:
      family: its name.
      net: its options.
      init: an `InitFn`.
      logits: a `LogitsFn`.
      dataset: a name in `lopt.corpus.CORPORA`, or the path of a text.
      data_seed: of the splits but test.

    Raises:
      ConfigError: an option is out of range, or no corpus has this name.
    """
    if not isinstance(dataset, str):
        raise BrokenRule("dataset", "be a name or a path", dataset)
    check_integers(0, most=2**32 - 1, data_seed=data_seed)
    name = f"{family}-{short_name(dataset)}-{net.depth}x{net.width}"
    name += "-plain" if net.form == "plain" else ""
    name += f"-data-{data_seed}" if data_seed else ""
    data = corpus(dataset, seed=data_seed)
    return replace(_task(net, init, logits), name=name, data=data)


@cache
def _task(net: TextNet, init: InitFn, logits: LogitsFn) -> Task:
    """The task without its name and data."""
    length = net.sequence_length + 1

    def start(key: PRNGKey) -> Params:
        params = init(net, key, net.width)
        # One row of them is looked up: unit variance.
        params[min(params)]["bytes"] *= math.sqrt(NUM_CLASSES)
        return params

    specs = specs_by_name(partial(init, net), net)

    def loss(params: Params, windows: Array, key: PRNGKey) -> Measured:
        del key
        x_BxT, y_N = windows[:, :-1], windows[:, 1:].reshape(-1)
        value, metrics = cross_entropy(logits(net, params, x_BxT), y_N)
        return value, metrics | {"bits_per_byte": value / math.log(2)}

    def batch(key: PRNGKey, data: Data, split: Split) -> Array:
        return sample_windows(key, data[split], net.batch_size, length)

    def eval_batch(data: Data, split: Split) -> Array:
        return fixed_windows(data[split], EVAL_WINDOWS[split], length)

    return stateless_task(
        start,
        loss,
        specs=specs,
        batch=batch,
        eval_batch=eval_batch,
        loss_bound=loss_bound(NUM_CLASSES),
    )
