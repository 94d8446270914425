"""Layers: the bifurcated gradient against float64, one forward convolution, one output grid."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from golden.errors import LockstepError
from sw.layers.weighted import QAdd, QAvgPool2d, QConv2d, QGlobalAvgPool2d, QInput, QLinear
from sw.quantize.gradients import BifurcatedConv2dFunction, BifurcatedLinearFunction, split_gradient
from sw.quantize.quantizers import EIGHT_BIT
from sw.quantize.recipes import make_recipe

GEOMETRIES = [((1, 1), (1, 1), (1, 1), 1), ((2, 2), (1, 1), (1, 1), 2), ((1, 2), (2, 0), (2, 1), 1)]


def conv_case(groups):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 9, 8, requires_grad=True)
    weight = torch.randn(6, 4 // groups, 3, 3, requires_grad=True)
    bias = torch.randn(6, requires_grad=True)
    return x, weight, bias


def reference_gradients(operation, inputs, gradient):
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    operation(*doubles).backward(gradient.double())
    return [tensor.grad for tensor in doubles]


def share_of_norm(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), GEOMETRIES)
def test_convolution_gradients_use_the_right_copies(stride, padding, dilation, groups):
    inputs = conv_case(groups)
    geometry = stride, padding, dilation, groups
    y = BifurcatedConv2dFunction.apply(*inputs, *geometry, EIGHT_BIT, "conv")
    gradient = torch.randn_like(y)
    torch.manual_seed(7)
    y.backward(gradient)
    torch.manual_seed(7)
    g16, g8 = split_gradient(gradient)

    def operation(x, weight, bias):
        return F.conv2d(x, weight, bias, *geometry)
    from8 = reference_gradients(operation, inputs, g8)
    from16 = reference_gradients(operation, inputs, g16)
    exact = reference_gradients(operation, inputs, gradient)
    x, weight, bias = inputs
    assert share_of_norm(x.grad, from8[0]) < 1e-6
    assert share_of_norm(weight.grad, from16[1]) < 1e-6
    assert share_of_norm(bias.grad, from16[2]) < 1e-6
    # The copies are told apart, and both are gradients of the convolution.
    assert 1e-3 < share_of_norm(x.grad, exact[0]) < 3e-2
    assert share_of_norm(weight.grad, exact[1]) < 1e-3
    assert share_of_norm(x.grad, from16[0]) > 1e-3
    assert share_of_norm(weight.grad, from8[1]) > 1e-3


def test_linear_gradients_use_the_right_copies():
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, requires_grad=True) for shape in ((32, 10), (7, 10), (7,))]
    y = BifurcatedLinearFunction.apply(*inputs, EIGHT_BIT, "linear")
    gradient = torch.randn_like(y)
    torch.manual_seed(7)
    y.backward(gradient)
    torch.manual_seed(7)
    g16, g8 = split_gradient(gradient)
    expected8 = reference_gradients(F.linear, inputs, g8)
    expected16 = reference_gradients(F.linear, inputs, g16)
    assert share_of_norm(inputs[0].grad, expected8[0]) < 1e-6
    assert share_of_norm(inputs[1].grad, expected16[1]) < 1e-6
    assert share_of_norm(inputs[2].grad, expected16[2]) < 1e-6


class CountConvolutions(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.forward = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.forward += function is torch.ops.aten.convolution.default
        return function(*args, **(kwargs or {}))


def test_a_training_step_runs_one_forward_convolution_per_layer():
    layer = QConv2d(3, 8, 3, padding=1)
    with CountConvolutions() as count:
        layer(torch.randn(4, 3, 8, 8, requires_grad=True)).sum().backward()
    assert count.forward == 1


@pytest.mark.parametrize(("layer", "shapes"), [
    (QInput(), [(2, 3, 4, 4)]),
    (QConv2d(3, 8, 3, padding=1, activation="relu"), [(4, 3, 8, 8)]),
    (QConv2d(4, 4, 3, norm=False, groups=4), [(2, 4, 8, 8)]),
    (QLinear(12, 5), [(4, 12)]), (QLinear(12, 5, norm=True, activation="relu6"), [(64, 12)]),
    (QAdd(activation="relu"), [(2, 3, 4, 4)] * 2),
    (QAvgPool2d(2), [(2, 3, 4, 4)]), (QGlobalAvgPool2d(), [(2, 3, 4, 4)])])
def test_outputs_lie_on_the_int8_grid(layer, shapes):
    torch.manual_seed(0)
    layer(*(torch.randn(shape) for shape in shapes))
    y = layer.eval()(*(torch.randn(shape) for shape in shapes))
    scale, zero_point = layer.output.parameters_for_evaluation()
    codes = y.double() / scale + zero_point
    assert (codes - codes.round()).abs().max() < 1e-4
    assert codes.min() > -128.5
    assert codes.max() < 127.5
    if getattr(layer, "activation", None):
        assert zero_point == -128


def test_float_mode_is_a_plain_convolution():
    layer = QConv2d(3, 4, 3, norm=False, config=make_recipe(quantize=False))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias))


def test_unknown_activation():
    with pytest.raises(LockstepError, match="not 'gelu'"):
        QConv2d(3, 4, activation="gelu")


@pytest.mark.parametrize("options", [
    {"stride": 2}, {"stride": (1, 3)}, {"stride": 2, "padding": (1, 0)},
    {"stride": 2, "groups": 2}])
def test_strided_pointwise_convolutions_of_few_channels_are_slices(options):
    """torch's own kernel crashes there in channels_last; see QConv2d._with_geometry."""
    seen = []
    original = F.conv2d

    def conv2d(x, weight, bias=None, stride=1, *arguments):
        seen.append(stride)
        return original(x, weight, bias, stride, *arguments)
    x = torch.randn(8, 4, 7, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    layer = QConv2d(4, 6, 1, norm=False, config=make_recipe(quantize=False), **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "conv2d", conv2d)
        y = layer(x)
        for quantize in (True, False):
            config = make_recipe(quantize=quantize)
            QConv2d(4, 6, 1, config=config, **options)(x)
        QConv2d(8, 6, 1, config=config, stride=2)(torch.randn(8, 8, 4, 4))
    assert seen == [(1, 1), (1, 1), (1, 1), (2, 2)]
    plain = x.detach().contiguous().requires_grad_()
    expected = original(plain, layer.weight, layer.bias, **options)
    assert torch.allclose(y, expected, atol=1e-6)
    gradient = torch.randn_like(y)
    found = torch.autograd.grad(y, [x, layer.weight], gradient)
    wanted = torch.autograd.grad(expected, [plain, layer.weight], gradient.contiguous())
    for mine, other in zip(found, wanted, strict=True):
        assert torch.allclose(mine, other, atol=1e-4)
