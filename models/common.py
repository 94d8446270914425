"""What several networks share: the recipe, the sizes of the known datasets, blocks, regimes."""

from collections.abc import Callable

from torch import Tensor, nn

from golden.errors import LockstepError
from sw.layers.weighted import QAdd, QConv2d
from sw.quantize.recipe import Recipe
from sw.quantize.recipes import make_recipe

__all__ = ["BasicBlock", "Bottleneck", "CIFAR_REGIME", "DepthwiseSeparable", "IMAGENET_REGIME",
           "SMALL_REGIME", "check_flag", "check_positive", "check_size", "choose", "make_config",
           "stacks", "task"]

# One image as a network for this dataset sees it (C, H, W), and the number of classes.
DATASETS = {"digits": ((1, 8, 8), 10), "mnist": ((1, 28, 28), 10), "cifar10": ((3, 32, 32), 10),
            "cifar100": ((3, 32, 32), 100), "imagenet": ((3, 224, 224), 1000),
            "speech_commands": ((1, 49, 10), 12), "visual_wake_words": ((3, 96, 96), 2)}

# arXiv 1805.11046 and its published code: batch 256, /10 at 30, 60, 80; 5 epochs from 0 to 0.1.
IMAGENET_REGIME = [{"epoch": 0, "optimizer": "SGD", "lr": 0.1, "momentum": 0.9,
                    "weight_decay": 1e-4, "warmup_epochs": 5},
                   {"epoch": 30, "lr": 1e-2}, {"epoch": 60, "lr": 1e-3}, {"epoch": 80, "lr": 1e-4}]
CIFAR_REGIME = [{"epoch": 0, "optimizer": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
                {"epoch": 81, "lr": 1e-2}, {"epoch": 122, "lr": 1e-3}, {"epoch": 164, "lr": 1e-4}]
# Ours, for about 20 epochs of a small network on small images.
SMALL_REGIME = [{"epoch": 0, "optimizer": "SGD", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4},
                {"epoch": 10, "lr": 1e-2}, {"epoch": 16, "lr": 2e-3}]


def make_config(quantize: bool = True, recipe: str = "banner", overrides: dict | None = None
                ) -> Recipe:
    """The ``config`` of every layer of a network, from the three options that all models take."""
    return make_recipe(recipe, quantize=quantize, overrides=overrides)


def check_positive(**options: int) -> None:
    """Raise LockstepError naming the first option that is not a positive integer."""
    for name, value in options.items():
        if type(value) is not int or value < 1:
            raise LockstepError(f"Option {name} must be a positive integer, not {value!r}")


def check_flag(**options: bool) -> None:
    """Raise LockstepError naming the first option that is neither True nor False."""
    for name, value in options.items():
        if not isinstance(value, bool):
            raise LockstepError(f"Option {name} must be True or False, not {value!r}")


def choose(name: str, value, known) -> None:
    """Raise LockstepError listing the known values, unless ``value`` is one of them."""
    if value not in tuple(known):
        raise LockstepError(f"Unknown {name} {value!r}; known: {', '.join(map(str, known))}")


def check_size(network: str, shape: tuple[int, ...], smallest: int) -> None:
    """Raise LockstepError for images (C, H, W) smaller than ``smallest`` pixels a side."""
    if min(shape[1:]) < smallest:
        raise LockstepError(f"{network} needs images of at least {smallest}x{smallest}, not "
                            f"{shape[1]}x{shape[2]}")


def task(dataset: str | None, classes: int | None, default: str) -> tuple[tuple[int, ...], int]:
    """One image's shape (C, H, W) and the number of classes: those of ``dataset``, if None of
    ``default``; classes overrides. A ``folder`` of images has ImageNet's shape."""
    choose("dataset", dataset or default, (*DATASETS, "folder"))
    if dataset == "folder" and classes is None:
        raise LockstepError("Dataset folder has no fixed number of classes; set the option classes")
    shape, known_classes = DATASETS["imagenet" if dataset == "folder" else dataset or default]
    classes = known_classes if classes is None else classes
    check_positive(classes=classes)
    return shape, classes


class _Residual(nn.Module):
    """Shortcut and sum: (N, I, H, W) -> (N, O, H/stride, W/stride). Subclasses add the branch.

    Where the shape changes, the shortcut is a 1x1 convolution with norm (option B of He et al.
    2015, arXiv 1512.03385), elsewhere the identity.
    """

    def _finish(self, in_channels: int, out_channels: int, stride: int, config) -> None:
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = QConv2d(in_channels, out_channels, 1, stride=stride, config=config)
        self.add = QAdd(activation="relu", config=config)


class BasicBlock(_Residual):
    """Two 3x3 convolutions and a shortcut. zero_init: the last gamma starts at 0, so that the
    block starts as its shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, config, *,
                 zero_init: bool = True):
        super().__init__()
        self.conv1 = QConv2d(in_channels, width, 3, stride=stride, padding=1, activation="relu",
                             config=config)
        self.conv2 = QConv2d(width, width, 3, padding=1, zero_init=zero_init, config=config)
        self._finish(in_channels, width, stride, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.add(self.conv2(self.conv1(x)), self.shortcut(x))


class Bottleneck(_Residual):
    """1x1, 3x3 (with the stride), 1x1 convolution to 4 * width channels, and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, config, *,
                 zero_init: bool = True):
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = QConv2d(in_channels, width, 1, activation="relu", config=config)
        self.conv2 = QConv2d(width, width, 3, stride=stride, padding=1, activation="relu",
                             config=config)
        self.conv3 = QConv2d(width, out_channels, 1, zero_init=zero_init, config=config)
        self._finish(in_channels, out_channels, stride, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.add(self.conv3(self.conv2(self.conv1(x))), self.shortcut(x))


class DepthwiseSeparable(nn.Sequential):
    """3x3 depthwise, then 1x1 convolution, each with norm and activation (arXiv 1704.04861)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, config, *,
                 activation: str = "relu"):
        super().__init__()
        self.depthwise = QConv2d(in_channels, in_channels, 3, stride=stride, padding=1,
                                 groups=in_channels, activation=activation, config=config)
        self.pointwise = QConv2d(in_channels, out_channels, 1, activation=activation,
                                 config=config)


def stacks(block: Callable[..., nn.Module], in_channels: int, plan, config, **options
           ) -> nn.Sequential:
    """Stacks of residual blocks. plan: (blocks, width, stride of the first block) per stack."""
    result = nn.Sequential()
    for number, width, stride in plan:
        stack = nn.Sequential()
        for index in range(number):
            stack.append(block(in_channels, width, 1 if index else stride, config, **options))
            in_channels = block.expansion * width
        result.append(stack)
    return result
