"""LAMB that stays exact when ZeRO cuts the parameters among ranks.

    m, v    <- moments of g with beta
    u_k      = m_hat / (sqrt(v_hat) + eps) + decay_k * w_k                per parameter k
    r_k      = clamp(|w_k| / |u_k|, ratio_min, ratio_max)                 1 where either norm is 0
    w_k     <- w_k - lr * scale_k * r_k * u_k;    ema <- ema + (1 - beta_ema) * (w - ema)

(You et al., arXiv 1904.00962; settings of Snap Video.) The trust ratio r_k needs the norm of a
whole parameter, of which a rank may hold a piece: pieces are summed in fp64 and reduced over the
ranks in one call a step. The optimizer is built before `deepspeed.initialize` and bound to the
engine after it, when the layout of the flat tensors is known and proven (`train/partitions.py`):

    optimizer = Lamb(model, LambSettings(...))
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=...)
    optimizer.bind(engine)

One parameter group only: decay and exemption are per parameter, so that a step is one reduction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from train import ema
from train.partitions import Layout, Partition, layout_of

KINDS = ("weight", "exp_avg", "exp_avg_sq", "ema")


@dataclass(frozen=True)
class LambSettings:
    """How LAMB moves the weights; the learning rate itself is set each step by the loop."""

    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-6
    weight_decay: float = 0.01
    ratio_min: float = 0.01
    """Least trust ratio. From zero-initialised weights pure LAMB (0) grows by (1 + lr) a step."""
    ratio_max: float = 10.0
    """Greatest trust ratio; infinity for pure LAMB."""
    weight_norm_clamp: float = float("inf")
    """Weight norms above this count as this."""
    exempt_lr_scale: float = 0.2
    """Learning rate of biases, gains and frequencies, which have no trust ratio, as a factor."""
    ema_half_life_steps: float = 6000.0
    ema_ramp: float = 0.05


@dataclass(frozen=True)
class Treatment:
    """How one parameter is moved."""

    decay: float
    trust: bool
    lr_scale: float


def treatments(model: nn.Module, settings: LambSettings) -> dict[str, Treatment]:
    """Return the treatment of every trainable parameter, by what owns it.

    Matrices (weights of linear and convolution layers) have decay and trust; tables (any other
    parameter of two or more dimensions: latents, positions) have trust only; vectors (biases,
    gains, frequencies) have neither. Call it before ZeRO flattens the model.
    """
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    matrices = {
        f"{prefix}.weight" if prefix else "weight"
        for prefix, module in model.named_modules()
        if isinstance(module, layers)
    }
    out = {}
    for name, param in model.named_parameters():
        num_dims = len(getattr(param, "ds_shape", param.shape))
        if not param.requires_grad:
            continue
        if name in matrices:
            out[name] = Treatment(settings.weight_decay, True, 1.0)
        elif num_dims >= 2:
            out[name] = Treatment(0.0, True, 1.0)
        else:
            out[name] = Treatment(0.0, False, settings.exempt_lr_scale)
    return out


class Lamb(torch.optim.Optimizer):
    """LAMB with a sharded EMA, for any DeepSpeed wrapper that `train.partitions` knows."""

    def __init__(self, model: nn.Module, settings: LambSettings) -> None:
        self.settings = settings
        self.step_count = 0
        self.skipped_steps = 0
        self.layout: Layout | None = None
        self._treatments = treatments(model, settings)
        self._names = list(self._treatments)
        self._trusted = torch.tensor([how.trust for how in self._treatments.values()])
        self._plans: dict[Tensor, _Plan] = {}
        self._ratios: Tensor | None = None
        super().__init__([p for p in model.parameters() if p.requires_grad], {"lr": 0.0})

    def bind(self, engine: Any) -> None:  # noqa: ANN401 - DeepSpeed ships no types
        """Read and prove the layout of the engine's flat tensors; start moments and average.

        Raises:
            ConfigError: The layout is unknown or is not what the wrapper says.
        """
        self.layout = layout_of(engine)
        index = {name: i for i, name in enumerate(self._names)}
        for partition in self.layout.partitions:
            self._plans[partition.flat] = _Plan.build(partition, index, self._treatments)
            self.state[partition.flat] = {
                "exp_avg": torch.zeros_like(partition.flat, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(partition.flat, requires_grad=False),
                "ema": partition.flat.detach().clone(),
            }

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next step."""
        self.param_groups[0]["lr"] = lr

    def tensors(self, partition: Partition) -> dict[str, Tensor]:
        """Return the four flat tensors of a partition by kind (see `KINDS`)."""
        state = self.state[partition.flat]
        return {"weight": partition.flat.detach()} | {kind: state[kind] for kind in KINDS[1:]}

    def trust_ratios(self) -> dict[str, float]:
        """Return the ratio that each parameter got in the last step; exempt ones show 1."""
        assert self._ratios is not None, "no step was made yet"
        return dict(zip(self._names, self._ratios.tolist(), strict=True))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the weights once by the gradients in `.grad`, which DeepSpeed has clipped."""
        assert closure is None, "DeepSpeed gives no closure"
        flats = [p for p in self.param_groups[0]["params"] if p.numel() and p.grad is not None]
        if self.layout is None:
            # DeepSpeed's fp16 wrapper steps once inside initialize, with zero gradients.
            assert all(not p.grad.any() for p in flats), "bind() must precede the first step"
            return
        assert all(f in self._plans for f in flats), "a flat tensor appeared after bind()"
        if self._spoiled(flats):
            self.skipped_steps += 1
            return
        self._count(flats)
        plans = [self._plans[f] for f in flats]
        updates = self._directions(flats)
        for plan, flat, update in zip(plans, flats, updates, strict=True):
            plan.add_decay(flat, update)
        ratios = self._trust(plans, flats, updates)
        for plan, flat, update in zip(plans, flats, updates, strict=True):
            plan.apply(flat, update, ratios, self.param_groups[0]["lr"])
        averages = [self.state[f]["ema"] for f in flats]
        keep = ema.decay(self.step_count, self.settings.ema_half_life_steps, self.settings.ema_ramp)
        ema.update(averages, [f.detach() for f in flats], keep)

    def _spoiled(self, flats: list[Tensor]) -> bool:
        """Return whether a gradient is not finite where DeepSpeed does not look: stage 0."""
        assert self.layout is not None
        if self.layout.group is not None or not flats:
            return False
        norms = torch._foreach_norm([f.grad for f in flats if f.grad is not None])
        return not bool(torch.stack(norms).isfinite().all())

    def _count(self, flats: list[Tensor]) -> None:
        """Count a step once, though stage 3 calls `step()` once a sub-group."""
        assert self.layout is not None
        if not flats or flats[0] is self.layout.partitions[0].flat:
            self.step_count += 1

    def _directions(self, flats: list[Tensor]) -> list[Tensor]:
        """Update the moments; return Adam's direction for each flat tensor."""
        beta_1, beta_2 = self.settings.betas
        grads = [f.grad.float() for f in flats if f.grad is not None]
        means = [self.state[f]["exp_avg"] for f in flats]
        squares = [self.state[f]["exp_avg_sq"] for f in flats]
        torch._foreach_lerp_(means, grads, 1 - beta_1)
        torch._foreach_mul_(squares, beta_2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta_2)
        below = list(torch._foreach_sqrt(squares))
        torch._foreach_div_(below, (1 - beta_2**self.step_count) ** 0.5)
        torch._foreach_add_(below, self.settings.eps)
        updates = list(torch._foreach_div(means, below))
        torch._foreach_div_(updates, 1 - beta_1**self.step_count)
        return updates

    def _trust(self, plans: list["_Plan"], flats: list[Tensor], updates: list[Tensor]) -> Tensor:
        """Return each parameter's trust ratio [num_parameters]."""
        assert self.layout is not None
        settings, count = self.settings, len(self._names)
        device = plans[0].index.device if plans else self.layout.partitions[0].flat.device
        squares = torch.zeros(2, count, dtype=torch.float64, device=device)
        for plan, flat, update in zip(plans, flats, updates, strict=True):
            plan.add_squares(squares[0], flat)
            plan.add_squares(squares[1], update)
        if self.layout.group is not None:
            dist.all_reduce(squares, group=self.layout.group)
        weight, update_norm = squares.sqrt()
        weight = weight.clamp(max=settings.weight_norm_clamp)
        ratio = (weight / update_norm).clamp(settings.ratio_min, settings.ratio_max)
        ratio = torch.where((weight == 0) | (update_norm == 0), 1.0, ratio)
        self._ratios = torch.where(self._trusted.to(device), ratio, 1.0)
        return self._ratios


