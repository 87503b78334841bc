from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save, save_model
from torch import Tensor, nn

from secateur import zoo
from secateur.measure import macs, parameters, size, stored_bytes
from secateur.measure.count import file_size, macs_of_a_run


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 2]), st.integers(5, 8), st.integers(1, 3))
def test_macs_of_a_convolution(
    per_group: int, out_per_group: int, groups: int, side: int, batch: int
) -> None:
    conv = nn.Conv2d(per_group * groups, out_per_group * groups, 3, groups=groups)
    x = torch.zeros(batch, per_group * groups, side, side)
    assert macs(conv, (x,)) == (side - 2) ** 2 * 9 * per_group * out_per_group * groups


def test_macs_of_resnet20_are_the_published_ones() -> None:
    assert macs(zoo.resnet20(), (torch.zeros(1, 3, 32, 32),)) == pytest.approx(41e6, rel=0.01)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_macs_of_recurrent_layers(kind: type[nn.LSTM | nn.GRU | nn.RNN], gates: int) -> None:
    model = kind(5, 8, num_layers=2, bidirectional=True, batch_first=True)
    layers = 2 * (5 * 8 + 8 * 8) + 2 * (16 * 8 + 8 * 8)  # both directions; the second reads both of the first
    assert macs(model, (torch.zeros(3, 7, 5),)) == 7 * gates * layers


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("heads", [2, 4])  # of keys and values
def test_macs_of_fused_attention(heads: int, masked: bool) -> None:
    class Attention(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            mask = torch.ones(5, 7, dtype=torch.bool) if masked else None
            return nn.functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=heads < 4)

    q, k, v = torch.zeros(3, 4, 5, 8), torch.zeros(3, heads, 7, 8), torch.zeros(3, heads, 7, 6)
    assert macs(Attention(), (q, k, v)) == 4 * 5 * 7 * (8 + 6)


def test_macs_of_torchs_encoder_are_those_of_its_layers() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), 2).eval()
    per_layer = 5 * (4 * 16 * 16 + 2 * 16 * 24) + 2 * 5 * 5 * 16
    assert macs(model, (torch.zeros(3, 5, 16),)) == 2 * per_layer


def test_parameters_may_be_inputs_of_modules() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.fc = nn.Parameter(torch.ones(1, 4)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.start.expand(x.shape[0], -1)) + self.fc(x) + self.fc(self.start)

    model = Constant()
    for batch in (1, 2, 5):  # what does not depend on the inputs counts once, however many samples there are
        assert macs(model, (torch.ones(batch, 4, requires_grad=True),)) == 3 * 12
    assert macs_of_a_run(model, torch.ones(1, 4, requires_grad=True)) == 3 * 12
    assert all(p.requires_grad for p in model.parameters())


def test_a_model_that_cannot_be_exported_is_run() -> None:
    class Branches(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else x

    assert macs(Branches(4, 3), (torch.ones(5, 4),)) == 12
    assert macs(torch.jit.trace(nn.Linear(4, 3), torch.ones(5, 4)), (torch.ones(5, 4),)) == 12


def test_counting_leaves_modes_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout().eval())
    before = model.state_dict()["1.running_mean"].clone()
    macs(model, (torch.ones(3, 4),))
    assert [m.training for m in model] == [True, True, False]
    assert torch.equal(model.state_dict()["1.running_mean"], before)


def test_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    model = zoo.lenet5()
    save_model(model, str(tmp_path / "a.safetensors"))
    # save_model notes the format in the header
    assert abs((tmp_path / "a.safetensors").stat().st_size - stored_bytes(model)) < 64


def test_shared_tensors_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
            self.b.weight = self.a.weight

    assert parameters(Tied()) == 64 * 64
    assert stored_bytes(Tied()) < 1.5 * 4 * 64 * 64


def test_half_precision_and_non_contiguous_tensors_are_stored() -> None:
    model = nn.Conv2d(8, 8, 3, bias=False).half().to(memory_format=torch.channels_last)
    assert stored_bytes(model) == pytest.approx(2 * 8 * 8 * 9, abs=100)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.lists(st.integers(0, 40), max_size=3),
            st.sampled_from(
                [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int8, torch.bool]
            ),
        ),
        max_size=8,
    )
)
def test_the_size_of_a_file_is_known_without_making_it(
    wanted: dict[str, tuple[list[int], torch.dtype]],
) -> None:
    tensors = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in wanted.items()}
    assert file_size(tensors) == len(save(tensors))


def test_size_takes_all_together() -> None:
    found = size(nn.Linear(3, 2), (torch.zeros(1, 3),))
    assert (found.params, found.macs) == (8, 6)
    assert found.bytes > 4 * 8


def test_load_is_what_was_counted() -> None:
    model = zoo.lenet300()
    data = save(dict(model.state_dict()))
    assert len(data) == stored_bytes(model)
    assert set(load(data)) == set(model.state_dict())
