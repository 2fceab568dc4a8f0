"""The LSTM cell of rules with one row per tensor; pairs lopt/optimizers/recurrent.py.

References:
  Hochreiter, Schmidhuber, Long short-term memory, 1997, Neural Computation 9 (8).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lopt.torch.rule import Theta


def start_lstm(theta: Theta) -> dict[str, Tensor]:
    """The learned starting state of one tensor's row, [H] each."""
    return {name: theta[name][0].clone() for name in ("hidden", "cell")}


def linear(theta: Theta, x: Tensor) -> Tensor:
    """x w + b for rows x [T, n_in]."""
    return torch.addmm(theta["b"], x, theta["w"])


def lstm(theta: Theta, x: Tensor, rows: Sequence[dict[str, Tensor]]) -> Tensor:
    """One step: the new hidden rows [T, H], which are written to the rows' states, too.

    (i, g, f, o) = [x, h] w + b; c ← σ(f + 1) c + σ(i) tanh(g); h ← σ(o) tanh(c).
    """
    hidden, cell = (torch.stack([row[k] for row in rows]) for k in ("hidden", "cell"))
    z = linear(theta["linear"], torch.cat([x, hidden], dim=1))
    i, g, f, o = z.chunk(4, dim=1)
    cell = torch.sigmoid(f + 1.0) * cell + torch.sigmoid(i) * torch.tanh(g)
    hidden = torch.sigmoid(o) * torch.tanh(cell)
    for row, h, c in zip(rows, hidden, cell, strict=True):
        row["hidden"], row["cell"] = h, c
    return hidden
