"""Per-layer combinations of base optimizers; lopt/optimizers/layerwise.py defines them.

What an update does to every tensor φ with the gradient g is

    m_i ← β_i m_i + (1 − β_i) g,   u = α_0 g + Σ_i α_i m̂_i
    Δφ = −λ (Σ_k μ_k s_k d_k(u) + ω φ)

for directions d_k of base optimizers (lopt/torch/bases.py), their scales s_k, and what
the policy decides (lopt/torch/policy.py): λ, α, μ and ω.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lopt import checks
from lopt.errors import CheckpointError, unknown_name
from lopt.specs import ParamSpec, update_multiplier
from lopt.torch import policy, shards
from lopt.torch.bases import BASES, Base, Place
from lopt.torch.packing import Packing, Stacks, packing
from lopt.torch.policy import EPS, Policy, Prior
from lopt.torch.rule import State, Theta
from lopt.torch.stored import StateDtype, load, store
from lopt.torch.theta import check_theta

PRIOR_LOGITS: Mapping[str, float] = MappingProxyType({"muon": 4.0})


def layerwise(
    theta: Theta,
    *,
    num_steps: int | None,
    bases: Sequence[str] = ("muon", "adam"),
    momenta: Sequence[float] = (0.9,),
    hidden_sizes: Sequence[int] = (16,),
    learning_rate: float = 0.015,
    decay_steps: float = 1000.0,
    final: float = 0.05,
    weight_decay: float = 4.5,
    logit_scale: float = 10.0,
    decay_gain: float = 1.0,
    prior_logits: Mapping[str, float] = PRIOR_LOGITS,
    prior_blend: Sequence[float] = (0.45, 0.55),
    embedding_size: int = 0,
    num_tensors: int = 0,
    state_dtype: StateDtype = "float32",
) -> "Layerwise":
    """The rule; its options are told where they are checked, at the factory in jax.

    Raises:
      TypeError: no `num_steps`.
      BrokenRule: an option is out of range.
      CheckpointError: a base that torch lacks, or theta is not of these options.
    """
    if num_steps is None:
        raise TypeError("`layerwise` needs `num_steps`, the length of the run")
    checks.check_positive(
        learning_rate=learning_rate,
        decay_steps=decay_steps,
        logit_scale=logit_scale,
        decay_gain=decay_gain,
    )
    checks.check_not_negative(final=final, weight_decay=weight_decay)
    checks.check_blend(momenta, prior_blend)
    for name in bases:
        if name not in BASES:
            raise unknown_name("base in torch", name, BASES, error=CheckpointError)
    num_inputs = policy.NUM_SHARED + policy.NUM_MEASURED + len(momenta)
    num_inputs += policy.NUM_STRUCTURE + embedding_size
    sizes = [num_inputs, *hidden_sizes, len(bases) + len(momenta) + 3]
    layers: dict[str, tuple[int, ...]] = {}
    for i, n in enumerate(sizes[1:]):
        layers |= {f"w{i}": (sizes[i], n), f"b{i}": (n,)}
    shapes: dict[str, Any] = {"network": layers}
    if embedding_size:
        shapes["embedding"] = (num_tensors, embedding_size)
    check_theta(theta, shapes)
    prior = Prior(
        learning_rate=learning_rate,
        decay_steps=decay_steps,
        final=final,
        weight_decay=weight_decay,
        logit_scale=logit_scale,
        decay_gain=decay_gain,
        logits=tuple(float(prior_logits.get(name, 0.0)) for name in bases),
        blend=tuple(prior_blend),
    )
    # As float32 has them: 1 − β of a slow momentum differs by 1e-5 otherwise.
    decays = tuple(torch.tensor(list(momenta)).tolist())
    return Layerwise(theta, num_steps, tuple(bases), decays, prior, state_dtype)


@dataclass(frozen=True, eq=False)
class Layerwise:
    """A `Rule`: theta, and the constants of `layerwise`."""

    theta: Theta
    num_steps: int
    names: tuple[str, ...]
    decays: tuple[float, ...]
    prior: Prior
    state_dtype: str
    reads_loss = True

    @property
    def table(self) -> list[Base]:
        """The bases."""
        return [BASES[name]() for name in self.names]

    def init(self, params: Sequence[Tensor], specs: Sequence[ParamSpec]) -> State:
        """As `Rule.init`; what is kept is named after momenta and bases."""
        kept = getattr(torch, self.state_dtype)
        embedding = self.theta.get("embedding")
        if embedding is not None and len(embedding) != len(params):
            raise ValueError(
                f"`embedding` is for a network of {len(embedding)} tensors, "
                f"got {len(params)}"
            )
        per_param = []
        for i, (p, spec) in enumerate(zip(params, specs, strict=True)):
            own = {
                f"momentum_{j}": torch.zeros_like(p, dtype=kept)
                for j in range(len(self.decays))
            }
            for k, base in enumerate(self.table):
                if base.applies(spec):
                    keep = base.init(p, spec)
                    own |= {self._key(k, x): t.to(kept) for x, t in keep.items()}
            own["averages"] = torch.zeros(3 + len(self.decays), 3, device=p.device)
            own["is_new"] = torch.ones((), dtype=torch.bool, device=p.device)
            if embedding is not None:
                own["embedding"] = embedding[i].to(p.device)
            per_param.append(own)
        device = params[0].device
        shared = {
            "step": torch.zeros((), dtype=torch.int64),
            "log_loss": torch.zeros(3, device=device),
        }
        return State(tuple(specs), shared, per_param)

    def update(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        loss: Tensor | None,
    ) -> list[Tensor]:
        """As `Rule.update`."""
        assert loss is not None
        pack = packing(state.specs, params)
        known = _known(pack, self.names, self.prior)
        step = int(state.shared["step"])
        g, p = pack.pack(grads), pack.pack(params)
        momenta = self._momenta(pack, g, state)
        unbias = [1 - beta ** (step + 1) for beta in self.decays]
        now = policy.measure(pack, g, p, momenta, unbias)
        decision = self._decide(pack, known, state, now, loss)
        out = []
        for i in range(len(pack.groups)):
            u = pack.spread(i, decision.blend[:, 0]) * g[i]
            for j, correction in enumerate(unbias):
                share = pack.spread(i, decision.blend[:, 1 + j] / correction)
                u.addcmul_(momenta[j][i], share)
            out.append(self._mixed(pack, i, known, decision, u, g[i], p[i], state))
        self._store_momenta(pack, momenta, state)
        state.shared["step"] = state.shared["step"] + 1
        return pack.unpack(out, params)

    def _momenta(self, pack: Packing, grads: Stacks, state: State) -> list[Stacks]:
        """The momenta with these gradients, M lists of stacks, not yet unbiased."""
        return [
            [
                shards.local(load(pack, i, state, f"momentum_{j}")).lerp_(g, 1 - beta)
                for i, g in enumerate(grads)
            ]
            for j, beta in enumerate(self.decays)
        ]

    def _store_momenta(self, pack: Packing, momenta: list[Stacks], state: State) -> None:
        for j, stacks in enumerate(momenta):
            for i, stack in enumerate(stacks):
                store(pack, i, state, f"momentum_{j}", stack)

    def _decide(
        self, pack: Packing, known: "Known", state: State, now: Tensor, loss: Tensor
    ) -> Policy:
        """What the policy decides, averages updated by what was measured now."""
        step, shared = int(state.shared["step"]), state.shared
        log_loss = torch.log(loss.abs() + EPS)
        is_first = torch.tensor(step == 0, device=loss.device)
        shared["log_loss"] = policy.update_averages(
            shared["log_loss"], log_loss, is_first
        )
        averages = pack.order([own["averages"] for own in state.per_param])
        # Some tensors have their first gradient later than others.
        is_first = pack.order([own["is_new"] for own in state.per_param])
        averages = policy.update_averages(averages, now, is_first[:, None, None])
        for own, row in zip(state.per_param, pack.disorder(averages), strict=True):
            own["averages"], own["is_new"] = row, torch.zeros_like(own["is_new"])
        seen = policy.policy_inputs(
            shared["log_loss"], averages, known.structure, step, self.num_steps
        )
        if "embedding" in self.theta:
            embedding = pack.order([own["embedding"] for own in state.per_param])
            seen = torch.cat([seen, embedding], dim=1)
        outputs = policy.apply_network(self.theta["network"], seen)
        step_size = self.prior.step_size(step, self.num_steps)
        return policy.decide(self.prior, outputs, known.available, known.decay, step_size)

    def _mixed(
        self,
        pack: Packing,
        i: int,
        known: "Known",
        decision: Policy,
        u: Tensor,
        g: Tensor,
        p: Tensor,
        state: State,
    ) -> Tensor:
        """−λ (Σ_k μ_k s_k d_k + ω φ) of one stack."""
        spec, layout = pack.group_specs[i], pack.layouts[i]
        place = Place(spec, layout, int(state.shared["step"]))
        out = pack.spread(i, -decision.step_size * decision.weight_decay) * p
        for k, base in enumerate(self.table):
            if not base.applies(spec):
                continue
            keep = {
                n: shards.local(load(pack, i, state, self._key(k, n))) for n in base.keeps
            }
            d = base.direction(u, g, keep, place)
            for name, stack in keep.items():
                store(pack, i, state, self._key(k, name), stack)
            factor = (
                -decision.step_size * decision.mixture[:, k] * known.multipliers[:, k]
            )
            factor = pack.spread(i, factor)
            if base.kind == "entrywise":
                factor = factor / (pack.rms(i, d) + EPS)
            out.addcmul_(d, factor)
        return out

    def _key(self, k: int, name: str) -> str:
        return f"{k}_{self.names[k]}_{name}"


class Known(NamedTuple):
    """What is known of the tensors before training, in stack order."""

    structure: Tensor  # shape=[L, 10]
    available: Tensor  # shape=[L, K], bool: which of the bases they have
    multipliers: Tensor  # shape=[L, K], of muP
    decay: Tensor  # shape=[L], ω of the prior


@lru_cache(maxsize=64)
def _known(pack: Packing, names: tuple[str, ...], prior: Prior) -> Known:
    table, device = [BASES[name]() for name in names], pack.sizes.device
    available = [[base.applies(spec) for base in table] for spec in pack.specs]
    kinds = [base.kind for base in table]
    scales = [[update_multiplier(spec, kind) for kind in kinds] for spec in pack.specs]
    return Known(
        policy.structure_of(pack.specs, device),
        torch.tensor(available, device=device),
        torch.tensor(scales, device=device),
        torch.tensor([prior.decay(spec) for spec in pack.specs], device=device),
    )
