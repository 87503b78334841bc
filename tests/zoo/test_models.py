import pytest
import torch
from torch import nn

from secateur import zoo


@pytest.mark.parametrize(
    ("model", "shape", "parameters"),
    [
        (zoo.lenet300(), (1, 28, 28), 266_610),
        (zoo.lenet5(), (1, 28, 28), 431_080),
        (zoo.resnet20(), (3, 32, 32), 272_474),
        (zoo.resnet32(), (3, 32, 32), 466_906),
        (zoo.resnet56(), (3, 32, 32), 855_770),
        (zoo.vgg16_bn(width=0.25), (3, 32, 32), None),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else None,
)
def test_size_and_output(model: nn.Module, shape: tuple[int, ...], parameters: int | None) -> None:
    if parameters is not None:
        assert sum(p.numel() for p in model.parameters()) == parameters
    with torch.inference_mode():
        assert model.eval()(torch.zeros(2, *shape)).shape == (2, 10)


def test_width_scales_every_layer() -> None:
    narrow = zoo.vgg16_bn(width=0.25)
    convolutions = [m.out_channels for m in narrow.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions[0] == 16
    assert convolutions[-1] == 128


def test_a_depth_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="6 n"):
        zoo.ResNet(21)
