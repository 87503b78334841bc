"""Tracing: any example, no trace left on the model, and clear words where it fails."""

from __future__ import annotations

import re
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from models import Residual, Shared
from torch import Tensor, nn

from secateur.graph import Ref, trace
from secateur.graph.interrupts import interrupts_held
from secateur.ground.errors import TraceError
from secateur.ground.tensors import tensor_names


def test_the_model_is_left_as_it_was() -> None:
    model = Residual().train()
    model.bn_a.eval()
    model.fc.weight.requires_grad_(False)
    before = {name: m.training for name, m in model.named_modules()}
    state = {k: v.clone() for k, v in model.state_dict().items()}
    trace(model, torch.randn(2, 3, 8, 8))
    assert {name: m.training for name, m in model.named_modules()} == before
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [p.requires_grad for p in model.fc.parameters()] == [False, True]


def test_flags_return_even_if_the_export_fails() -> None:
    class Refuses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("not today")

    model = nn.Sequential(nn.Linear(2, 2), Refuses()).train()
    with pytest.raises(TraceError, match="not today"):
        trace(model, torch.zeros(1, 2))
    assert all(m.training for m in model.modules())


def test_a_refusal_names_the_line_and_the_remedy(capfd: pytest.CaptureFixture[str]) -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:  # the line at fault
                return x
            return -x

    with pytest.raises(TraceError) as caught:
        trace(Branches(), torch.zeros(2, 2))
    message = str(caught.value)
    where = re.search(r"test_trace\.py:(\d+)", message)
    assert where is not None
    with open(__file__) as file:
        assert "the line at fault" in file.readlines()[int(where[1]) - 1]
    assert "Remedy" in message
    assert capfd.readouterr() == ("", "")


def test_a_mask_that_may_be_causal_is_explained() -> None:
    class Masked(nn.Module):
        def __init__(self, is_causal: bool | None) -> None:
            super().__init__()
            self.layers, self.is_causal = (
                nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8), 1),
                is_causal,
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x, mask=torch.ones(len(x), len(x)).triu(1).bool(), is_causal=self.is_causal)

    with pytest.raises(TraceError, match=r"test_trace\.py:\d+.*say is_causal=True or is_causal=False"):
        trace(Masked(None), torch.zeros(4, 2, 8))
    assert len(trace(Masked(True), torch.zeros(4, 2, 8)).groups) == 2


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_was_compiled_or_exported_already_is_refused() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), torch.zeros(2, 4)
    for made, by in (
        (torch.jit.trace(model, x), r"torch\.jit"),
        (torch.export.export(model, (x,)).module(), r"torch\.export"),
    ):
        with pytest.raises(TraceError, match=rf"was made by {by}, .*give the nn\.Module"):
            trace(made, x)


def test_wrong_inputs_are_a_trace_error() -> None:
    with pytest.raises(TraceError, match=r"Linear does not run on the example inputs: .*RuntimeError: mat1"):
        trace(nn.Linear(4, 2), torch.zeros(1, 5))


class Fails(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).view(3, -1, 5)  # what fails


def test_a_model_that_does_not_run_is_told_so_at_its_own_line() -> None:
    with pytest.raises(TraceError, match="Fails does not run on the example inputs") as caught:
        trace(Fails(4, 4), torch.zeros(2, 4))
    where = re.search(r"test_trace\.py:(\d+)", str(caught.value))
    assert where is not None
    with open(__file__) as file:
        assert "what fails" in file.readlines()[int(where[1]) - 1]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_is_free_and_costs_are_for_one_sample(batch: int) -> None:
    graph = trace(Residual(), torch.zeros(batch, 3, 8, 8))
    assert graph.program.dynamic
    assert graph.program.batch == max(batch, 2)
    assert graph.total_macs() == trace(Residual(), torch.zeros(3, 3, 8, 8)).total_macs()
    exported = graph.program.exported.module()
    assert exported(torch.zeros(7, 3, 8, 8)).shape == (7, 4)


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("offset", torch.randn(3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)) + self.offset)


def test_a_model_with_a_batch_of_its_own_is_traced_statically() -> None:
    graph = trace(FixedBatch(), torch.zeros(3, 4))
    assert not graph.program.dynamic
    assert graph.program.batch == 3
    assert [g.id for g in graph.groups] == ["fc1"]
    assert "batch size fixed at 3" in str(graph)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(
        self, batch: dict[str, Tensor], *, scale: float, extra: Tensor | None = None
    ) -> dict[str, Tensor]:
        hidden = torch.relu(self.left(batch["a"]) + self.right(batch["b"]) * scale)
        return (
            {"hidden": hidden * 2, "logits": self.out(hidden)}
            if extra is None
            else {"logits": self.out(hidden)}
        )


def test_dict_and_keyword_inputs_and_dict_outputs() -> None:
    batch = {"a": torch.zeros(1, 4), "b": torch.zeros(1, 3)}
    whole = trace(TwoInputs(), batch, scale=2.0)
    assert whole.program.dynamic
    assert whole.groups == (), "the hidden layer is an output"
    (group,) = trace(TwoInputs(), batch, scale=2.0, extra=torch.zeros(1)).groups
    assert (group.id, group.size) == ("left", 6)


def test_nodes_are_plain_data_with_module_and_source() -> None:
    graph = trace(Shared(), torch.zeros(1, 6))
    linear = [n for n in graph.program.nodes if n.op == "linear"]
    assert [n.module for n in linear] == ["encode", "again", "again", "hidden", "tied", "out"]
    assert linear[0].module_type == "torch.nn.modules.linear.Linear"
    assert re.search(r"models\.py:\d+$", linear[0].source)
    assert isinstance(linear[0].args[0], Ref)
    assert linear[0].overload == "aten.linear.default"
    assert linear[0].shape == (2, 8)


