import pytest
import torch

from secateur.data import Shuffled, shift_and_mirror, shifted


def test_every_sample_once_in_a_new_order() -> None:
    x = torch.arange(12.0)
    batches = Shuffled(x, x, 4)
    torch.manual_seed(0)
    first, second = ([b for b, _ in batches] for _ in range(2))
    assert torch.cat(first).sort().values.tolist() == x.tolist()
    assert not torch.equal(torch.cat(first), torch.cat(second))
    torch.manual_seed(0)
    assert torch.equal(torch.cat([b for b, _ in batches]), torch.cat(first))
    assert all(torch.equal(a, b) for a, b in batches)
    assert len(Shuffled(x, x, 5)) == len(list(Shuffled(x, x, 5))) == 2


@pytest.mark.parametrize("seed", [0, 1])
def test_images_move_and_turn_whole(seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.zeros(200, 2, 12, 12)
    x[:, 0, 5, 6], x[:, 1, 5, 7] = 1, 2  # two pixels side by side, clear of the margin
    for augment, turns in ((shifted, {1}), (shift_and_mirror, {1, -1})):
        moved = augment(x)
        assert moved.shape == x.shape
        assert torch.equal(moved.sum((1, 2, 3)), x.sum((1, 2, 3)))
        first, second = (moved[:, c].flatten(1).argmax(1) for c in (0, 1))
        assert set((second - first).tolist()) == turns
        assert set((first // 12 - 5).tolist()) == set(range(-4, 5))
