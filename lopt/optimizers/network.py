"""The network that per-parameter optimizers apply to every element of every tensor.

A tensor's inputs are *channels*: arrays [c, *s] in which axes may have size 1
(statistics of rows or columns). The relu network is the published one,

  y = Wₙ relu(… relu(W₀ x + b₀) …) + bₙ,  x = [normalized channels, shared inputs],

but it is evaluated in the cheapest order that gives the same sum:

* feature-major: activations are [hidden, elements];
* inputs that all elements share (time features) are projected once a step, into b₀;
* small tensors are packed: their elements, side by side, are those of one tensor;
* channels are not normalized where their scales can multiply W₀ instead; those of rows
  and columns are projected by W₀ before they are broadcast;
* a narrow network is written out as scalar weights times rows, which the compiler fuses
  into one pass over the elements, with no activation in memory; a wide one is a product
  of matrices, slice by slice, so that activations stay in the cache;
* on a CPU, large tensors are met piece by piece, and their channels never are in memory:
  see pieces.py.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from lopt import checks, features, mup, prng
from lopt.architecture import STARTS, Start
from lopt.base import Array, MetaParams, Params, PRNGKey, PyTree, Specs
from lopt.config import BrokenRule
from lopt.optimizers import per_element, pieces
from lopt.optimizers.per_element import Layers
from lopt.optimizers.pieces import Channels

QUIET = 0.1
"""Of random weights, beside those that pass an input."""

# Up to this width, activations fit into registers.
_NARROW = 8
# Tensors are packed up to so many elements together. On a CPU, where what is packed is
# copied once more, only small ones gain by it, and those whose channels are of rows and
# columns, which a wide network's products would meet in two dimensions.
_SMALL_PACK = 1024
_LARGE_PACK = 2**16
# Elements of a slice. On a CPU they are few, so that the activations of several runs side
# by side fit into the cache.
_CACHED_SLICE = 608
_LARGE_SLICE = 2**16


def init_network(
    key: PRNGKey, sizes: Sequence[int], passed: int | None = None
) -> MetaParams:
    """Weights `w0, b0, w1, ...` of a network with these layer sizes, [outputs, inputs].

    Weights are normal with standard deviation 1/√inputs, cut at two standard
    deviations; biases are zero.

    Args:
      key: of the draw.
      sizes: of the inputs, the hidden layers and the outputs.
      passed: the input that the first output starts out as: x = relu(x) - relu(-x)
        through two units of each layer. Other weights of the last one are QUIET times
        smaller then. None: no such.

    Raises:
      BrokenRule: an input is to be passed, and a hidden layer has but one unit.
    """
    pairs = list(itertools.pairwise(sizes))
    # One draw for all layers: each further one costs compile time.
    noise = prng.truncated_normal(key, sum(i * o for i, o in pairs))
    theta, used = {}, 0
    for i, (n_in, n_out) in enumerate(pairs):
        w = noise[used : used + n_in * n_out].reshape(n_out, n_in)
        used += n_in * n_out
        theta[f"w{i}"] = w / n_in**0.5
        theta[f"b{i}"] = jnp.zeros(n_out)
    return theta if passed is None else _passing(theta, passed)


def passed(start: Start, first: int, decays: Sequence[float]) -> int | None:
    """The input that a network passes at its start, if it starts as momentum.

    Args:
      start: one of `STARTS`.
      first: the place of the inputs that are made of momenta, one for each decay.
      decays: theirs; the one closest to 0.9 is passed.

    Raises:
      BrokenRule: there is no such start.
    """
    checks.check_choices(STARTS, start=start)
    if start == "random":
        return None
    return first + min(range(len(decays)), key=lambda i: abs(decays[i] - 0.9))


def _passing(theta: MetaParams, index: int) -> MetaParams:
    """The network, its first output now the input of this index."""
    *hidden, last = (theta[name] for name in theta if name.startswith("w"))
    if any(len(w) < 2 for w in hidden):
        sizes = [len(w) for w in hidden]
        raise BrokenRule("hidden_sizes", "be 2 or more to start as momentum", sizes)
    reads = jnp.zeros(theta["w0"].shape[1]).at[index].set(1.0)
    weights = []
    for w in hidden:
        weights.append(w.at[:2].set(jnp.stack([reads, -reads])))
        reads = jnp.zeros(len(w)).at[:2].set(jnp.array([1.0, -1.0]))
    weights.append((QUIET * last).at[0].add(reads))
    return theta | {f"w{i}": w for i, w in enumerate(weights)}


def apply_network(
    theta: MetaParams,
    channels: Sequence[Channels],
    shared: Array,
    eps: float,
    use: Callable[[list[Array]], PyTree] = list,
) -> list[PyTree]:
    """What is made of the network's outputs for every element of every tensor.

    Args:
      theta: weights as `init_network` makes them; the columns of `w0` are the channels
        in their order, then the shared inputs.
      channels: of every tensor.
      shared: inputs that all elements share [k].
      eps: of the normalization of every channel to an RMS of one over the tensor.
      use: of outputs [*s], or of those of a piece; the outputs themselves if not given.
        It makes arrays of the same shape, or `Mean`s of such.

    Returns:
      What `use` makes of every tensor's, numbers for `Mean`s.
    """
    layers = _fold(theta, shared)
    narrow = max(len(b) for _, b in layers) <= _NARROW
    on_cpu = jax.default_backend() == "cpu"
    whole = [c.whole() for c in channels]
    is_flat = all(per_element.is_flat(c) for c in whole)
    limit = _SMALL_PACK if narrow or (on_cpu and is_flat) else _LARGE_PACK
    apply_packed = _narrow_pack if narrow else _wide_pack
    sizes = [features.size(per_element.shape_of(c)) for c in whole]
    made = {}
    before = None
    for i, size in enumerate(sizes):
        if pieces.are_used(size):
            scales = jax.lax.rsqrt(eps + pieces.mean_squares(channels[i]))
            if before is not None:
                scales = pieces.after(before, scales)
            scaled = _scaled(layers, scales)
            made[i] = pieces.outputs(scaled, channels[i], use, is_narrow=narrow)
            before = made[i]
        elif size > limit:
            # What is as large as the tensor would be copied beside its neighbors.
            own = per_element.shape_of(whole[i])
            groups = _by_neighbors(whole[i], but=own)
            normalized = _normalize(layers, groups, eps), groups
            outputs = (
                per_element.by_rows(*normalized)
                if narrow
                else per_element.by_slices(*normalized, _slice_size())
            )
            made[i] = use(outputs)
    for pack in _packs(sizes, limit):
        results = apply_packed(layers, [whole[i] for i in pack], eps)
        made |= zip(pack, map(use, results), strict=True)
    return [pieces.with_means(made[i], size) for i, size in enumerate(sizes)]


def change(step_mult: Array | float, exp_mult: float) -> Callable[[list[Array]], Array]:
    """step_mult · a · exp(exp_mult · b) of outputs (a, b, …)."""

    def of(outputs: list[Array]) -> Array:
        a, b, *_ = outputs
        return step_mult * a * jnp.exp(exp_mult * b)

    return of


def updates(changes: PyTree, params: Params, specs: Specs | None) -> PyTree:
    """-λ times the changes, in the params' dtypes.

    λ is the muP multiplier of the tensor for entrywise directions, 1 without specs.
    """
    multipliers = mup.update_multipliers(specs, "entrywise", params)
    return jax.tree.map(
        lambda p, change, multiplier: (-multiplier * change).astype(p.dtype),
        params,
        changes,
        multipliers,
    )


def normalized(channels: Sequence[Array], eps: float) -> Array:
    """The normalized channels [sum of c, *s], broadcast: what the network sees."""
    shape = per_element.shape_of(channels)
    groups = [x * features.rms_scale(x, eps) for x in _by_neighbors(channels)]
    return jnp.concatenate([jnp.broadcast_to(x, (len(x), *shape)) for x in groups])


def _by_neighbors(channels: Sequence[Array], but: Sequence[int] = ()) -> list[Array]:
    """Neighbors of one shape as one array; those of the shape `but` as they are."""
    groups = []
    for shape, neighbors in itertools.groupby(channels, key=lambda c: c.shape[1:]):
        group = list(neighbors)
        groups += group if shape == but else [jnp.concatenate(group)]
    return groups


def _normalize(layers: Layers, channels: Sequence[Array], eps: float) -> Layers:
    """The layers of which the first normalizes the channels by the columns of W₀."""
    scales = [features.rms_scale(c, eps).reshape(-1) for c in channels]
    return _scaled(layers, jnp.concatenate(scales))


def _scaled(layers: Layers, scales: Array) -> Layers:
    (w, b), *later = layers
    return [(w * scales[None], b), *later]


def _fold(theta: MetaParams, shared: Array) -> Layers:
    """The layers, those of the shared inputs folded into the first bias."""
    layers = [(theta[f"w{i}"], theta[f"b{i}"]) for i in range(len(theta) // 2)]
    w, b = layers[0]
    num_channels = w.shape[1] - shared.shape[0]
    return [(w[:, :num_channels], b + w[:, num_channels:] @ shared), *layers[1:]]


def _packs(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Tensors of at most `limit` elements, in packs of as many together."""
    packs: list[list[int]] = []
    room = 0
    for i, size in enumerate(sizes):
        if size > limit:
            continue
        if size > room or not packs:
            packs.append([])
            room = limit
        packs[-1].append(i)
        room -= size
    return packs


