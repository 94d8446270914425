"""Sizes of the networks against published numbers, and what their options do.

Sources: torchvision's model pages (ImageNet ResNets and VGGs; MACs are its "GFLOPS"; its VGGs
have a bias in front of each norm, which is subtracted here); chenyaofo/pytorch-cifar-models
(ResNet-20, 32, 56 with 1x1 shortcuts: 0.27 M, 0.47 M, 0.86 M parameters, 40.81 M, 69.12 M,
125.75 M MACs); kuangliu/pytorch-cifar (ResNet-18 and VGGs for CIFAR); arXiv 1704.04861, table 8
(MobileNet 569 M and 41 M MACs) and Keras' MobileNet (trainable parameters); MLPerf Tiny (12.5 M,
7.5 M and 2.66 M MACs), whose ResNet-8 has 77,360 weights and whose autoencoder has 264,192, counted
in the int8 files of its repository; LeNet-5's 61,706 parameters and 416,520 MACs are the usual
hand count.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from golden import ops
from golden.errors import LockstepError
from golden.program.interpreter import run
from golden.program.verify import verify
from models import build_model
from sw.data import load_dataset
from sw.lower.network import lower

CIFAR_VGG = {11: 9_231_114, 13: 9_416_010, 16: 14_728_266, 19: 20_040_522}
IMAGENET_VGG = {11: 132_868_840, 13: 133_053_736, 16: 138_365_992, 19: 143_678_248}
VGG_BIASES = {11: 2_752, 13: 2_944, 16: 4_224, 19: 5_504}
VGG_MACS = {11: 7.61e9, 16: 15.47e9}
SLOW, LONG = pytest.mark.slow, pytest.mark.long


def meta_model(name, options):
    """The model without memory for its parameters."""
    with torch.device("meta"):
        return build_model(name, options)


def n_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def n_weights(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)


def lowered(name, options, batch=32, small=None):
    """(program at the model's own input size, program at the calibrated size, its images)."""
    torch.manual_seed(0)
    model = build_model(name, options)
    images = torch.rand(batch, *(small or model.input_shape))
    model(images)
    return lower(model), lower(model, input_shape=tuple(images.shape[1:])), images.numpy()


def macs(program):
    return verify(program).macs


@pytest.mark.parametrize(("name", "options", "expected"), [
    ("resnet", {"depth": 18}, 11_689_512), ("resnet", {"depth": 34}, 21_797_672),
    ("resnet", {"depth": 50}, 25_557_032), ("resnet", {"depth": 101}, 44_549_160),
    ("resnet", {"depth": 20}, 272_474), ("resnet", {"depth": 32}, 466_906),
    ("resnet", {"depth": 56}, 855_770),
    ("resnet", {"depth": 18, "dataset": "cifar10"}, 11_173_962),
    *[("vgg", {"depth": depth}, total - VGG_BIASES[depth]) for depth, total in CIFAR_VGG.items()],
    *[("vgg", {"depth": depth, "dataset": "imagenet"}, total - VGG_BIASES[depth])
      for depth, total in IMAGENET_VGG.items()],
    ("mobilenet_v1", {"width_multiplier": 1.0, "dataset": "imagenet"}, 4_231_976),
    ("mobilenet_v1", {"width_multiplier": 0.25, "dataset": "imagenet"}, 470_072),
    ("lenet", {}, 61_706)])
def test_parameters_are_the_published_ones(name, options, expected):
    assert n_parameters(meta_model(name, options)) == expected


@pytest.mark.parametrize(("name", "options", "expected"), [
    ("resnet", {"depth": 8}, 77_360), ("autoencoder", {}, 264_192)])
def test_weights_are_those_of_the_mlperf_tiny_files(name, options, expected):
    assert n_weights(meta_model(name, options)) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "expected", "tolerance"), [
    ("resnet", {"depth": 8}, 12_501_632, 0), ("resnet", {"depth": 20}, 40.81e6, 5e3),
    ("resnet", {"depth": 32}, 69.12e6, 5e3), ("resnet", {"depth": 56}, 125.75e6, 5e3),
    ("mobilenet_v1", {}, 7.5e6, 5e4), ("ds_cnn", {}, 2.66e6, 5e3),
    ("autoencoder", {}, 264_192, 0), ("lenet", {}, 416_520, 0),
    ("mlp", {"hidden": [100, 50]}, 784 * 100 + 100 * 50 + 50 * 10, 0),
    pytest.param("vgg", {"depth": 11}, 152.77e6, 5e3, marks=SLOW)])
