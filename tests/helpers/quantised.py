"""Networks with what quantisation meets: norms, negative gains, residual sums, pooling, groups, layers left alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.case import Case
from secateur.ground.inputs import Inputs
from secateur.methods import Draft, Int4, Int8

__all__ = ["Pictures", "drafted", "pictures"]


class Pictures(nn.Module):
    """Convolutions in a row, a residual sum, a grouped one, pooling, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.one = nn.Conv2d(16, 16, 3, padding=1)
        self.two = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.two_norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.last = nn.Conv2d(16, 12, 1)
        self.odd = nn.Conv2d(12, 12, 3, padding=1, padding_mode="reflect")
        self.fc = nn.Linear(12 * 16, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.two_norm(self.two(F.relu(self.one(x)))))
        x = self.last(F.max_pool2d(F.relu(self.grouped(x)), 2))
        return self.head(F.relu(self.fc(F.relu(self.odd(x)).flatten(1))))  # type: ignore[no-any-return]


def pictures(seed: int = 0) -> tuple[nn.Module, list[Tensor]]:
    """Return a random network in evaluation mode, and calibration batches of 8 x 8 pixels."""
    rng = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = Pictures().eval()
    for norm in (model.norm, model.two_norm):
        norm.weight.data.uniform_(-1, 1, generator=rng)
        norm.bias.data.normal_(0, 0.3, generator=rng)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.normal_(0, 0.2, generator=rng)
        norm.running_var.uniform_(0.5, 1.5, generator=rng)
    return model, [torch.randn(24, 3, 8, 8, generator=rng) for _ in range(4)]


def drafted(model: nn.Module, data: list[Tensor], method: Int8 | Int4 | None = None) -> Draft:
    """Return what a method makes of a model, without the measurements of `prune`."""
    case = Case.of(model, Inputs.of(data[0][:2]), calibration=data)
    return (method or Int8()).draft(case, None)
