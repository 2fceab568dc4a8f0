"""State that is kept in bfloat16, rounded by chance; lopt/optimizers/stored.py says why.

The chance is a hash of the number and of the step, the same as in jax, bit for bit.
"""

import torch
from torch import Tensor

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
