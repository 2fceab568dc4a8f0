"""The whole design in one page: what is trained, what trains it, what trains that.

Meta-training has two loops. The *inner* loop trains the parameters φ (`params`) of a
`Task` with an optimizer. The *outer* loop trains the weights θ (`theta`) of that
optimizer, so that inner runs end well. Four interfaces carry it:

* `Task`: an inner problem; how to initialize, which data, what loss.
* `LearnedOptimizer`: `theta -> optax.GradientTransformationExtraArgs`. Nothing else in
  the package knows how an update is made. A hand-designed optimizer is one whose theta
  are its hyperparameters, so both kinds run in the same inner loop.
* `Unroll` = `Task` x `LearnedOptimizer`: the inner loop, cut into truncations of K steps.
* `GradientEstimator`: `Unroll` -> an estimate of the gradient of the meta-loss in theta.

A `Trainer` (trainer.py) owns one estimator for every group of tasks of one shape and an
optax optimizer for theta.

One representation for each kind of thing: an interface is a frozen dataclass of pure
functions, made by a factory; a state is a `NamedTuple` of arrays; theta is a nested dict
of arrays; a choice made outside `jit` is a frozen keyword-only dataclass. Randomness is
an explicit typed key. Batching is `vmap` at the caller. Imports point down the layers
that tests/test_layers.py lists.

Run lengths are multiples of K and a run restarts only *between* truncations; so no
estimator needs masks inside one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import optax
from jax.typing import ArrayLike

Array = jax.Array
PRNGKey = jax.Array
PyTree = Any
Params = Any
"""φ: the inner parameters, any pytree of arrays."""
ModelState = Any
"""What a model carries beside its parameters; `()` for most."""
Data = Any
"""A task's data, a pytree of arrays: an argument of every compiled program."""
Batch = Any
MetaParams = dict[str, Any]
"""θ: the learned optimizer's weights, a nested dict of arrays."""

UNSCALED_LOSS = "unscaled_loss"
"""The metric that stands for a loss that is not what it was (lopt.augmentation)."""


class WithFrozen(NamedTuple):
    """A batch, and parameters that are not trained, of which many runs share one copy."""

    frozen: Params
    batch: Batch


Split = Literal["train", "meta", "valid", "test"]
"""gradients | meta-loss | tuning and selection | every number that is reported."""
SPLITS: tuple[Split, ...] = ("train", "meta", "valid", "test")

