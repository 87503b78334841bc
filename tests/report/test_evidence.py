import json

import pytest
import torch
from torch import nn

from secateur.graph import Frozen
from secateur.report import Sparsity, frozen_parts, loss_curve, zipped_bytes


@pytest.mark.parametrize("size", [1, 5, 62, 63, 64, 200, 4096])
@pytest.mark.parametrize("share", [0.0, 0.31, 1.0])
def test_a_curve_has_few_points_and_both_ends_and_the_cut(size: int, share: float) -> None:
    loss = torch.linspace(1, 0, size + 1, dtype=torch.float64) ** 3
    cut = round(share * size)
    curve = loss_curve(loss, cut)
    assert len(curve.units) <= 64
    assert len(curve.units) == min(size + 1, len(curve.units))
    assert curve.units[0] == 0
    assert curve.units[-1] == size
    assert list(curve.units) == sorted(set(curve.units))
    assert curve.at(cut) == pytest.approx(float(loss[cut]), rel=1e-4)
    for k, value in zip(curve.units, curve.loss, strict=True):
        assert value == pytest.approx(float(loss[k]), rel=1e-4)


def test_a_short_curve_is_kept_whole_and_json_stays_small() -> None:
    torch.manual_seed(0)
    loss = torch.rand(40, dtype=torch.float64).sort(descending=True).values
    assert len(loss_curve(loss, 3).units) == 40
    assert len(json.dumps(loss_curve(torch.rand(4097, dtype=torch.float64), 2000).loss)) < 64 * 14
    assert loss_curve(loss, 3).at(1000) is None


def test_what_is_frozen_is_told_by_reason_the_largest_first() -> None:
    def entry(parameter: str, reason: str, source: str = "") -> Frozen:
        return Frozen(parameter, 1, reason, "op", "module", source)

    entries = [
        entry("a", "one"),
        entry("b", "many", "m.py:3"),
        entry("c", "many", "m.py:3"),
        entry("d", "many"),
    ]
    many, one = frozen_parts(entries)
    assert (many.reason, many.places, many.sources) == ("many", ("b[1]", "c[1]", "d[1]"), ("m.py:3",))
    assert (one.reason, one.places, one.sources) == ("one", ("a[1]",), ())


def test_connections_are_counted_by_parameter_of_the_dense_network() -> None:
    """Units may be gone, and whole parameters; what is masked is zero."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    pruned = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        pruned[0].weight[:, 0] = 0
    found = Sparsity.of(dense, pruned, curve=[(1.0, 0.9)])
    assert found.layers == {"0.weight": (28, 48), "0.bias": (4, 6), "2.weight": (8, 12), "2.bias": (0, 2)}
    assert (found.before, found.after) == (68, 40)
    assert (found.zip_before, found.zip_after) == (zipped_bytes(dense), zipped_bytes(pruned))
    assert found.curve == ((1.0, 0.9),)
    assert Sparsity.of(dense, pruned, after=39).after == 39
