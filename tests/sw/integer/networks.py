"""Small networks of every kind, with batches for their integer step."""

import numpy as np
import pytest
import torch

from models import build_model
from sw.integer.layers import LABEL
from sw.integer.step import host_inputs, integer_step

#: name: (model, options, images of a batch, (C, H, W) in place of the data set's)
NETWORKS = {
    "digits": ("resnet_digits", {"width": 4}, 8, None),
    "resnet8": ("resnet", {"depth": 8, "width": 4}, 3, (3, 12, 12)),
    "bottlenecks": ("resnet", {"depth": 50, "dataset": "cifar10", "width": 2}, 6, (3, 16, 16)),
    "stem_with_pool": ("resnet", {"depth": 18, "width": 4, "classes": 7}, 6, (3, 64, 64)),
    "ds_cnn": ("ds_cnn", {"channels": 6}, 4, None),
    "mobilenet": ("mobilenet_v1", {"width_multiplier": 0.125}, 18, (3, 32, 32)),
    "mobilenet_relu6": ("mobilenet_v1", {"width_multiplier": 0.125, "activation": "relu6"}, 18,
                        (3, 32, 32)),
    "vgg": ("vgg", {"width": 4}, 18, None),
    "lenet": ("lenet", {"norm": True}, 18, None),
    "mlp": ("mlp", {"hidden": (12, 9)}, 18, None),
}
INPUT_EXPONENT = -6
DEEP = "bottlenecks", "stem_with_pool", "mobilenet", "mobilenet_relu6"
#: The names, for a test of each; the deep ones are slow.
EACH = [pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name for name in NETWORKS]


def network(name, seed=0):
    """(model, images of a batch)."""
    function, options, n_images, shape = NETWORKS[name]
    torch.manual_seed(seed)
    model = build_model(function, options)
    model.input_shape = shape or model.input_shape
    return model, n_images


def step_program(name, **options):
    """(model, its step)."""
    model, n_images = network(name)
    return model, integer_step(model, n_images, input_exponent=INPUT_EXPONENT, **options)


def batch(program, number=0):
    """Random images and labels, and what the host gives."""
    rng = np.random.default_rng(number)
    image, = (name for name in program.inputs if program.tensors[name].batched and name != LABEL)
    n_classes = program.tensors[program.outputs[0]].shape[0]
    shape = program.batch, *program.tensors[image].shape
    return {image: rng.integers(-128, 128, shape).astype(np.int8),
            LABEL: rng.integers(0, n_classes, (program.batch, 1)).astype(np.int8),
            **host_inputs(rate=0.1, decay=1e-4, n_images=program.batch, seed=5, step=number)}
