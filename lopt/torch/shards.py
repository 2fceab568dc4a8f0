"""Tensors of which every process has a part (`DTensor`, as of FSDP2), and plain ones.

What is done element by element is done to each process's part; what is a statistic of the
whole tensor is reduced over processes first. Plain tensors pass through untouched.
"""

from torch import Tensor


def _is_shared_out(x: Tensor) -> bool:
    # Not by type: its module is slow to import, and absent from some builds of torch.
    return hasattr(x, "device_mesh")


def local(x: Tensor) -> Tensor:
    """This process's part; changes of it are changes of `x`."""
    return x.to_local() if _is_shared_out(x) else x


def whole(x: Tensor) -> Tensor:
    """All of it, a plain tensor, the same on every process."""
    return x.full_tensor() if _is_shared_out(x) else x


def mean(x: Tensor) -> Tensor:
    """The mean of all entries, [], plain."""
    return whole(x.mean())


def share(x: Tensor, like: Tensor) -> Tensor:
    """The part of `x` [c, *s or 1], plain and whole, that meets the local one of `like`.

    Args:
      x: statistics of a tensor, some of whose axes may have size 1.
      like: the tensor, [*s].
    """
    if not _is_shared_out(like):
        return x
    from torch.distributed.tensor import DTensor, Replicate, Shard

    everywhere = [Replicate() for _ in like.placements]
    placements = [
        Shard(p.dim + 1) if p.is_shard() and x.shape[p.dim + 1] > 1 else Replicate()
        for p in like.placements
    ]
    copies = DTensor.from_local(x, like.device_mesh, everywhere, run_check=False)
    return copies.redistribute(placements=placements).to_local()


def total(x: Tensor, like: Tensor) -> Tensor:
    """The sum of what every process found in its part of `like`."""
    if not _is_shared_out(like):
        return x
    from torch.distributed.tensor import DTensor, Partial, Replicate

    found = [Partial() if p.is_shard() else Replicate() for p in like.placements]
    return DTensor.from_local(x, like.device_mesh, found, run_check=False).full_tensor()


def as_part(x: Tensor, like: Tensor) -> Tensor:
    """The tensor of which `x` is this process's part, laid out as `like`."""
    if not _is_shared_out(like):
        return x
    from torch.distributed.tensor import DTensor

    layout = {"shape": like.shape, "stride": like.stride(), "run_check": False}
    return DTensor.from_local(x, like.device_mesh, like.placements, **layout)
