"""Residual networks (He et al. 2015, arXiv 1512.03385) for ImageNet and CIFAR sizes.

    depth 18, 34          basic blocks (2, 2, 2, 2), (3, 4, 6, 3), widths 64 to 512
    depth 50, 101         bottlenecks (3, 4, 6, 3), (3, 4, 23, 3)
    depth 20, 32, 56      section 4.2: 6n + 2 layers, three stacks of n blocks, widths 16, 32, 64
    depth 8               ResNet-8 of MLPerf Tiny: the same with n = 1, 12.5 M MACs

Shortcuts are 1x1 convolutions with norm where the shape changes (section 4.2 of the paper pads
with zeros; MLPerf Tiny has 1x1 convolutions without norm). A bottleneck's stride is in its 3x3
convolution, as in the published code of arXiv 1805.11046 and in torchvision, not in the first 1x1
as in the paper. First and last layer are quantized like every other.
"""

from torch import Tensor, nn

from golden.errors import LockstepError
from models.common import (
    CIFAR_REGIME,
    IMAGENET_REGIME,
    BasicBlock,
    Bottleneck,
    check_flag,
    check_positive,
    make_config,
    stacks,
    task,
)
from sw.layers.weighted import QConv2d, QGlobalAvgPool2d, QInput, QLinear

__all__ = ["ResNet", "resnet"]

WIDE = {18: (BasicBlock, (2, 2, 2, 2)), 34: (BasicBlock, (3, 4, 6, 3)),
        50: (Bottleneck, (3, 4, 6, 3)), 101: (Bottleneck, (3, 4, 23, 3))}
NARROW = {8: (BasicBlock, (1, 1, 1)), 20: (BasicBlock, (3, 3, 3)), 32: (BasicBlock, (5, 5, 5)),
          56: (BasicBlock, (9, 9, 9))}


class ResNet(nn.Module):
    """images (N, *input_shape) float32 -> logits (N, classes) float32.

    block, counts: the residual block and the number of them per stack; width of the first stack,
    doubled from stack to stack. large: the 7x7/2 stem and 3x3/2 max pool of ImageNet, else 3x3.
    """

    def __init__(self, block, counts: tuple[int, ...], width: int, input_shape: tuple[int, ...],
                 classes: int, config, *, large: bool, zero_init: bool):
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.regime = IMAGENET_REGIME if large else CIFAR_REGIME
        self.input = QInput(config)
        kernel, stride = (7, 2) if large else (3, 1)
        self.stem = QConv2d(input_shape[0], width, kernel, stride=stride, padding=kernel // 2,
                            activation="relu", config=config)
        self.max_pool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        plan = [(number, width << index, 2 if index else 1)
                for index, number in enumerate(counts)]
        self.stacks = stacks(block, width, plan, config, zero_init=zero_init)
        self.pool = QGlobalAvgPool2d(config)
        self.flatten = nn.Flatten()
        self.classifier = QLinear(block.expansion * plan[-1][1], classes, config=config)

    def forward(self, x: Tensor) -> Tensor:
        x = self.max_pool(self.stem(self.input(x)))
        return self.classifier(self.flatten(self.pool(self.stacks(x))))


def resnet(depth: int = 18, classes: int | None = None, dataset: str | None = None,
           width: int | None = None, zero_init_residual: bool = True, quantize: bool = True,
           recipe: str = "banner", overrides: dict | None = None) -> nn.Module:
    """Build a residual network.

    dataset: gives input shape and classes; by default ImageNet (CIFAR-10 for depths 8 to 56). For
    small images, depths 18 to 101 get a 3x3 stem without max pool. width: channels of the first
    stack, default 64 (16). zero_init_residual: the last gamma of each branch starts at 0.
    """
    if depth not in (*NARROW, *WIDE):
        raise LockstepError(f"Unknown depth {depth!r} of resnet; known: 8, 20, 32, 56 (CIFAR), "
                            f"18, 34, 50, 101 (ImageNet)")
    input_shape, classes = task(dataset, classes, "cifar10" if depth in NARROW else "imagenet")
    large = input_shape[1] >= 64
    if large and depth in NARROW:
        raise LockstepError(f"Depth {depth} of resnet is for images of 32x32, not for dataset "
                            f"{dataset}; use 18, 34, 50 or 101")
    if width is None:
        width = 16 if depth in NARROW else 64
    check_positive(width=width)
    check_flag(zero_init_residual=zero_init_residual)
    block, counts = (NARROW | WIDE)[depth]
    return ResNet(block, counts, width, input_shape, classes,
                  make_config(quantize, recipe, overrides), large=large,
                  zero_init=zero_init_residual)
