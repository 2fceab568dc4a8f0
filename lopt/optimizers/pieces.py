"""A network on a large tensor, piece by piece.

The channels of a large tensor take several times longer to be written to memory and read
again than to be computed. So they are computed twice, for their mean squares and for the
outputs, and what is made of a piece stays in the cache. Every channel is an array of its
own there: XLA does not vectorize what is made of a piece of several, nor of a
concatenation. Only the products of a wide network, which take longer, want them together.

`layerwise` measures the directions of large tensors in the same way.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt import features
from lopt.base import Array, PyTree
from lopt.optimizers import per_element
from lopt.optimizers.per_element import Layers

PIECE = 2**14
"""Elements of a piece, of which some twenty arrays fit into the cache."""

_LARGE = 2**16
"""Larger tensors are met in pieces."""


class Channels(NamedTuple):
    """The channels of one tensor [*s], and what they are made of.

    Row d of a channel is made of the rows d, or the only ones, of what is seen.
    """

    make: Callable[..., list[Array]]  # of arrays as `seen`, of a piece of them, of rows
    seen: tuple[Array, ...]  # [c, *s or 1]

    def whole(self) -> list[Array]:
        """The channels [c, *s or 1]."""
        return self.make(*self.seen)


class Mean(NamedTuple):
    """Of what is made of a network's outputs only the mean over the elements is kept."""

    of: Array  # shape=[*s], or of a piece


