"""ResNets for CIFAR (arXiv 1512.03385, section 4.2) with shortcuts of option A, as a user would bring them.

Nothing here knows of brickyard:

    brickyard modularize cnn benchmarks/cifar_resnet.py:resnet56 --weights resnet56.safetensors ...
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters: every second pixel, missing channels zero.

    Args:
        channels_in: Channels that come in.
        channels: Channels that go out.
        stride: Of the first convolution.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.missing = stride, channels - channels_in

    def forward(self, inputs: Tensor) -> Tensor:
        """Map `[batch, channels_in, height, width]` to `[batch, channels, height / stride, ...]`."""
        inner = F.relu(self.bn1(self.conv1(inputs)))
        shortcut = inputs
        if self.missing:
            half = self.missing // 2
            shortcut = F.pad(
                inputs[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half)
            )
        return F.relu(self.bn2(self.conv2(inner)) + shortcut)


class CifarResNet(nn.Module):
    """A stem, three stages of 16, 32 and 64 channels, and a linear layer.

    Args:
        blocks: Blocks of a stage; 6 * blocks + 2 layers in all.
        classes: Number of classes.
    """

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures `[batch, 3, 32, 32]` to scores `[batch, classes]`."""
        features = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(pictures))))))
        return self.linear(features.mean((2, 3)))  # type: ignore[no-any-return]


def _stage(channels_in: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(channels_in, channels, stride)
    return nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(blocks - 1)))


def resnet20() -> nn.Module:
    """Return a ResNet-20 of 10 classes."""
    return CifarResNet(3)


def resnet56() -> nn.Module:
    """Return a ResNet-56 of 10 classes."""
    return CifarResNet(9)