@dataclass(frozen=True)
class _Plan:
    """One partition, prepared for list operations over its segments."""

    partition: Partition
    index: Tensor
    lr_scales: Tensor
    decayed: dict[float, list[int]]

    @classmethod
    def build(
        cls, partition: Partition, index: dict[str, int], how: dict[str, Treatment]
    ) -> "_Plan":
        names = [segment.name for segment in partition.segments]
        device = partition.flat.device
        decayed: dict[float, list[int]] = {}
        for i, name in enumerate(names):
            if how[name].decay:
                decayed.setdefault(how[name].decay, []).append(i)
        return cls(
            partition,
            torch.tensor([index[n] for n in names], device=device, dtype=torch.int64),
            torch.tensor([how[n].lr_scale for n in names], device=device, dtype=torch.float64),
            decayed,
        )

    def views(self, tensor: Tensor) -> list[Tensor]:
        """Return the segments of a flat tensor; padding is in none of them."""
        flat = tensor.detach().view(-1)
        return [flat.narrow(0, s.offset, s.length) for s in self.partition.segments]

    def add_decay(self, flat: Tensor, update: Tensor) -> None:
        weights, updates = self.views(flat), self.views(update)
        for decay, chosen in self.decayed.items():
            torch._foreach_add_(
                [updates[i] for i in chosen], [weights[i] for i in chosen], alpha=decay
            )

    def add_squares(self, total: Tensor, tensor: Tensor) -> None:
        """Add each segment's squared norm, in fp64, to its parameter's place in `total`."""
        if not self.partition.segments:
            return
        norms = torch.stack(torch._foreach_norm(self.views(tensor), 2, dtype=torch.float64))
        total.index_add_(0, self.index, norms.square())

    def apply(self, flat: Tensor, update: Tensor, ratios: Tensor, lr: float) -> None:
        """Subtract lr * scale * ratio * update, segment by segment; padding stays as it is."""
        if not self.partition.segments:
            return
        factors = (ratios[self.index] * self.lr_scales * lr).float().unbind()
        updates = self.views(update)
        torch._foreach_mul_(updates, list(factors))
        torch._foreach_sub_(self.views(flat), updates)