def test_macs_are_the_published_ones_and_the_program_runs(name, options, expected, tolerance):
    program, _, images = lowered(name, options)
    assert abs(macs(program) - expected) <= tolerance
    answer = run(program, images[:2])[program.outputs[0]]
    assert answer.shape == (2, *program.output.shape)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "expected", "tolerance"), [
    ("resnet", {"depth": 18}, 1.81e9, 5e6),
    pytest.param("resnet", {"depth": 34}, 3.66e9, 5e6, marks=LONG),
    pytest.param("resnet", {"depth": 50}, 4.09e9, 5e6, marks=LONG),
    pytest.param("resnet", {"depth": 101}, 7.80e9, 5e6, marks=LONG),
    ("mobilenet_v1", {"width_multiplier": 1.0, "dataset": "imagenet"}, 569e6, 5e5),
    ("mobilenet_v1", {"width_multiplier": 0.25, "dataset": "imagenet"}, 41e6, 5e5)])
def test_imagenet_networks_lower_and_run(name, options, expected, tolerance):
    program, small, images = lowered(name, options, batch=16, small=(3, 64, 64))
    assert abs(macs(program) - expected) <= tolerance
    assert run(small, images[:1])[small.outputs[0]].shape == (1, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [pytest.param(depth, marks=() if depth == 11 else LONG)
                                   for depth in VGG_MACS])
def test_imagenet_vgg_lowers(depth):
    hidden = 64  # 4096 needs 6 GB of memory; the difference is in the linear layers alone
    program, _, _ = lowered("vgg", {"depth": depth, "dataset": "imagenet", "hidden": hidden}, 2)
    features = 512 * 7 * 7
    left_out = (features + 1000) * (4096 - hidden) + 4096**2 - hidden**2
    assert abs(macs(program) + left_out - VGG_MACS[depth]) <= 5e6


@pytest.mark.parametrize("change", ["an extra block", "a wider layer", "a stride lost"])
def test_the_size_checks_can_fail(change):
    torch.manual_seed(0)
    model = build_model("resnet", {"depth": 8})
    if change == "an extra block":
        model.stacks[0].append(type(model.stacks[0][0])(16, 16, 1, model.stem.config))
    elif change == "a wider layer":
        model = build_model("resnet", {"depth": 8, "width": 17})
    else:
        model.stacks[1][0].conv1.stride = model.stacks[1][0].shortcut.stride = (1, 1)
    model(torch.rand(4, *model.input_shape))
    assert macs(lower(model)) != 12_501_632
    assert (n_weights(model) != 77_360) == (change != "a stride lost")


@pytest.mark.parametrize(("name", "options", "shape"), [
    ("resnet", {"depth": 8}, (3, 32, 32)), ("resnet", {}, (3, 224, 224)),
    ("resnet", {"depth": 20, "dataset": "mnist"}, (1, 28, 28)),
    ("vgg", {}, (3, 32, 32)), ("mobilenet_v1", {}, (3, 96, 96)),
    ("mobilenet_v1", {"input_size": 128}, (3, 128, 128)), ("ds_cnn", {}, (1, 49, 10)),
    ("autoencoder", {}, (640,)), ("autoencoder", {"dataset": "digits"}, (1, 8, 8)),
    ("lenet", {}, (1, 28, 28)), ("mlp", {"dataset": "cifar100"}, (3, 32, 32))])
def test_input_shape(name, options, shape):
    assert meta_model(name, options).input_shape == shape


@pytest.mark.parametrize(("name", "options", "classes"), [
    ("resnet", {"depth": 8}, 10), ("resnet", {"depth": 20, "dataset": "cifar100"}, 100),
    ("resnet", {"depth": 18}, 1000), ("resnet", {"dataset": "folder", "classes": 3}, 3),
    ("mobilenet_v1", {}, 2), ("ds_cnn", {}, 12), ("mlp", {"classes": 7}, 7)])
def test_classes(name, options, classes):
    model = meta_model(name, options)
    last = getattr(model, "classifier", None) or model.last
    assert last.weight.shape[0] == classes


@pytest.mark.parametrize(("name", "options", "rates"), [
    ("resnet", {"depth": 20}, {0: 0.1, 81: 0.01, 122: 1e-3, 164: 1e-4}),
    ("resnet", {"depth": 18}, {0: 0.1, 30: 0.01, 60: 1e-3, 80: 1e-4}),
    ("resnet", {"depth": 18, "dataset": "cifar10"}, {0: 0.1, 81: 0.01, 122: 1e-3, 164: 1e-4})])
def test_regimes_of_the_paper(name, options, rates):
    regime = meta_model(name, options).regime
    assert {entry["epoch"]: entry["lr"] for entry in regime} == rates
    assert regime[0].get("warmup_epochs") == (5 if 30 in rates else None)
    assert (regime[0]["momentum"], regime[0]["weight_decay"]) == (0.9, 1e-4)


