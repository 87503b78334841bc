"""Connections pruned in training, through the public door: measured, saved, met or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from training_problems import Smallest, accuracy, data, network, options

import secateur as sc
from secateur.ground.errors import BudgetError
from secateur.training import train


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return train(network(), Smallest(), options(epochs=8), share=1.0).model


def test_prune_measures_and_saves(trained: nn.Module, tmp_path: Path) -> None:
    x, _ = data(4)
    result = sc.prune(
        trained,
        x,
        method=Smallest(),
        training=options(validation=sc.Validation([data(128, seed=1)]), iterations=2),
        budget=sc.Budget(weights=0.25),
        evaluate=accuracy,
        progress=False,
    )
    report = result.report
    assert report.sparsity is not None
    assert result.trained.masks.kept == int(0.25 * report.sparsity.before)
    assert report.sparsity.after == result.masks.kept <= result.trained.masks.kept
    assert report.max_masked_difference < 1e-6
    with torch.inference_mode():
        torch.testing.assert_close(result.model(x), result.trained.model(x))
    assert report.sparsity.zip_after < 0.7 * report.sparsity.zip_before
    assert report.scores is not None
    assert report.scores.finetuned == accuracy(result.model)
    assert "connections" in str(report)
    assert "not the network faster" in str(report)
    result.save(tmp_path / "sparse")
    again = sc.load(tmp_path / "sparse", network)
    with torch.inference_mode():
        assert torch.equal(again(x), result.model(x))


def test_units_that_nothing_feeds_or_reads_are_gone(trained: nn.Module) -> None:
    x, _ = data(4)
    result = sc.prune(
        trained,
        x,
        method=Smallest(),
        training=options(iterations=3),
        budget=sc.Budget(weights=0.05),
        progress=False,
    )
    hidden = result.model.get_submodule("0")
    assert isinstance(hidden, nn.Linear)
    assert hidden.out_features < 24
    assert (hidden.out_features, 24) in result.report.kept.values()
    assert result.report.after.params < result.report.before.params
    again = sc.training.attach(
        result.model, torch.optim.SGD(result.model.parameters(), 0.1), masks=result.masks
    )
    again.detach()


def test_gradual_magnitude_ends_at_the_budget(trained: nn.Module) -> None:
    x, _ = data(4)
    result = sc.prune(
        trained,
        x,
        method=sc.GradualMagnitude(0.9, every=2, vectors=True),
        training=options(epochs=4, validation=sc.Validation(accuracy)),
        budget=sc.Budget(weights=0.3),
        progress=False,
    )
    shares = [row.share for row in result.trained.rows]
    assert shares == sorted(shares, reverse=True)
    assert 0.3 < shares[1] < 0.9, "it goes down step by step"
    assert shares[-1] == result.trained.masks.share == pytest.approx(0.3, abs=0.003)


class Untraceable(nn.Module):
    """Branches on its values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


def test_a_network_that_cannot_be_traced_is_sparse_all_the_same(tmp_path: Path) -> None:
    x, _ = data(4)
    result = sc.prune(
        Untraceable().eval(),
        x,
        method=Smallest(),
        training=options(),
        budget=sc.Budget(weights=0.5),
        progress=False,
    )
    assert result.masks.share == pytest.approx(0.5, abs=0.05)
    assert "all dead units" in result.report.refused
    result.save(tmp_path / "sparse")
    again = sc.load(tmp_path / "sparse", Untraceable)
    assert torch.equal(again(x), result.model(x))


def test_budgets_are_met_or_refused(trained: nn.Module) -> None:
    x, _ = data(4)
    with pytest.raises(BudgetError, match=r"Budget\(weights=0\.1\), not macs"):
        sc.prune(trained, x, method=Smallest(), training=options(), budget=sc.Budget(macs=0.5))
    bound = sc.Validation(accuracy, sc.Bound(0.78))
    run = options(epochs=4, iterations=8, validation=bound)
    with pytest.raises(BudgetError, match=r"keeps \d+\.\d+% of the weights"):
        sc.prune(trained, x, method=Smallest(), training=run, budget=sc.Budget(weights=0.02), progress=False)


def test_methods_and_training_belong_together(trained: nn.Module) -> None:
    x, _ = data(4)
    with pytest.raises(TypeError, match="give training"):
        sc.prune(trained, x, method=Smallest(), budget=sc.Budget(weights=0.5))
    with pytest.raises(TypeError, match="leave training out"):
        sc.prune(trained, x, method=sc.SNP(), budget=sc.Budget(macs=0.5), calibration=[x], training=options())