def test_every_name_of_a_tensor_is_known_and_the_first_is_canonical() -> None:
    names = tensor_names(Shared())
    assert ("hidden.weight", "tied.weight") in names
    assert ("hidden.bias",) in names
    assert ("tied.bias",) in names


def test_layers_know_their_geometry() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=(1, 2), groups=2),
        nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False),
        nn.Conv2d(6, 4, 3, padding="same"),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    model(torch.zeros(1, 2, 9, 9))
    first, second, third, last = trace(model, torch.zeros(1, 2, 9, 9)).layers
    assert (first.stride, first.padding, first.dilation, first.groups, first.width) == (
        (2, 2),
        (1, 1),
        (1, 2),
        2,
        1,
    )
    assert (first.weight, first.bias, second.bias) == ("0.weight", "0.bias", None)
    assert (second.op, second.stride, second.out_dim, second.in_dim) == ("conv_transpose2d", (2, 2), 1, 0)
    assert third.padding == (1, 1)
    assert (last.op, last.stride, last.groups, last.channel_dim) == ("linear", (), 1, 1)


def test_autocast_and_gradient_switches_are_looked_into() -> None:
    class Switches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = torch.relu(self.fc1(x))
            with torch.autocast("cpu", enabled=False):
                x = torch.relu(self.fc2(x.float()))
            return self.fc3(x)

    graph = trace(Switches(), torch.zeros(2, 4))
    assert [(g.id, g.size) for g in graph.groups] == [("fc1", 6), ("fc2", 5)]
    assert [layer.module for layer in graph.layers] == ["fc1", "fc2", "fc3"]


def test_a_model_without_layers_or_inputs_with_a_batch() -> None:
    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gain.sum()

    graph = trace(Scalar(), torch.tensor(2.0))
    assert graph.groups == ()
    assert graph.total_macs() == 0


@dataclass
class Out:
    logits: Tensor


class Unknown(nn.Module):
    """Returns what torch's pytree does not know."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.a, self.b, self.kind = nn.Linear(4, 8), nn.Linear(8, 2), kind

    def forward(self, x: Tensor) -> Any:
        return self.kind(self.b(torch.relu(self.a(x))))


def test_an_output_of_an_unknown_type_is_named_with_its_remedy() -> None:
    class DynamicCache:
        def __init__(self, value: Tensor) -> None:
            self.value = value

    with pytest.raises(TraceError, match=r"returns a \S+\.Out\. Remedy: .*register_dataclass\(Out\)"):
        trace(Unknown(Out), torch.zeros(2, 4))
    with pytest.raises(TraceError, match=r"returns a \S+DynamicCache\. Remedy: .*use_cache = False"):
        trace(Unknown(DynamicCache), torch.zeros(2, 4))


def test_a_decoder_is_traced_without_its_cache_and_keeps_it() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=96, **size)).eval()
    tokens = torch.ones(2, 5, dtype=torch.long)
    assert len(trace(model, input_ids=tokens).groups) == 2
    assert model.config.use_cache
    assert model(input_ids=tokens).past_key_values is not None


class Remembers(nn.Module):
    """Sets attributes in its forward: one that is there before, one that is not, a list, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.rnn = nn.Linear(4, 8), nn.Linear(8, 2), nn.LSTM(8, 8, batch_first=True)
        self.last, self.maps, self.calls = torch.zeros(1), list[Tensor](), 0

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.features = torch.relu(self.a(x))
        self.maps.append(self.features)
        self.calls += 1
        return self.b(self.rnn(self.features)[0])


def test_attributes_that_a_forward_sets_are_as_they_were(recwarn: pytest.WarningsRecorder) -> None:
    model = Remembers().eval()
    last = model.last
    graph = trace(model, torch.zeros(2, 3, 4))
    assert graph.total_macs() == 3 * (4 * 8 + 2 * 4 * 8 * 8 + 8 * 2)
    assert not hasattr(model, "features")
    assert model.last is last
    assert (model.maps, model.calls) == ([], 0)
    assert not recwarn.list


def test_tensors_with_a_history_may_be_held() -> None:
    """After training, models hold what their last forward made; torch cannot copy it, and tracing need not."""
    model = Remembers()
    model(torch.zeros(2, 3, 4)).sum().backward()
    features = model.features
    assert trace(model, torch.zeros(2, 3, 4)).program.dynamic
    assert model.features is features
    masked = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    torch.nn.utils.prune.l1_unstructured(masked[0], "weight", 0.5)
    masked(torch.zeros(2, 4)).sum().backward()
    assert trace(masked, torch.zeros(2, 4)).program.dynamic


class Interrupted(nn.Linear):
    """Somebody presses Ctrl-C while it is traced, once or twice."""

    times = 1

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            signal.raise_signal(signal.SIGINT)
        return super().forward(x)


def test_an_interrupt_acts_behind_the_export() -> None:
    model, before = Interrupted(4, 2), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trace(model, torch.zeros(2, 4))
    assert model.training
    assert signal.getsignal(signal.SIGINT) is before
    seen: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        assert trace(model, torch.zeros(2, 4)).program.dynamic  # a handler of one's own decides what follows
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_a_second_interrupt_acts_at_once() -> None:
    raised = []

    def impatient() -> None:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            raised.append("not yet")
            signal.raise_signal(signal.SIGINT)
            raised.append("never")

    with pytest.raises(KeyboardInterrupt):
        impatient()
    assert raised == ["not yet"]


def test_other_threads_trace_as_well() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(trace, nn.Linear(4, 2), torch.zeros(2, 4)).result().program.dynamic
