"""A learned optimizer as a `torch.optim.Optimizer`.

    optimizer = LearnedOptimizer(model, "layerwise.safetensors", num_steps=1000)
    …
    loss.backward()
    optimizer.step(loss=loss)

Everything is checked before anything changes: an exception leaves parameters and state as
they were.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lopt.specs import ParamSpec, spec_of_shape
from lopt.torch import gradients, states
from lopt.torch.rule import Rule, State
from lopt.torch.rules import RULES, built
from lopt.torch.specs import param_specs
from lopt.torch.theta import moved, read

_OWN = (
    "_theta",
    "_header",
    "_num_steps",
    "_check_finite",
    "_rules",
    "_shared",
    "_specs_given",
    "_known",
    "_specs",
    "_read",
)
"""Attributes that torch does not know and copies must have, too."""


class LearnedOptimizer(torch.optim.Optimizer):
    """Steps φ ← φ + lr (Δφ − weight_decay φ), Δφ made by a learned optimizer.

    Args:
      params: a module or named parameters, which give roles, order and axes
        (`param_specs`); or parameters, of which shapes alone are known; or groups of
        either, as dicts, each with its own `lr` and `weight_decay` if need be.
      path_or_name: an exported file, a folder of the Hugging Face Hub, or the name of a
        released optimizer.
      num_steps: length of the training run; most learned optimizers need it.
      lr: multiplies the steps, which have a size by themselves; for schedulers.
      weight_decay: decoupled, beside what the learned optimizer does by itself.
      specs: by name, in place of `param_specs` of the model.
      check_finite: whether to look, before each step, if gradients are finite; on a GPU
        that waits for them.

    Raises:
      CheckpointError: no such file, or one that torch cannot use.
      TypeError: the optimizer needs `num_steps`; a parameter of no real floating type.
      ValueError: no parameters, a number out of range, or specs of other parameters.
    """

    def __init__(
        self,
        params: nn.Module | Iterable[Any],
        path_or_name: str | Path,
        *,
        num_steps: int | None = None,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        specs: dict[str, ParamSpec] | None = None,
        check_finite: bool = True,
    ):
        if num_steps is not None and num_steps < 1:
            raise ValueError(f"`num_steps` must be at least 1, got {num_steps}")
        for name, value in {"lr": lr, "weight_decay": weight_decay}.items():
            if not float(value) >= 0:
                raise ValueError(f"`{name}` must not be negative, got {value}")
        self._theta, self._header = read(path_or_name, RULES)
        self._num_steps = num_steps
        self._check_finite = check_finite
        self._read: Tensor | None = None
        self._rules: dict[torch.device, Rule] = {}
        self._rule(torch.device("cpu"))  # complains now of what it lacks
        self._shared: dict[str, Tensor] = {}
        self._specs_given = specs is not None
        self._known = {} if specs is None else specs
        if isinstance(params, nn.Module):
            self._known = param_specs(params) if specs is None else specs
            params = params.named_parameters()
        self._specs: dict[Tensor, ParamSpec] = {}
        groups = list(params)
        if not groups:
            raise ValueError("the optimizer got no parameters")
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters, also after steps: they start with a fresh state.

        Raises:
          TypeError: a parameter of no real floating type.
          ValueError: `specs` were given and lack it or are of another shape.
        """
        super().add_param_group(param_group)
        try:
            self._specs |= self._specs_of(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(
        self,
        closure: Callable[[], Tensor] | None = None,
        *,
        loss: Tensor | float | None = None,
    ) -> Any:
        """One update of the parameters that have gradients.

        Args:
          closure: computes gradients anew and returns the loss.
          loss: of this step, unscaled; its mean over all processes is taken where
            `torch.distributed` runs. Where neither is given: see `reading`.

        Raises:
          TypeError: the optimizer reads the loss, and there is none; a sparse gradient.
          ValueError: a loss with axes; a parameter whose shape has changed.
          FloatingPointError: a gradient is not finite.
        """
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        read, self._read = self._read, None
        loss = read if loss is None else loss
        named = [(n, p) for n, p in self._named() if p.grad is not None]
        if not named:
            return loss
        params = [p for _, p in named]
        device = params[0].device
        with torch.autocast(device.type, enabled=False):
            rule = self._rule(device)
            gradients.check(named, [self._specs[p].shape for p in params])
            self._check_devices(named)
            if loss is None and rule.reads_loss and self._is_at_rest():
                self._start(rule, params)
                return None
            value = gradients.loss_tensor(loss, device, needed=rule.reads_loss)
            value = gradients.agree(named, value, check_finite=self._check_finite)
            self._start(rule, params)
            self._apply(
                dict(zip(params, self._updates(rule, params, value), strict=True))
            )
        return loss

    def reading(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose results are the loss of steps that are given none.

            trainer.training_step = optimizer.reading(trainer.training_step)

        For trainers that call `step()` by themselves, such as Hugging Face's. Until the
        next step results add up, as gradients do, and start anew where there are none.

        Args:
          function: computes gradients; returns the loss that they are of, or a dict that
            has it as "loss".
        """

        @functools.wraps(function)
        def read(*args: Any, **kwargs: Any) -> Any:
            params = [p for _, p in self._named()]
            if all(p.grad is None for p in params):
                self._read = None  # of a step that was left out
            result = function(*args, **kwargs)
            loss = result["loss"] if isinstance(result, Mapping) else result
            value = gradients.loss_tensor(loss, params[0].device, needed=True)
            assert value is not None  # it was needed
            self._read = value if self._read is None else self._read + value
            return result

        return read

    def state_dict(self) -> dict[str, Any]:
        """As of any optimizer, and which learned optimizer it is of."""
        identity = {"version": states.VERSION, "optimizer": self._header.optimizer}
        return {**super().state_dict(), states.IDENTITY: identity}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a `state_dict()`; what is kept stays in its own precision.

        Raises:
          ValueError: it is of another optimizer, version, or of other parameters.
        """
        params = [p for _, p in self._named()]
        names = [name for name, _ in self._named()]
        kept = states.numbered(state_dict, self._header.optimizer, self.param_groups)
        shared: Iterable[str] = ()
        if kept:
            own = [torch.empty_like(params[i], device="meta") for i in kept]
            specs = [self._specs[params[i]] for i in kept]
            fresh = self._rule(torch.device("cpu")).init(own, specs)
            for i, template in zip(kept, fresh.per_param, strict=True):
                states.compare(names[i], kept[i], template | fresh.shared)
            shared = fresh.shared
        super().load_state_dict({k: state_dict[k] for k in ("state", "param_groups")})
        # In another precision than the parameter's, which torch has cast it to.
        for i, saved in kept.items():
            self.state[params[i]] = states.copied(saved, params[i].device)
        first = next(iter(self.state.values()), {})
        self._shared = {name: first[name] for name in shared}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: vars(self)[name] for name in _OWN}}

    def _named(self) -> list[tuple[str, Tensor]]:
        """All parameters, in order, by name or by number."""
        named: list[tuple[str, Tensor]] = []
        for group in self.param_groups:
            names = group.get("param_names")
            for i, p in enumerate(group["params"]):
                named.append((names[i] if names else f"parameter {len(named)}", p))
        return named

    def _specs_of(self, group: dict[str, Any]) -> dict[Tensor, ParamSpec]:
        names, params = group.get("param_names"), group["params"]
        for name, p in zip(names or map(str, range(len(params))), params, strict=True):
            if not p.is_floating_point():
                raise TypeError(f"parameter `{name}` must be real, got {p.dtype}")
        if not names:
            if self._specs_given:
                raise ValueError("`specs` are by name: give named parameters or a module")
            return {p: spec_of_shape(tuple(p.shape), 0) for p in params}
        named = list(zip(names, params, strict=True))
        specs = self._known
        if not self._specs_given:
            specs = {**param_specs(named), **specs}
        for name, p in named:
            if name not in specs:
                raise ValueError(f"`specs` lack the parameter `{name}`")
            if specs[name].shape != tuple(p.shape):
                shapes = f"{list(specs[name].shape)}, it has {list(p.shape)}"
                raise ValueError(f"`specs` say that `{name}` has shape {shapes}")
        return {p: specs[name] for name, p in named}

    def _rule(self, device: torch.device) -> Rule:
        if device not in self._rules:
            theta = moved(self._theta, device)
            name, options = self._header.optimizer, self._header.options
            self._rules[device] = built(name, theta, options, self._num_steps)
        return self._rules[device]

    def _check_devices(self, named: list[tuple[str, Tensor]]) -> None:
        device = named[0][1].device
        for name, p in named:
            if p.device != device:
                devices = f"{p.device}, others on {device}"
                raise ValueError(
                    f"all parameters must be on one device: `{name}` is on {devices}"
                )

    def _is_at_rest(self) -> bool:
        """Whether all rates are 0: what makes torch's checkpoint tools an empty state,
        by a step without a loss."""
        return not any(float(group["lr"]) for group in self.param_groups)

    def _start(self, rule: Rule, params: list[Tensor]) -> None:
        new = [p for p in params if p not in self.state]
        if new:
            fresh = rule.init(new, [self._specs[p] for p in new])
            self.state.update(zip(new, fresh.per_param, strict=True))
            self._shared = self._shared or fresh.shared
            self._share()

    def _share(self) -> None:
        # Where torch's tools look, which know no state but that of a parameter.
        for kept in self.state.values():
            kept.update(self._shared)

    def _updates(
        self, rule: Rule, params: list[Tensor], loss: Tensor | None
    ) -> list[Tensor]:
        grads = [p.grad.float() for p in params]  # type: ignore[union-attr]
        own = [
            {name: x for name, x in self.state[p].items() if name not in self._shared}
            for p in params
        ]
        state = State(tuple(self._specs[p] for p in params), self._shared, own)
        updates = rule.update(grads, state, [p.float() for p in params], loss)
        for p, kept in zip(params, own, strict=True):
            self.state[p].update(kept)
        self._share()
        return updates

    def _apply(self, updates: dict[Tensor, Tensor]) -> None:
        for group in self.param_groups:
            params = [p for p in group["params"] if p in updates]
            lr, decay = float(group["lr"]), group["weight_decay"]
            if not params:
                continue
            if decay:
                torch._foreach_mul_(params, 1 - lr * decay)
            torch._foreach_add_(params, [updates[p] for p in params], alpha=lr)
