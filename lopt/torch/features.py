"""Gradient statistics and inputs of learned optimizers; the pair of lopt/features.py.

Statistics with D decays of a tensor [*s] are one tensor [D, *s], float32; of a stack
[G, *s] of tensors [G, D, *s], changed in place. Layouts are torch's; where the order of
a tensor's axes matters, which of two equal ones is factored as the larger, it is that of
the jax kernel that the tensor would be (`kernel_axes`), so that both frameworks make the
same updates.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lopt import architecture
from lopt.architecture import TIME_SCALES
from lopt.specs import ParamSpec
from lopt.torch import shards

SMALL_PIECE, LARGE_PIECE, PIECE_OF_GPU = 2**14, 2**17, 2**20
"""Elements of a piece: on a CPU at least and at most, and elsewhere. What is kept of a
piece should not be much beside the tensor; smaller ones take Python too long."""

Piece = tuple[slice, ...]
"""Indices of a contiguous part of a stack [G, *s]."""


def pieces(x: Tensor) -> Iterator[Piece]:
    """Pieces that together are `x`, all of one shape but for the last along each axis."""
    size = min(max(SMALL_PIECE, x.numel() // 64), LARGE_PIECE)
    if x.device.type != "cpu":
        size = PIECE_OF_GPU
    if x.numel():
        yield from _pieces(x.shape, size)


def _pieces(shape: Sequence[int], size: int) -> Iterator[Piece]:
    if not shape:
        yield ()
        return
    length, *rest = shape
    inner = math.prod(rest)
    width = max(1, size // inner)
    within = [()] if inner <= size else list(_pieces(rest, size))
    for start in range(0, length, width):
        for others in within:
            yield slice(start, start + width), *others


def part(x: Tensor, piece: Piece) -> Tensor:
    """A piece of statistics [G, c, *s or 1] of a stack [G, *s]."""
    places = zip(x.shape[2:], piece[1:], strict=False)
    within = (slice(None) if n == 1 else place for n, place in places)
    return x[(piece[0], slice(None), *within)]


def sums(x: Tensor, parts: Sequence[Tensor], num: int) -> Tensor:
    """Sums over each tensor of a stack, [G, num], of parts [., num] for each piece."""
    total = torch.zeros(len(x), num, device=x.device)
    for piece, found in zip(pieces(x), parts, strict=True):
        total[piece[0]] += found
    return total


def flat(x: Tensor) -> Tensor:
    """[., n, *s] -> [., n, elements]."""
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


def along(values: Tensor, num_axes: int) -> Tensor:
    """`values` [..., D] shaped [..., D, 1, ..., 1], with so many axes after them."""
    return values[(..., *[None] * num_axes)]


def zeros(p: Tensor, num: int) -> Tensor:
    """Zero statistics [num, *s], on the devices as `p` is."""
    return torch.stack([torch.zeros_like(p, dtype=torch.float32)] * num)


def learned_decays(initial: Sequence[float], offsets: Tensor) -> Tensor:
    """Decays d = 1 - (1 - β) exp(10 δ) for initial decays β [D] and offsets δ [D]."""
    return 1.0 - (1.0 - offsets.new_tensor(initial)) * torch.exp(10.0 * offsets)


def update_momenta(m: Tensor, g: Tensor, decays: Tensor) -> None:
    """m ← d m + (1 - d) g for m [G, D, *s], g [G, *s] and decays d [D], not clipped."""
    m.lerp_(g[:, None], along(1.0 - decays, g.dim() - 1))


def update_second_moments(r: Tensor, g: Tensor, decays: Tensor) -> None:
    """r ← d r + (1 - d) g² for r [G, D, *s], g [G, *s], d [D] clipped to [0, 1]."""
    update_momenta(r, g * g, decays.clamp(0.0, 1.0))


def start_step() -> Tensor:
    """The step counter; on the CPU, so that reading it waits for no device."""
    return torch.zeros((), dtype=torch.int64)


def tanh_time_features(step: Tensor, device: torch.device) -> Tensor:
    """tanh(t / T - 1) for the eleven time scales T: [11], from the step counter t."""
    scales = torch.tensor(TIME_SCALES, dtype=torch.float32)
    return torch.tanh(step.float() / scales - 1.0).to(device)


def log_abs(x: Tensor) -> Tensor:
    """clip(ln(1e-8 + |x|), -5, 5): a statistic of any size as a network input."""
    return torch.log(1e-8 + x.abs()).clamp(-5.0, 5.0)


def kernel_axes(spec: ParamSpec) -> tuple[int, ...]:
    """The axes in the order of jax kernels: of a window, inputs, outputs.

    A `Linear` [out, in] has (1, 0), a convolution OIHW (2, 3, 1, 0); a tensor whose last
    axis is of outputs, as an embedding's, is in that order already.
    """
    rank = len(spec.shape)
    axes = sorted(spec.in_axes, key=lambda axis: (axis < 2, axis))
    order = (*axes, *spec.out_axes)
    is_kernel = spec.is_matrix and spec.out_axes[-1] != rank - 1 and len(order) == rank
    return order if is_kernel else tuple(range(rank))


def factored_axes(spec: ParamSpec) -> tuple[int, int] | None:
    """The axes (d1, d0) that the second moment is factored over; None below rank two.

    d0 is the largest axis and d1 the second largest; among equals the later in
    `kernel_axes` counts as the larger.
    """
    order = kernel_axes(spec)
    axes = architecture.factored_axes([spec.shape[axis] for axis in order])
    return None if axes is None else (order[axes[0]], order[axes[1]])


FactoredMoment = dict[str, Tensor]
"""The second moment of a tensor: means "row" [D, *s with 1 at d0] and "col" [D, *s with 1
at d1], which every process has whole; of a vector or a scalar "full" [D, *s]."""


def init_factored_moment(
    p: Tensor, num: int, axes: tuple[int, int] | None
) -> FactoredMoment:
    """Zero statistics for this tensor with `num` decays."""
    if axes is None:
        return {"full": zeros(p, num)}
    sizes = [[1 if i == axis else n for i, n in enumerate(p.shape)] for axis in axes]
    col, row = (torch.zeros((num, *s), device=p.device) for s in sizes)
    return {"row": row, "col": col}


def update_factored_moment(
    v: FactoredMoment, g: Tensor, decays: Tensor, axes: tuple[int, int] | None
) -> None:
    """Moves R and C towards the means of s = g² + 1e-30 over each tensor's axes d0, d1.

    R ← d R + (1 - d) mean_{d0}(s), C ← d C + (1 - d) mean_{d1}(s), d clipped to [0, 1];
    where the tensor is not factored, V ← d V + (1 - d) s.
    """
    decays = decays.clamp(0.0, 1.0)
    if axes is None:
        g = shards.local(g)
        update_momenta(shards.local(v["full"]), g * g + 1e-30, decays)
        return
    d1, d0 = axes
    s = g * g + 1e-30
    update_momenta(v["row"], shards.whole(s.mean(d0 + 1, keepdim=True)), decays)
    update_momenta(v["col"], shards.whole(s.mean(d1 + 1, keepdim=True)), decays)


def reciprocal_root_factors(v: FactoredMoment, d1: int) -> tuple[Tensor, Tensor]:
    """The factors ρ, κ of 1/√(second moment), with the shapes of the row and the column.

    ρ = rsqrt(max(R / (mean_{d1}(R) + 1e-9), 1e-9)), κ = rsqrt(max(C, 1e-9)). The two
    are not symmetric: only the row factor is relative to its mean.
    """
    row, col = v["row"], v["col"]
    mean = row.mean(d1 + 2, keepdim=True)
    rho = torch.rsqrt((row / (mean + 1e-9)).clamp(min=1e-9))
    return rho, torch.rsqrt(col.clamp(min=1e-9))


def reciprocal_root(full: Tensor) -> Tensor:
    """rsqrt(max(V + 1e-9, 1e-9)), the counterpart of ρ κ where nothing is factored."""
    return torch.rsqrt((full + 1e-9).clamp(min=1e-9))