class _Cut(NamedTuple):
    """The channels of a tensor, told apart, and how it is cut."""

    shape: tuple[int, ...]
    own: dict[int, int]  # how many rows have those channels that are no rows or columns
    axis: int
    width: int

    @property
    def num_pieces(self) -> int:
        return -(-self.shape[self.axis] // self.width)

    def start(self, i: Array) -> Array:
        """Of piece i; the last one overlaps the one before."""
        return jnp.minimum(i * self.width, self.shape[self.axis] - self.width)

    def add(self, total: Array, i: Array, x: Array) -> Array:
        """A total [*piece] with what is new in piece i of x [*piece]."""
        places = jnp.arange(self.width).reshape(
            [-1 if axis == self.axis else 1 for axis in range(len(self.shape))]
        )
        is_new = self.start(i) + places >= i * self.width
        return total + jnp.where(is_new, x, 0.0)

    @property
    def piece(self) -> tuple[int, ...]:
        """The shape of a piece."""
        return tuple(
            self.width if axis == self.axis else n for axis, n in enumerate(self.shape)
        )

    def row(self, x: Array, d: int, start: Array) -> Array:
        """The piece of row d, or of the only one: [1, *piece or 1] of [c, *s or 1].

        In one cut: the row first and then its piece takes the whole a fifth longer.
        """
        first = [d if len(x) > 1 else 0, *[0] * (x.ndim - 1)]
        sizes = [1, *x.shape[1:]]
        if x.shape[self.axis + 1] > 1:
            first[self.axis + 1] = start
            sizes[self.axis + 1] = self.width
        return jax.lax.dynamic_slice(x, first, sizes)

    def part(self, x: Array, start: Array) -> Array:
        """The piece of all rows: [c, *piece or 1] of [c, *s or 1]."""
        if x.shape[self.axis + 1] == 1:
            return x
        return jax.lax.dynamic_slice_in_dim(x, start, self.width, self.axis + 1)

    def own_rows(self, channels: Channels, start: Array) -> list[Array]:
        """The piece of every own channel: [*piece] each."""
        made = [
            channels.make(*(self.row(x, d, start) for x in channels.seen))
            for d in range(max(self.own.values()))
        ]
        return [made[d][i][0] for i, n in self.own.items() for d in range(n)]


def are_used(size: int) -> bool:
    """Whether a tensor of so many elements is met in pieces: a large one, on a CPU."""
    return size > _LARGE and jax.default_backend() == "cpu"


def mean_squares(channels: Channels) -> Array:
    """Of every channel: [sum of c]."""
    whole = channels.whole()
    cut = _cut(whole)

    def add(i: Array, sums: list[Array]) -> list[Array]:
        rows = cut.own_rows(channels, cut.start(i))
        return [
            cut.add(total, i, row * row) for total, row in zip(sums, rows, strict=True)
        ]

    empty = [jnp.zeros(cut.piece, whole[0].dtype)] * sum(cut.own.values())
    sums = iter(jax.lax.fori_loop(0, cut.num_pieces, add, empty))
    means = [
        jnp.stack([next(sums).sum() for _ in c]) / features.size(cut.shape)
        if i in cut.own
        else jnp.mean(c * c, axis=range(1, c.ndim))
        for i, c in enumerate(whole)
    ]
    return jnp.concatenate(means)


def outputs(
    layers: Layers,
    channels: Channels,
    use: Callable[[list[Array]], PyTree],
    *,
    is_narrow: bool,
) -> PyTree:
    """What is made of the network's outputs [*s], by a function of each element's.

    Args:
      layers: of the network.
      channels: of the tensor.
      use: of outputs [*piece]; makes arrays [*piece], or `Mean`s of such.
      is_narrow: whether the layers are written out, and no products of matrices.

    Returns:
      What `use` makes of the whole, a `Mean` of the sum of all pieces for each `Mean`.
    """
    whole = channels.whole()
    cut = _cut(whole)
    (w, b), *later = layers
    pairs = per_element.with_columns(w, whole)
    columns = jnp.concatenate([pairs[i][0] for i in cut.own], axis=1)
    edges = [pair for i, pair in enumerate(pairs) if i not in cut.own]
    projected = [
        jnp.tensordot(columns, jnp.concatenate(group), axes=1)
        for columns, group in per_element.by_shape(edges).values()
    ]

    def written_out(start: Array) -> list[Array]:
        biases = [
            sum((cut.row(x, j, start)[0] for x in projected), b[j]) for j in range(len(b))
        ]
        x = per_element.sums((columns, biases), cut.own_rows(channels, start))
        for layer in later:
            x = per_element.sums(layer, [jax.nn.relu(row) for row in x])
        return x

    def by_products(start: Array) -> list[Array]:
        rows = jnp.stack(cut.own_rows(channels, start))
        parts = (cut.part(x, start) for x in projected)
        x = sum(parts, jnp.tensordot(columns, rows, axes=1) + features.along(b, rows))
        return list(per_element.later_products(later, x))

    network = written_out if is_narrow else by_products
    like = jax.ShapeDtypeStruct(cut.piece, whole[0].dtype)
    made = jax.eval_shape(use, [like] * len(layers[-1][1]))

    def make(start: Array) -> PyTree:
        # Always so. XLA has threads share an operation only where its result is not
        # written to its place at once, and that of a branch is not.
        return jax.lax.cond(
            start >= 0,
            lambda: use(network(start)),
            lambda: jax.tree.map(lambda y: jnp.zeros(y.shape, y.dtype), made),
        )

    def write(i: Array, written: PyTree) -> PyTree:
        start = cut.start(i)

        def put(to: Array | Mean, y: Array | Mean) -> Array | Mean:
            if isinstance(y, Mean):
                return Mean(cut.add(to.of, i, y.of))
            return jax.lax.dynamic_update_slice_in_dim(to, y, start, cut.axis)

        return jax.tree.map(put, written, make(start), is_leaf=_is_mean)

    def empty(y: jax.ShapeDtypeStruct | Mean) -> Array | Mean:
        if isinstance(y, Mean):
            return Mean(jnp.zeros(cut.piece, y.of.dtype))
        # Not zeros, which would be there from the beginning, and copied for each tensor.
        late = [*projected, columns][0].reshape(-1)[0]
        return jnp.full(cut.shape, late, y.dtype)

    nothing = jax.tree.map(empty, made, is_leaf=_is_mean)
    return jax.lax.fori_loop(0, cut.num_pieces, write, nothing)


def after(made: PyTree, x: Array) -> Array:
    """`x`, but not before something else is made: on a CPU, XLA drops barriers.

    So the outputs of one large tensor are used before those of the next are made. Else
    all would be in memory at once, which above 32 MB is fetched anew from the system in
    every call: that takes longer than the network.
    """
    number = jax.tree.leaves(made)[0].reshape(-1)[-1]
    return x + 0.0 * jnp.where(jnp.isfinite(number), number, 0.0)


def with_means(made: PyTree, size: int) -> PyTree:
    """Numbers for the `Mean`s of a tensor of so many elements, or of its pieces' sum."""
    return jax.tree.map(
        lambda y: y.of.sum() / size if _is_mean(y) else y, made, is_leaf=_is_mean
    )


def _is_mean(x: object) -> bool:
    return isinstance(x, Mean)


def _cut(channels: Sequence[Array]) -> _Cut:
    """The axis that is cut is the first along which pieces can be small enough."""
    shape = per_element.shape_of(channels)
    own = {i: len(c) for i, c in enumerate(channels) if c.shape[1:] == shape}
    size = features.size(shape)
    fit = (axis for axis, n in enumerate(shape) if size // n <= PIECE)
    axis = next(fit, max(range(len(shape)), key=shape.__getitem__))
    width = max(1, min(PIECE * shape[axis] // size, shape[axis]))
    return _Cut(shape, own, axis, width)
