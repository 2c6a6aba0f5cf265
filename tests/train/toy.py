"""A model whose gradients are chosen, and LAMB written the plain way for one process."""

import torch
from torch import Tensor, nn

STEPS = 12
LR = 5e-2


class Chosen(nn.Linear):
    """A linear layer whose loss has the gradients it is given (ZeRO-3 fetches by module)."""

    def forward(self, *wanted: Tensor) -> Tensor:
        return weigh(self, wanted)


def weigh(module: nn.Module, wanted: tuple[Tensor, ...]) -> Tensor:
    params = [p for p in module.parameters(recurse=False) if p.requires_grad]
    return sum((p.float() * g).sum() for p, g in zip(params, wanted, strict=True))


class Toy(nn.Module):
    """Parameters of every kind: matrices, tables, vectors, one element, zeros, a frozen one."""

    def __init__(self):
        super().__init__()
        make = torch.Generator().manual_seed(0)
        self.stem = Chosen(13, 17)
        self.latents = nn.Parameter(torch.empty(5, 7))
        self.out = Chosen(17, 3)
        self.scale = nn.Parameter(torch.empty(1))
        self.zeros = Chosen(9, 11, bias=False)
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        with torch.no_grad():
            for param in self.parameters():
                param.copy_(torch.randint(-64, 64, param.shape, generator=make) / 128)
            self.zeros.weight.zero_()

    def forward(self, *wanted: Tensor) -> Tensor:
        """Return a loss whose gradient by parameter i is wanted[i]."""
        layers = self.stem(*wanted[2:4]) + self.out(*wanted[4:6]) + self.zeros(wanted[6])
        return weigh(self, wanted[:2]) + layers


def gradients(step: int, rank: int, nan_at: int | None = None) -> list[Tensor]:
    """Return small multiples of 1/8 whose mean over two ranks is `mean_gradients(step)`."""
    make = torch.Generator().manual_seed(1000 + step)
    differ = [torch.randint(-2, 3, g.shape, generator=make) / 8 for g in mean_gradients(step)]
    sign = 0 if torch.distributed.get_world_size() == 1 else (1 if rank == 0 else -1)
    out = [g + sign * d for g, d in zip(mean_gradients(step), differ, strict=True)]
    if step == nan_at and rank == 0:
        out[0].view(-1)[0] = float("nan")
    return out


def mean_gradients(step: int) -> list[Tensor]:
    make = torch.Generator().manual_seed(step)
    shapes = [p.shape for p in Toy().parameters() if p.requires_grad]
    return [torch.randint(-8, 9, s, generator=make) / 8 for s in shapes]


def reference(clip: float = 0.0, skip: int | None = None, **settings) -> dict[str, Tensor]:
    """Return weights, averages and last ratios after STEPS steps of LAMB, in fp64."""
    how = {"wd": 0.01, "low": 0.01, "high": 10.0} | settings
    model = Toy().double()
    params = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    mean = {n: torch.zeros_like(p) for n, p in params.items()}
    square = {n: torch.zeros_like(p) for n, p in params.items()}
    average, ratios, count = {n: p.clone() for n, p in params.items()}, {}, 0
    for step in range(STEPS):
        if step == skip:
            continue
        count += 1
        grads = [g.double() for g in mean_gradients(step)]
        norm = sum(g.square().sum() for g in grads) ** 0.5
        factor = min(1.0, clip / (norm.item() + 1e-6)) if clip else 1.0
        for (n, p), g in zip(params.items(), grads, strict=True):
            mean[n].mul_(0.9).add_(g * factor, alpha=0.1)
            square[n].mul_(0.99).add_((g * factor).square(), alpha=0.01)
            move = (mean[n] / (1 - 0.9**count)) / ((square[n] / (1 - 0.99**count)).sqrt() + 1e-6)
            matrix = n in ("stem.weight", "out.weight", "zeros.weight")
            move = move + how["wd"] * p if matrix else move
            trusted = p.dim() >= 2 and p.norm() > 0 and move.norm() > 0
            ratio = min(max((p.norm() / move.norm()).item(), how["low"]), how["high"])
            ratios[n] = torch.tensor(ratio if trusted else 1.0, dtype=torch.float64)
            p -= LR * (1.0 if p.dim() >= 2 else 0.2) * ratios[n] * move
            keep = 0.5 ** (1 / min(6000, 0.05 * count))
            average[n].mul_(keep).add_(p, alpha=1 - keep)
    out = {f"weight|{n}": p for n, p in params.items()}
    out |= {f"ema|{n}": a for n, a in average.items()}
    return out | {f"ratio|{n}": r for n, r in ratios.items()}


def naive_step(lamb) -> None:
    """LAMB that takes each flat tensor for one parameter: what not to do."""
    lamb.step_count += 1
    with torch.no_grad():
        for flat in lamb.param_groups[0]["params"]:
            state = lamb.state[flat]
            state["exp_avg"].lerp_(flat.grad, 0.1)
            state["exp_avg_sq"].mul_(0.99).addcmul_(flat.grad, flat.grad, value=0.01)
            mean = state["exp_avg"] / (1 - 0.9**lamb.step_count)
            move = mean / ((state["exp_avg_sq"] / (1 - 0.99**lamb.step_count)).sqrt() + 1e-6)
            flat.sub_(LR * flat.norm() / move.norm() * move)
