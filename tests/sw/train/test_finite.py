"""Which place is blamed for the first number that is not finite."""

import pytest
import torch
from torch import nn

from sw.train.finite import first_not_finite


class Spoil(nn.Module):
    """Multiplies by a factor on the way forward, and by another on the way back."""

    def __init__(self, forward=1.0, backward=1.0):
        super().__init__()
        self.factors = forward, backward

    def forward(self, x):
        x = x * self.factors[0]
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient * self.factors[1])
        return x


class Block(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return self.body(x)


def blamed(*layers, loss=lambda outputs: outputs.square().sum()):
    torch.manual_seed(1)
    model = Block(nn.Linear(3, 3), *layers, nn.Linear(3, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = first_not_finite(model, lambda copy: loss(copy(torch.ones(2, 3))))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    return found


def test_nothing_to_blame():
    assert blamed(Spoil()) is None


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), float("-inf")])
def test_the_innermost_layer_whose_inputs_are_finite(factor):
    assert blamed(Block(nn.Linear(3, 3), Spoil(factor)), Spoil(factor)) == \
        "the output of layer body.1.body.1"


def test_a_loss_of_finite_outputs():
    assert blamed(Spoil(), loss=lambda outputs: (outputs * 0).sum().log()) == \
        "the loss, of finite network outputs"


def test_the_first_gradient_on_the_way_back():
    infinite = float("inf")
    assert blamed(Spoil(backward=infinite), nn.ReLU(), Spoil(backward=infinite), nn.Tanh()) == \
        "the gradient to the input of layer body.3"


def test_the_gradient_to_a_weight():
    class Steep(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return x + self.weight.sqrt()  # slope 1 / 0
    assert blamed(Steep()) == "the gradient to weight of layer body.1"
