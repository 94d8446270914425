"""Captured activations feed the integer RangeBN, which stays within one code of float64."""

import numpy as np

from golden.ops.range_norm import RangeNormConfig, range_norm_reference
from sw.train.capture import capture_norms
from tests.sw.trained import digits, trained_digits


def test_captured_tensors_drive_the_integer_range_norm():
    model = trained_digits()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = capture_norms(model, digits().train_images[:37])
    assert [batch.name for batch in batches] == [
        "stem", "block1.conv1", "block1.conv2", "block2.conv1", "block2.conv2", "block2.shortcut"]
    assert all(state[name].equal(tensor) for name, tensor in model.state_dict().items())
    for batch in batches:
        n, channels, height, width = batch.codes.shape
        assert batch.codes.dtype == np.int8
        assert np.ptp(batch.codes.astype(int)) > 100
        assert len(batch.gamma) == channels
        op = RangeNormConfig.from_floats(count=n * height * width, **batch.arguments())
        difference = op(batch.codes).astype(int) - range_norm_reference(batch.codes,
                                                                        **batch.arguments())
        assert abs(difference).max() <= 1
        assert (difference != 0).mean() < 0.01
        assert batch.low == (batch.output_zero_point if "conv1" in batch.name
                             or batch.name == "stem" else -128)
