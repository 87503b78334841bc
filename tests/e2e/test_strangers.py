"""Modules that no model library knows go through `prune`, `save` and `load` on the first try.

They are written as people write them: no line of them was made for secateur.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from models import randomise
from stranger_networks import UNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import secateur as sc


class TwoInputs(nn.Module):
    """An image and a table, two heads, and an option that has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(3, 12, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(12, 16, 3, 2, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.table = nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Linear(16, 8))
        self.joint = nn.Sequential(nn.Linear(24, 20), nn.ReLU())
        self.classes, self.value = nn.Linear(20, 4), nn.Linear(20, 1)

    def forward(self, image: Tensor, table: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        hidden = self.joint(torch.cat([self.image(image), self.table(table)], dim=1))
        return {"logits": self.classes(hidden), "value": self.value(hidden).squeeze(1) * scale}


class OneMapping(TwoInputs):
    """The same, fed with one dictionary."""

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return super().forward(batch["image"], batch["table"])


class GatedBlocks(nn.Module):
    """A sequence model with SwiGLU feed-forwards, one of them with both projections in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 12)
        self.norm1, self.norm2 = nn.RMSNorm(12), nn.LayerNorm(12)
        self.gate, self.up, self.down = (
            nn.Linear(12, 32, bias=False),
            nn.Linear(12, 32, bias=False),
            nn.Linear(32, 12, bias=False),
        )
        self.gate_up, self.down2 = nn.Linear(12, 48), nn.Linear(24, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm1(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        x = x + self.down2(F.silu(gate) * up)
        return self.head(x.mean(1))


class Table(Dataset[dict[str, Tensor]]):
    """What a data loader usually yields: a dictionary, labels included."""

    def __init__(self, image: Tensor, table: Tensor) -> None:
        self.columns = {"label": torch.zeros(len(image)), "table": table, "image": image}

    def __len__(self) -> int:
        return len(self.columns["image"])

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: column[i] for name, column in self.columns.items()}


def flat(outputs: Any) -> list[Tensor]:
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


def through_the_line(
    make: Callable[[], nn.Module],
    example: Any,
    calibration: Iterable[Any],
    run: Callable[[nn.Module], Any],
    folder: Path,
    budget: float = 0.5,
) -> sc.Result:
    """Prune, save and load a module as the README says; check budget, closeness and law 2."""
    torch.manual_seed(0)
    model = randomise(make(), 0).eval()
    result = sc.prune(
        model,
        example,
        method=sc.SNP(),
        budget=sc.Budget(macs=budget),
        calibration=calibration,
        progress=False,
    )
    assert result.report.after.macs <= budget * result.report.before.macs
    assert result.report.refused == {}
    loaded = sc.load(result.save(folder / "artefact"), make)
    with torch.no_grad():
        dense, small, again = flat(run(model)), flat(run(result.model)), flat(run(loaded))
    for d, s, a in zip(dense, small, again, strict=True):
        assert torch.equal(s, a)
        assert not torch.equal(s, d)
        assert float((s - d).square().mean() / d.var()) < 0.25
    return result


@pytest.mark.parametrize("grouped", [False, True], ids=["plain", "grouped"])
def test_unet_with_concatenated_skips(grouped: bool, tmp_path: Path) -> None:
    x = torch.randn(48, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def make() -> nn.Module:
        return UNet(grouped=grouped)

    result = through_the_line(make, x[:2], x.split(16), lambda model: model(x), tmp_path)
    up = result.model.up2 if not grouped else result.model.up2[0]
    assert up.in_channels < 32
    # The skip of the second level is read by the pooling below and by the decoder beside it.
    assert result.model.dec2[0].in_channels < 32


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {
        "image": torch.randn(48, 3, 16, 16, generator=rng),
        "table": torch.randn(48, 5, generator=rng),
    }


def test_two_keyword_inputs_and_a_dict_output(inputs: dict[str, Tensor], tmp_path: Path) -> None:
    example = {**{name: value[:2] for name, value in inputs.items()}, "scale": 2.0}
    loader = DataLoader(Table(**inputs), batch_size=16)
    result = through_the_line(
        TwoInputs, example, loader, lambda model: model(**inputs, scale=2.0), tmp_path, 0.4
    )
    assert set(result.model(**inputs)) == {"logits", "value"}


def test_two_positional_inputs_with_labels_behind_them(inputs: dict[str, Tensor], tmp_path: Path) -> None:
    image, table = inputs["image"], inputs["table"]
    batches = [(image[i : i + 16], table[i : i + 16], torch.zeros(16)) for i in range(0, 48, 16)]
    result = through_the_line(
        TwoInputs, (image[:2], table[:2]), batches, lambda model: model(image, table), tmp_path
    )
    assert set(result.model(image, table)) == {"logits", "value"}


def test_one_mapping_as_the_only_input(inputs: dict[str, Tensor], tmp_path: Path) -> None:
    example = ({name: value[:2] for name, value in inputs.items()},)
    loader = DataLoader(Table(**inputs), batch_size=16)
    result = through_the_line(OneMapping, example, loader, lambda model: model(inputs), tmp_path)
    dense = OneMapping()(inputs)
    assert [y.shape for y in flat(result.model(inputs))] == [y.shape for y in flat(dense)]


def test_swiglu(tmp_path: Path) -> None:
    x = torch.randn(96, 5, 6, generator=torch.Generator().manual_seed(1))
    result = through_the_line(GatedBlocks, x[:2], x.split(32), lambda model: model(x), tmp_path, 0.6)
    small = result.model
    assert small.gate.out_features == small.up.out_features == small.down.in_features < 32
    assert small.gate_up.out_features == 2 * small.down2.in_features < 48
