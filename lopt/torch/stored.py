"""State that is kept in half the memory; pairs lopt/optimizers/stored.py, which says why.

What bfloat16 rounds off it rounds by chance, a hash of the number and of the step, the
same as in jax, bit for bit.
"""

from typing import Literal

import torch
from torch import Tensor

from lopt.torch import shards
from lopt.torch.packing import Packing
from lopt.torch.rule import State

StateDtype = Literal["float32", "bfloat16"]

_ODD = (0x9E3779B1 - 2**32, 0x85EBCA6B - 2**32)
"""As int32, whose products wrap around like those of uint32."""


def rounded(x: Tensor, step: int) -> Tensor:
    """`x` in float32 as bfloat16, rounded by chance to one of its two neighbors there.

    Args:
      x: float32; what is not finite stays as it is.
      step: how many updates led to it.
    """
    bits = x.contiguous().view(torch.int32)
    salt = (step * (_ODD[1] % 2**32) + 2**31) % 2**32 - 2**31
    chance = torch.bitwise_xor(bits, salt).mul_(_ODD[0])
    up = chance.bitwise_right_shift_(16).bitwise_and_(0xFFFF).add_(bits)
    kept = up.bitwise_and_(-0x10000).view(torch.float32)
    return torch.where(torch.isfinite(x), kept, x).to(torch.bfloat16)


def narrowed(state: State, state_dtype: StateDtype) -> State:
    """The state, what is kept of each tensor in this type."""
    dtype = getattr(torch, state_dtype)
    tensors = [{k: x.to(dtype) for k, x in own.items()} for own in state.per_param]
    return state._replace(per_param=tensors)


def load(pack: Packing, i: int, state: State, key: str) -> Tensor:
    """What is kept of the tensors of a stack, in float32; it may be changed."""
    return pack.stack(i, [own.get(key) for own in state.per_param]).float()


def store(pack: Packing, i: int, state: State, key: str, stack: Tensor) -> None:
    """Keeps of the tensors of a stack what is in it, after one more step."""
    kept = [own.get(key) for own in state.per_param]
    if kept[pack.groups[i][0]].dtype == torch.bfloat16:
        stack = rounded(shards.local(stack), int(state.shared["step"]) + 1)
    pack.store(i, shards.local(stack), kept)