def _narrow_pack(
    layers: Layers, tensors: Sequence[Sequence[Array]], eps: float
) -> list[list[Array]]:
    """The outputs of small tensors, packed after the first layer, by products."""
    groups = [_by_neighbors(c) for c in tensors]
    hidden = [per_element.products(_normalize(layers, c, eps)[0], c) for c in groups]
    return _packed(lambda x: list(per_element.later_products(layers[1:], x)), hidden)


def _wide_pack(
    layers: Layers, tensors: Sequence[Sequence[Array]], eps: float
) -> list[list[Array]]:
    """The outputs of tensors whose normalized channels are packed."""
    inputs = [normalized(c, eps) for c in tensors]
    size = _slice_size()
    return _packed(lambda x: per_element.by_slices(layers, [x], size), inputs)


def _slice_size() -> int:
    """Elements of a slice."""
    return _CACHED_SLICE if jax.default_backend() == "cpu" else _LARGE_SLICE


def _packed(
    function: Callable[[Array], list[Array]], arrays: Sequence[Array]
) -> list[list[Array]]:
    """`function` [k, n] -> outputs [n], of arrays [k, *s] side by side."""
    sizes = [features.size(x.shape[1:]) for x in arrays]
    flat = [x.reshape(len(x), n) for x, n in zip(arrays, sizes, strict=True)]
    outputs = function(jnp.concatenate(flat, axis=1))
    ends = itertools.accumulate(sizes)
    return [
        [y[end - n : end].reshape(x.shape[1:]) for y in outputs]
        for x, n, end in zip(arrays, sizes, ends, strict=True)
    ]
