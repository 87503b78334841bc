"""Reference networks and their trained weights."""

from .models import LeNet5, LeNet300, ResNet, VGG16, lenet5, lenet300, resnet20, resnet32, resnet56, vgg16_bn

__all__ = [
    "VGG16",
    "LeNet5",
    "LeNet300",
    "ResNet",
    "lenet5",
    "lenet300",
    "resnet20",
    "resnet32",
    "resnet56",
    "vgg16_bn",
]
