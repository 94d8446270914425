"""Distillation brings a quantized network's answers nearer to the float network's."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from golden.errors import LockstepError
from sw.layers.connect import connect
from sw.layers.weighted import QConv2d, QInput, QLinear
from sw.lower.network import lower
from sw.ptq.config import DistillationConfig, PtqConfig
from sw.ptq.distillation import distil
from sw.ptq.folding import fold_norms
from sw.ptq.layers import CodeScale
from sw.ptq.quantize import quantize
from sw.train.evaluate import logits_of
from tests.sw.ptq.floats import FLOAT, float_digits
from tests.sw.trained import digits

FOUR_BITS = PtqConfig(weight_bits=4, activation_bits=4, activation_range="mse")
STEPS = DistillationConfig(steps=40)


def distance(network, images):
    """Mean divergence from the float network's answers."""
    wanted, found = (F.log_softmax(logits_of(each, images), 1)
                     for each in (float_digits(), network))
    return F.kl_div(found, wanted, log_target=True, reduction="batchmean").item()


def scales(network):
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, CodeScale)}


@pytest.fixture(scope="module")
def pair():
    """(network of four bits, the same distilled), calibrated on 256 images."""
    quantized, _ = quantize(float_digits(), digits().train_sample(256)[0], FOUR_BITS)
    distilled = copy.deepcopy(quantized)
    distil(distilled, fold_norms(float_digits()), digits().train_sample(256)[0], STEPS,
           torch.Generator().manual_seed(0))
    return quantized, distilled


def test_answers_to_other_images_come_nearer(pair):
    before, after = (distance(network, digits().test_images) for network in pair)
    assert after < 0.8 * before


def test_only_factors_and_offsets_move(pair):
    quantized, distilled = pair
    before, after = (network.state_dict() for network in pair)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"{name}.{kind}" for name in scales(quantized)
                     for kind in ("factor", "offset")}
    assert all(not value.requires_grad for value in scales(distilled)["stem.norm"].buffers())


@pytest.mark.parametrize(("steps", "moved"), [(1, 1.0), (2, 1.5)])  # the rate falls by a cosine
def test_a_step_moves_each_channel_in_its_own_unit(steps, moved, pair):
    quantized, images = pair[0], digits().train_sample(64)[0]
    distilled, watched, deviations = copy.deepcopy(quantized), copy.deepcopy(quantized), {}
    for name, scale in scales(watched).items():
        scale.register_forward_hook(lambda _, __, y, name=name: deviations.update(
            {name: y.double().transpose(0, 1).flatten(1).std(1, correction=0)}))
    watched(images)
    config = DistillationConfig(steps=steps)
    distil(distilled, fold_norms(float_digits()), images, config, torch.Generator())
    for name, after in scales(distilled).items():
        before = scales(quantized)[name]
        gain = (after.factor / before.factor - 1).abs() / config.learning_rate
        shift = (after.offset - before.offset).abs() / deviations[name] / config.learning_rate
        for found in (gain, shift):
            assert found.max() == pytest.approx(moved, rel=0.05), name


def test_the_network_lowers_to_what_it_computes(pair):
    from golden.program.interpreter import run

    images = digits().test_images
    program = lower(pair[1])
    answers = run(program, images.numpy())[program.outputs[0]].argmax(1)
    assert (answers == logits_of(pair[1], images).argmax(1).numpy()).mean() > 0.99


def test_it_is_part_of_quantize_and_follows_the_seed():
    images = digits().train_sample(80)[0]  # not a multiple of the batch
    networks = [quantize(float_digits(), images, PtqConfig(
        weight_bits=4, distillation=DistillationConfig(steps=3), seed=seed))[0]
        for seed in (0, 0, 1)]
    first, same, other = (scales(network)["stem.norm"].offset for network in networks)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_fewer_images_than_a_batch():
    quantize(float_digits(), digits().train_sample(5)[0], PtqConfig(
        distillation=DistillationConfig(steps=2)))


def test_what_returns_its_input_is_refused():
    model = copy.deepcopy(float_digits())
    model.objective = "reconstruction"
    with pytest.raises(LockstepError, match="Distillation needs a network that gives the logits"):
        quantize(model, digits().test_images[:8], PtqConfig(distillation=STEPS))


@pytest.mark.parametrize("model, shape", [
    (nn.Sequential(QInput(FLOAT), QConv2d(1, 3, 3, config=FLOAT)), "(3, 6, 6)"),
    (nn.Sequential(QInput(FLOAT), nn.Flatten(), QLinear(64, 1, config=FLOAT)), "(1,)")],
    ids=["image", "one value"])
def test_what_gives_no_classes_is_refused(model, shape):
    model.input_shape = (1, 8, 8)
    images = digits().test_images[:8]
    quantize(connect(model), images)
    with pytest.raises(LockstepError, match=re.escape(f"classes, not outputs of shape {shape}")):
        quantize(model, images, PtqConfig(distillation=STEPS))


@pytest.mark.parametrize(("settings", "message"), [
    ({"steps": 0}, "Distillation's steps must be a positive integer"),
    ({"learning_rate": float("nan")}, "Distillation's learning rate must be positive and finite")])
def test_settings_out_of_range(settings, message):
    with pytest.raises(LockstepError, match=message):
        DistillationConfig(**settings)
