"""Reference networks and their trained weights."""

from .models import VGG16, LeNet5, LeNet300, ResNet, lenet5, lenet300, resnet20, resnet32, resnet56, vgg16_bn
from .weights import PRETRAINED, Pretrained, pretrained

__all__ = [
    "PRETRAINED",
    "VGG16",
    "LeNet5",
    "LeNet300",
    "Pretrained",
    "ResNet",
    "lenet5",
    "lenet300",
    "pretrained",
    "resnet20",
    "resnet32",
    "resnet56",
    "vgg16_bn",
]
