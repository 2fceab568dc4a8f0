"""Stacks of tensors of one kind, as a rule that treats each by itself works on them.

Of a stack [G, *s], what a rule keeps of each of its tensors [*s], such as statistics
[D, *s], is a stack, too, [G, D, *s].
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from lopt.specs import ParamSpec
from lopt.torch.packing import Packing
from lopt.torch.rule import State
from lopt.torch.stored import load, store


class Stack(NamedTuple):
    """Tensors of one kind; spread over processes, if these are."""

    spec: ParamSpec  # of all, but for their places in the network
    rows: slice  # where they are in stack order
    g: Tensor  # shape=[G, *s]
    p: Tensor  # shape=[G, *s]
    kept: dict[str, Tensor]  # shape=[G, …]


def stacks(
    pack: Packing, grads: Sequence[Tensor], state: State, params: Sequence[Tensor]
) -> Iterator[Stack]:
    """The stacks, one at a time.

    What is in `kept` may be changed or replaced: when the next one is asked for, it is
    stored in the state, which has made no step yet.
    """
    for i, (first, *_) in enumerate(pack.groups):
        kept = {name: load(pack, i, state, name) for name in state.per_param[first]}
        g, p = pack.stack(i, grads), pack.stack(i, params)
        yield Stack(pack.group_specs[i], pack.rows(i), g, p, kept)
        for name, stack in kept.items():
            store(pack, i, state, name, stack)


def rows(pack: Packing, state: State) -> list[dict[str, Tensor]]:
    """What is kept of each tensor, in stack order."""
    return [state.per_param[i] for group in pack.groups for i in group]


def with_elements(
    grads: Sequence[Tensor], state: State, params: Sequence[Tensor]
) -> tuple[list[Tensor], State, list[Tensor]]:
    """What is given of those tensors that are not empty."""
    full = [i for i, p in enumerate(params) if p.numel()]
    specs = tuple(state.specs[i] for i in full)
    kept = [state.per_param[i] for i in full]
    state = state._replace(specs=specs, per_param=kept)
    return [grads[i] for i in full], state, [params[i] for i in full]
