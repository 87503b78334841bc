import pytest
import torch
from torch import Tensor, nn

from secateur.measure import compare_latency, time_model


class Clock:
    """Time that only the models pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Takes(nn.Module):
    def __init__(self, clock: Clock, seconds: list[float], log: list[str], name: str) -> None:
        super().__init__()
        self.clock, self.seconds, self.log, self.name, self.calls = clock, seconds, log, name, 0

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.log.append(self.name)
        self.clock.now += self.seconds[self.calls % len(self.seconds)]
        self.calls += 1
        return x


def test_runs_are_interleaved_and_ratios_paired() -> None:
    clock, log = Clock(), list[str]()
    # The machine slows down five times every other round: medians of each would be dominated by it, pairs are not.
    dense, pruned = Takes(clock, [1.0, 5.0], log, "d"), Takes(clock, [0.5, 2.5], log, "p")
    found = compare_latency(dense, pruned, (torch.zeros(7, 2),), rounds=11, seconds=0, warmup=0, clock=clock)
    assert "".join(log[:8]) == "dppddppd"
    assert found.ratio == found.ratio_low == found.ratio_high == pytest.approx(0.5)
    assert found.rounds == 11
    assert found.batch == 7
    assert found.dense.median_ms == pytest.approx(1000)
    assert found.dense.low_ms <= found.dense.median_ms <= found.dense.high_ms == pytest.approx(5000)
    assert dense.training
    assert pruned.training


def test_warm_up_is_not_timed() -> None:
    clock, log = Clock(), list[str]()
    dense, pruned = Takes(clock, [100.0, *[1.0] * 50], log, "d"), Takes(clock, [100.0, *[1.0] * 50], log, "p")
    found = compare_latency(dense, pruned, (torch.zeros(1),), rounds=5, seconds=0, warmup=1, clock=clock)
    assert found.dense.high_ms == pytest.approx(1000)
    assert found.pruned.high_ms == pytest.approx(1000)


def test_a_minimum_time_adds_rounds() -> None:
    clock, log = Clock(), list[str]()
    dense, pruned = Takes(clock, [0.25], log, "d"), Takes(clock, [0.25], log, "p")
    found = compare_latency(dense, pruned, (torch.zeros(1),), rounds=2, seconds=10, warmup=0, clock=clock)
    assert found.rounds == 20


def test_threads_are_stated_and_restored() -> None:
    before = torch.get_num_threads()
    model = nn.Linear(2, 2)
    found = compare_latency(model, model, (torch.zeros(1, 2),), rounds=2, seconds=0, threads=2)
    assert found.threads == 2
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="two rounds"):
        compare_latency(model, model, (torch.zeros(1, 2),), rounds=1)


def test_one_model_alone() -> None:
    clock, log = Clock(), list[str]()
    found = time_model(
        Takes(clock, [0.002], log, "m"), (torch.zeros(3),), rounds=4, seconds=0, warmup=0, clock=clock
    )
    assert found.latency.median_ms == pytest.approx(2)
    assert (found.rounds, found.batch) == (4, 3)
    assert "".join(log) == "mmmm"