@pytest.mark.parametrize("depth", [20, 50])
@pytest.mark.parametrize("zero", [True, False])
def test_last_gamma_of_a_branch(depth, zero):
    model = build_model("resnet", {"depth": depth, "dataset": "cifar10", "width": 4,
                                   "zero_init_residual": zero})
    gammas = {name: parameter for name, parameter in model.named_parameters()
              if name.endswith("norm.weight")}
    last = "conv2" if depth == 20 else "conv3"
    assert len(gammas) > 20
    for name, gamma in gammas.items():
        expected = 0.0 if zero and f".{last}." in name else 1.0
        assert (gamma == expected).all(), name


def test_only_the_autoencoder_has_another_objective():
    assert build_model("autoencoder").objective == "reconstruction"
    assert not hasattr(build_model("mlp"), "objective")


def test_autoencoder_gives_its_input_flat():
    model = build_model("autoencoder", {"dataset": "digits", "hidden": 16, "layers": 2})
    images = torch.rand(64, *model.input_shape)
    assert model(images).shape == images.flatten(1).shape
    widths = [layer.weight.shape[0] for layer in model.hidden]
    assert widths == [16, 16, 8, 16, 16]


def test_ds_cnn_has_the_reference_shapes():
    program, _, _ = lowered("ds_cnn", {})
    assert program.tensors["stem"].shape == (64, 25, 5)
    assert program.tensors["blocks.3.pointwise"].shape == (64, 25, 5)


def test_depthwise_layers_are_grouped():
    program, _, _ = lowered("mobilenet_v1", {"dataset": "cifar10"})
    depthwise = [node.op for node in program.nodes if node.name.endswith("depthwise")]
    assert len(depthwise) == 13
    assert all(isinstance(op, ops.Conv2d) and op.groups == len(op.weights) for op in depthwise)


def test_vgg_classifiers():
    assert len(meta_model("vgg", {}).classifier) == 1
    classifier = meta_model("vgg", {"depth": 16, "dataset": "imagenet"}).classifier
    assert [type(layer).__name__ for layer in classifier] == [
        "QLinear", "Dropout", "QLinear", "Dropout", "QLinear"]
    assert sum(isinstance(module, nn.MaxPool2d) for module in meta_model("vgg", {}).modules()) == 5


@pytest.mark.parametrize(("name", "options", "message"), [
    ("resnet", {"depth": 19}, "Unknown depth 19 of resnet; known: 8, 20, 32, 56 .*, 18, 34, 50"),
    ("resnet", {"depth": [18]}, r"Unknown depth \[18\] of resnet"),
    ("resnet", {"depth": 20, "dataset": "imagenet"}, "Depth 20 of resnet is for images of 32x32"),
    ("resnet", {"width": 0}, "Option width must be a positive integer, not 0"),
    ("resnet", {"dataset": "svhn"}, "Unknown dataset 'svhn'; known: digits, mnist, cifar10"),
    ("resnet", {"dataset": "folder"}, "Dataset folder has no fixed number of classes"),
    ("resnet", {"classes": "ten"}, "Option classes must be a positive integer, not 'ten'"),
    ("resnet", {"zero_init_residual": "no"}, "zero_init_residual must be True or False, not 'no'"),
    ("vgg", {"depth": 18}, "Unknown depth of vgg 18; known: 11, 13, 16, 19"),
    ("vgg", {"dataset": "mnist"}, "vgg needs images of at least 32x32, not 28x28"),
    ("vgg", {"hidden": -1}, "Option hidden must be a positive integer, not -1"),
    ("mobilenet_v1", {"width_multiplier": 0}, "width_multiplier must be from 1/32 to 32, not 0"),
    ("mobilenet_v1", {"width_multiplier": "half"}, "width_multiplier must be .* not 'half'"),
    ("mobilenet_v1", {"input_size": 0}, "Option input_size must be a positive integer"),
    ("mobilenet_v1", {"activation": "gelu"}, "Activation must be one of .* not 'gelu'"),
    ("ds_cnn", {"channels": 0}, "Option channels must be a positive integer, not 0"),
    ("mlp", {"hidden": "wide"}, "Option hidden must be a list of positive integers, not 'wide'"),
    ("mlp", {"hidden": [8, 0]}, "Option hidden must be a positive integer, not 0"),
    ("autoencoder", {"bottleneck": 0}, "Option bottleneck must be a positive integer, not 0"),
    ("lenet", {"dataset": "digits"}, "lenet needs images of at least 12x12, not 8x8")])
def test_bad_options(name, options, message):
    with pytest.raises(LockstepError, match=message):
        build_model(name, options)


@pytest.mark.long
def test_depthwise_layers_learn_where_nothing_is_clipped():
    torch.manual_seed(0)
    data = load_dataset("digits")
    model = build_model("ds_cnn", {"dataset": "digits", "channels": 32})
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(6):
        for images, labels in data.batches(64, seed=0, epoch=epoch):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    images, labels = data.test_sample(360)
    answers = run(lower(model), images.numpy())["classifier"].argmax(1)
    assert (answers == labels.numpy()).mean() > 0.9  # 0.68 to 0.87 with batch_mean
