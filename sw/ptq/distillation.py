"""Scales and biases tuned to the float network's answers.

Layer by layer, no method sees what its errors become in the layers behind it. Distillation (Hinton,
Vinyals, Dean 2015, arXiv 1503.02531, at temperature 1) does: the quantized network's answers to the
calibration images are drawn to the float network's, by

    KL(softmax(float logits) || softmax(quantized logits))

and what moves are the factor and the offset of every output channel, real numbers that the integer
program holds in its multipliers and biases anyway; codes and ranges stay. Finkelstein, Almog,
Grobman 2019, arXiv 1906.03193, tune biases so.
"""

import torch
from torch import Tensor, nn

from sw.ptq.answers import answers, divergence
from sw.ptq.config import DistillationConfig
from sw.ptq.layers import CodeScale
from sw.ptq.observe import observed
from sw.train.evaluate import prepared

__all__ = ["distil"]


class _TunedScale(nn.Module):
    """A CodeScale whose factor * (1 + gain) and offset + deviation * shift learn.

    deviation: (C,), of the layer's output, so that one learning rate suits both.
    """

    def __init__(self, scale: CodeScale, deviation: Tensor):
        super().__init__()
        self.scale, self.deviation = scale, deviation
        self.gain = nn.Parameter(torch.zeros_like(scale.factor))
        self.shift = nn.Parameter(torch.zeros_like(scale.offset))

    def _values(self) -> tuple[Tensor, Tensor]:
        return (self.scale.factor * (1 + self.gain),
                self.scale.offset + self.deviation * self.shift)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        factor, offset = (values.to(x.dtype).view(shape) for values in self._values())
        return x * factor + offset

    @torch.no_grad()
    def settled(self) -> CodeScale:
        """The CodeScale with what was learned."""
        factor, offset = self._values()
        self.scale.factor.copy_(factor)
        self.scale.offset.copy_(offset)
        return self.scale


def distil(network: nn.Module, reference: nn.Module, images: Tensor, config: DistillationConfig,
           generator: torch.Generator) -> None:
    """Tune the factors and offsets of a quantized network in place.

    reference: the float network. images: (N, C, H, W) float32, drawn from by the generator,
    ``config.batch`` at a time.
    """
    layers = [layer for layer in network.modules()
              if isinstance(getattr(layer, "norm", None), CodeScale)]
    batch = min(config.batch, len(images))
    with torch.no_grad():
        wanted = torch.cat([answers(reference(prepared(reference, part)))
                            for part in images.split(batch)])
    deviations = observed(network, [layer.norm for layer in layers], images[:batch],
                          lambda y: y.double().std(1, correction=0))
    for layer, deviation in zip(layers, deviations):
        layer.norm = _TunedScale(layer.norm, deviation)
    learned = [values for layer in layers for values in (layer.norm.gain, layer.norm.shift)]
    optimizer = torch.optim.Adam(learned, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    order = torch.empty(0, dtype=torch.int64)
    with torch.enable_grad():
        for _ in range(config.steps):
            if len(order) < batch:
                order = torch.randperm(len(images), generator=generator)
            picked, order = order[:batch].to(images.device), order[batch:]
            loss = divergence(answers(network(prepared(network, images[picked]))), wanted[picked])
            gradients = torch.autograd.grad(loss, learned, allow_unused=True)
            for parameter, gradient in zip(learned, gradients):
                parameter.grad = gradient
            optimizer.step()
            schedule.step()
    for layer in layers:
        layer.norm = layer.norm.settled()
