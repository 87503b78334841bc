"""Cells of benchmarks/microstructure_training.py on a few random images."""

import csv
import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from secateur.data import HELD_OUT, ImageData

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def few(name: str) -> ImageData:
    """Two batches to train on, behind which are the images that are held out."""
    generator = torch.Generator().manual_seed(0)
    shape, channels = ((3, 32, 32), 3) if name == "cifar10" else ((1, 28, 28), 1)
    x = torch.randint(0, 256, (HELD_OUT + 256, *shape), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, 10, (len(x),), generator=generator)
    return ImageData(name, x, y, x[:200], y[:200], (0.5,) * channels, (0.25,) * channels)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.chdir(tmp_path)  # tables and checkpoints are written where one stands
    monkeypatch.syspath_prepend(BENCHMARKS)  # scripts of benchmarks import one another by their plain names
    module = importlib.import_module("microstructure_training")
    monkeypatch.setattr(module, "load_images", few)
    brief = {name: replace(t, dense_epochs=min(t.dense_epochs, 1)) for name, t in module.TASKS.items()}
    monkeypatch.setattr(module, "TASKS", brief)
    return module


def rows() -> list[dict[str, str]]:
    with Path("results/microstructure.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_autoencoder_and_its_twin(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = bench.pairs(bench.CODER, bench.TALL, 0.7, 0.0, 1, 2)
    monkeypatch.setattr(bench, "CELLS", cells)
    for cell in [*cells, *cells]:  # finished ones are skipped
        bench.run(cell)
    found = rows()
    assert [(row["method"], row["training"]) for row in found] == [("admm", "1+1"), ("magnitude", "0+2")]
    admm, magnitude = found
    assert 0.5 < float(admm["as_magnitude"]) <= 1
    assert 0 < float(admm["primal"]) < 1
    assert magnitude["as_magnitude"] == "1"
    assert magnitude["primal"] == ""
    for row in found:
        assert 5 < float(row["acc_final"]) < 30  # dB: noise cannot be coded well
        assert float(row["stored_bits_ratio"]) == pytest.approx(0.35, abs=0.05)
        assert float(row["packed_bytes"]) < 0.5 * float(row["safetensors_bytes"])
    mse = torch.tensor(0.01)
    assert bench.TASKS[bench.CODER].score(Brighter(mse.sqrt()), torch.full((3, 3, 2, 2), 0.5), None) == (
        pytest.approx(20)
    )


class Brighter(torch.nn.Module):
    def __init__(self, by: torch.Tensor) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.by


def test_a_run_that_was_stopped_goes_on(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = bench.Cell(bench.CODER, bench.TALL, 0.7, 0.0, 1, 2)
    monkeypatch.setattr(bench, "CELLS", [cell])
    with pytest.raises(TimeoutError, match="after 0 of 1"):  # of the dense network
        bench.run(cell, until=0)
    bench.dense_network(cell.model, few("cifar10"))
    with pytest.raises(TimeoutError, match="after 0 of 2"):
        bench.run(cell, until=0)
    bench.run(cell)
    assert len(rows()) == 1


def test_a_quantised_twin_shares_the_training(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = bench.Cell(bench.LENET, bench.LOW, 0.985, 0.0, 1, 4)
    cells = [exact, replace(exact, bits=8)]
    monkeypatch.setattr(bench, "CELLS", cells)
    for cell in cells:
        bench.run(cell)
    first, second = rows()
    assert (first["method"], second["method"]) == ("admm", "admm, 8 bit")
    assert first["training"] == "3+1"
    assert first["seconds"] == second["seconds"]
    assert float(second["packed_bytes"]) < 0.7 * float(first["packed_bytes"])


def test_short_runs_are_judged_on_what_was_held_out(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.tune(bench.LENET, [0.95], epochs=4, steps=2)
    found = [line for line in capsys.readouterr().out.splitlines() if "as magnitudes" in line]
    assert [line.split(":")[0].split(", ")[-1] for line in found] == ["magnitude", "one stage", "gradually"]
    assert found[0].endswith("as magnitudes 1.000")


def test_the_cells(bench: ModuleType) -> None:
    """Each has a twin of the same epochs; LeNet-5 has twelve rows."""
    assert len({tuple(cell.keys().values()) for cell in bench.CELLS}) == len(bench.CELLS)
    for admm, twin in zip(bench.CELLS[::2], bench.CELLS[1::2], strict=True):
        assert admm.admm > 0
        assert twin == replace(admm, admm=0)
        assert admm.method().least_epochs < admm.epochs
        assert not twin.method().least_epochs
    assert sum(cell.model == bench.LENET for cell in bench.CELLS) == 12
