"""The interface of an update rule in torch: what a learned optimizer does to tensors.

A rule works on lists of tensors, in the order in which the optimizer was given them. It
is made by a factory that has the name, the options and the defaults of the one in
lopt/optimizers/, `NAME(theta, *, num_steps, **options) -> Rule`, and holds nothing but
theta and constants: whatever changes is in its state.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from lopt.specs import ParamSpec

Theta = dict[str, Any]
"""Weights: a nested dict of float32 tensors, on the device of the parameters."""


class State(NamedTuple):
    """What a rule carries from step to step.

    The dicts have the same keys in every step, `shared` none that the others have. Their
    tensors may be replaced as well as changed in place; they are kept in checkpoints, in
    their own dtypes.
    """

    specs: tuple[ParamSpec, ...]  # of the parameters, in their order
    shared: dict[str, Tensor]  # the step, losses, whatever is of the whole network
    per_param: list[dict[str, Tensor]]  # momenta, second moments, …


@runtime_checkable
class Rule(Protocol):
    """An update rule; stateless."""

    reads_loss: bool
    """Whether `update` needs the loss; where it does not, it may be given one."""

    def init(self, params: Sequence[Tensor], specs: Sequence[ParamSpec]) -> State:
        """The state before the first step, on the devices of the parameters.

        Args:
          params: float32, bfloat16 or float16, possibly on the "meta" device.
          specs: of each, in torch's layouts: a `Linear` has out_axes (0,), in_axes (1,).
        """
        ...

    def update(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        loss: Tensor | None,
    ) -> list[Tensor]:
        """What is to be added to the parameters, float32; `state` is changed in place.

        Called without gradients being recorded. Arguments have been checked: gradients
        are dense floating-point tensors of the parameters' shapes.

        Args:
          grads: in the order of `state.per_param`; parameters that have no gradient in
            this step are in none of the lists. Float32; not changed.
          state: of these parameters.
          params: float32; not changed.
          loss: [], float32, on the device of the parameters; None: it was not passed.

        Returns:
          New tensors, or the caller's to change: one for each parameter.
        """
        ...