Role = Literal["input", "hidden", "output", "embedding", "bias", "norm", "scalar"]
ROLES: tuple[Role, ...] = (
    "input", "hidden", "output", "embedding", "bias", "norm", "scalar",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ParamSpec:
    """What is known, before training, about one parameter tensor.

    The one home of muP, of axis layout and of roles. Specs are static: they are part of
    a compiled program. A tree of specs has the structure of the parameters.

    Attributes:
      role: the tensor's place in the network.
      shape: the tensor's shape.
      in_axes: axes that are summed over when the tensor is applied; `()` for vectors.
      out_axes: axes that remain. A jax dense kernel [in, out] has in_axes (0,), out_axes
        (1,); a torch `Linear` [out, in] the reverse; a convolution HWIO (0, 1, 2), (3,).
      width_in: fan-in over the fan-in of the base model, 1 where it does not grow.
      width_out: the same for the fan-out.
      forward: what the model multiplies this tensor's product by (muP form: 1/width_in
        on the output layer; a plain model: 1).
      depth: place in the network, 0 first to 1 last; None where unknown.
      num_layers: how many weight tensors are in a row in the network; None where unknown.
    """

    role: Role
    shape: tuple[int, ...]
    in_axes: tuple[int, ...] = ()
    out_axes: tuple[int, ...] = ()
    width_in: float = 1.0
    width_out: float = 1.0
    forward: float = 1.0
    depth: float | None = None
    num_layers: int | None = None

    @property
    def fan_in(self) -> int:
        """Number of terms in each output's sum; 1 for vectors and scalars."""
        return math.prod(self.shape[a] for a in self.in_axes)

    @property
    def fan_out(self) -> int:
        """Number of outputs."""
        return math.prod(self.shape[a] for a in self.out_axes)

    @property
    def is_matrix(self) -> bool:
        """Whether the tensor is a linear map, in_axes -> out_axes, that has elements."""
        return bool(self.in_axes and self.out_axes) and 0 not in self.shape


Specs = Any
"""A pytree of `ParamSpec`s with the structure of the parameters."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """An inner problem: what to initialize, what to minimize, on which data.

    All functions are pure. Two tasks whose functions are the *same objects* and whose
    specs and data shapes agree share one compiled program: factories therefore cache the
    functions by the options that shape them, and data are always arguments.

    Attributes:
      name: for people.
      data: device arrays, every split.
      specs: a `ParamSpec` for each parameter.
      loss_bound: a finite loss that stands for "diverged"; the meta-loss never exceeds
        it. For C classes 1.5 ln C.
      init: `(key, data) -> (params, model_state)`.
      batch: `(key, data, split) -> batch`: a random minibatch.
      eval_batch: `(data, split) -> batch`: the fixed one that curves are read on.
      loss: `(params, model_state, batch, key) -> (loss [], (model_state, metrics))`,
        metrics a dict of scalars such as `accuracy`. If `UNSCALED_LOSS` is one, that is
        what is read of a minibatch, and the loss only what the optimizer sees.
      splits: those that its data have; "train" at least.
      stream: `chunk -> data`, what is in place of `data`, chunk 0, in meta-training
        alone. Numpy arrays are a chunk's own, device arrays the same in all. None: there
        is one chunk.
    """

    name: str
    data: Data
    specs: Specs
    loss_bound: float
    init: Callable[[PRNGKey, Data], tuple[Params, ModelState]]
    batch: Callable[[PRNGKey, Data, Split], Batch]
    eval_batch: Callable[[Data, Split], Batch]
    loss: Callable[
        [Params, ModelState, Batch, PRNGKey],
        tuple[Array, tuple[ModelState, dict[str, Array]]],
    ]
    splits: tuple[Split, ...] = SPLITS
    stream: Callable[[int], Data] | None = None


@runtime_checkable
class OptFn(Protocol):
    """`theta -> optimizer`; the second half of a `LearnedOptimizer`."""

    def __call__(
        self,
        theta: MetaParams,
        *,
        specs: Specs | None = None,
        num_steps: ArrayLike | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer that theta describes.

        Args:
          theta: meta-parameters.
          specs: a `ParamSpec` for each parameter; None: inferred from shapes.
          num_steps: length of the run, may be traced; an optimizer that needs it raises
            `TypeError` where it is None.

        Returns:
          An optax transformation whose updates are *added* to the parameters, used as
          `update(grads, state, params, value=loss)`.
        """
        ...


@dataclass(frozen=True)
class LearnedOptimizer:
    """An optimizer with meta-parameters.

    Attributes:
      init: `key -> theta`.
      opt_fn: `theta -> optax.GradientTransformationExtraArgs`.
    """

    init: Callable[[PRNGKey], MetaParams]
    opt_fn: OptFn


class UnrollState(NamedTuple):
    """One inner training run, in progress."""

    params: Params
    model_state: ModelState
    opt_state: optax.OptState
    step: Array  # shape=[], int32: inner steps since the last restart
    num_steps: Array  # shape=[], int32: length of this run, T, a multiple of K
    best: Array  # shape=[], the lowest meta-loss read so far, inf at step 0


class Reading(NamedTuple):
    """What one truncation of a run says of it."""

    loss: Array  # shape=[], its part of the meta-loss, times the run's truncations
    diverged: Array  # shape=[], bool: whether a loss was not finite


Rematerialize = Literal["nothing", "steps", "stretches"]
"""What reverse-mode differentiation computes anew instead of keeping: nothing; what
happens inside a step; or the steps between two readings of the meta-loss, too."""


@runtime_checkable
class AdvanceFn(Protocol):
    """`Unroll.advance`."""

    def __call__(
        self,
        theta: MetaParams,
        state: UnrollState,
        key: PRNGKey,
        data: Data,
        *,
        rematerialize: Rematerialize = "nothing",
    ) -> tuple[Reading, UnrollState]:
        """K inner steps, and the meta-loss that was read on the way."""
        ...


@dataclass(frozen=True)
class Unroll:
    """The inner loop, cut into truncations.

    The mean of `Reading.loss` over the truncations of a run is the run's meta-loss.

    Attributes:
      draw_num_steps: `(key, progress) -> num_steps`: a run length, int32.
      init: `(theta, key, data, num_steps) -> UnrollState` at step 0.
      advance: an `AdvanceFn`: one truncation. A run that has met a non-finite loss may
        go on; each truncation is then charged with the worst loss.
      length: K.
      max_steps: the longest run length, a multiple of K.
    """

    draw_num_steps: Callable[[PRNGKey, Array], Array]
    init: Callable[[MetaParams, PRNGKey, Data, Array], UnrollState]
    advance: AdvanceFn
    length: int
    max_steps: int


class MetaGradient(NamedTuple):
    """What an estimator returns."""

    grad: MetaParams
    loss: Array  # shape=[], the mean meta-loss of what was run
    num_diverged: Array  # shape=[], int32: runs not finite, or left out with one
    num_steps: Array  # shape=[], int32: inner steps taken, all particles together


EstimatorState = Any


@dataclass(frozen=True)
class GradientEstimator:
    """Estimates the meta-gradient on one task; carries its particles between calls.

    Progress is the share of outer steps that are done, in [0, 1).

    Attributes:
      init: `(theta, key, data) -> state`; every array has the particles (the pairs, or
        single runs) as leading axis, so that they can be shared out over devices.
      estimate: `(theta, state, key, data, progress) -> (MetaGradient, state)`.
    """

    init: Callable[[MetaParams, PRNGKey, Data], EstimatorState]
    estimate: Callable[
        [MetaParams, EstimatorState, PRNGKey, Data, Array],
        tuple[MetaGradient, EstimatorState],
    ]
