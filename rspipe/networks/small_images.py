"""The networks of the smoothing literature for small images."""

from torch import Tensor, nn
from torch.nn import functional

from rspipe.networks.normalization import CIFAR10, Normalize


def digits_cnn(classes: int) -> nn.Module:
    """Return a small convolutional network for 8x8 grey images (81 k multiply-adds)."""
    return nn.Sequential(
        Normalize((0.5,), (0.5,)),
        nn.Conv2d(1, 32, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(256, classes),
    )


def digits_mlp(classes: int) -> nn.Module:
    """Return a fully connected network for 8x8 grey images (85 k multiply-adds): to mix with the convolutional one."""
    return nn.Sequential(
        Normalize((0.5,), (0.5,)),
        nn.Flatten(),
        nn.Linear(64, 256),
        nn.ReLU(inplace=True),
        nn.Linear(256, 256),
        nn.ReLU(inplace=True),
        nn.Linear(256, classes),
    )


def lenet(classes: int) -> nn.Module:
    """Return the LeNet of the MNIST experiments in the literature for 28x28 grey images, without normalization."""
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(inplace=True),
        nn.Linear(500, classes),
    )


class _BasicBlock(nn.Module):
    """relu(x + two 3x3 convolutions of x); where the shape changes, a 1x1 convolution takes the place of x."""

    def __init__(self, channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)), inplace=True)))
        return functional.relu(residual + self.downsample(x), inplace=True)


class _CifarResNet(nn.Module):
    """The residual network of He et al. (2016), section 4.2, with the layer names of the published checkpoints."""

    def __init__(self, *, depth: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = (depth - 2) // 6
        self.layer1 = self._stage(16, 16, blocks=blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks=blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks=blocks, stride=2)
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(channels: int, width: int, *, blocks: int, stride: int) -> nn.Sequential:
        following = (_BasicBlock(width, width, stride=1) for _ in range(blocks - 1))
        return nn.Sequential(_BasicBlock(channels, width, stride=stride), *following)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(functional.avg_pool2d(x, 8).flatten(1))
        return logits


def _cifar_resnet(*, depth: int, classes: int) -> nn.Module:
    return nn.Sequential(Normalize(*CIFAR10), _CifarResNet(depth=depth, classes=classes))


def cifar_resnet8(classes: int) -> nn.Module:
    """Return the 8-layer residual network for 32x32 colour images (12 M multiply-adds, 78 k parameters): for CPUs."""
    return _cifar_resnet(depth=8, classes=classes)


def cifar_resnet20(classes: int) -> nn.Module:
    """Return the 20-layer residual network for 32x32 colour images (41 M multiply-adds, 0.27 M parameters)."""
    return _cifar_resnet(depth=20, classes=classes)


def cifar_resnet110(classes: int) -> nn.Module:
    """Return the CIFAR-10 network of the smoothing literature (253 M multiply-adds, 1.7 M parameters)."""
    return _cifar_resnet(depth=110, classes=classes)
