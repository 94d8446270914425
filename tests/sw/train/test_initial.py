"""A network that begins from another one computes the same, whatever its norms divide by."""

import pytest
import torch

from golden.errors import LockstepError
from models import build_model
from sw.layers.norms import Norm
from sw.train.initial import copy_weights, match_norms

KINDS = {"batch": {"recipe": "float"},
         "range": {"quantize": False},
         "l1": {"quantize": False, "overrides": {"norm.kind": "l1"}},
         "chunks": {"quantize": False, "overrides": {"norm.chunks": 4}}}


def network(kind, seed=0):
    torch.manual_seed(seed)
    model = build_model("resnet", {"depth": 8, "width": 4, **KINDS[kind]})
    for norm in model.modules():
        if isinstance(norm, Norm):
            norm.weight.data = torch.rand_like(norm.weight) + 0.5
            norm.bias.data = torch.randn_like(norm.bias)
    return model


@pytest.mark.parametrize(("before", "after"), [("batch", "range"), ("batch", "l1"), ("l1", "range"),
                                               ("l1", "batch"), ("range", "batch"),
                                               ("range", "range")])
def test_the_outputs_of_a_batch_stay(before, after):
    images = torch.randn(16, 3, 16, 16) ** 3        # not normally distributed
    source, model = network(before), network(after, 1)
    copy_weights(source, model, "it")
    plain = network(after, 1)
    copy_weights(source, plain, "it")
    wanted = source.train()(images)
    match_norms(source, model, [images])
    assert torch.allclose(model.train()(images), wanted, rtol=1e-3, atol=1e-3)
    if before != after:
        assert not torch.allclose(plain.train()(images), wanted, rtol=1e-2, atol=1e-2)


def test_the_ratio_is_the_mean_over_batches():
    parts = [torch.randn(16, 3, 16, 16) ** 3 for _ in range(3)]
    source, gammas = network("batch"), []
    for batches in ([part] for part in parts), [parts]:
        for batch in batches:
            model = network("range", 1)
            copy_weights(source, model, "it")
            match_norms(source, model, iter(batch))
            gammas.append(torch.cat([norm.weight for norm in model.modules()
                                     if isinstance(norm, Norm)]))
    assert torch.allclose(torch.stack(gammas[:3]).mean(0), gammas[3], rtol=1e-4)
    assert not torch.allclose(gammas[0], gammas[3], rtol=1e-2)


def test_a_norm_of_the_same_kind_stays():
    source, model = network("batch"), network("batch", 1)
    copy_weights(source, model, "it")
    match_norms(source, model, [torch.randn(8, 3, 16, 16)])
    for one, other in zip(source.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_another_network_is_named():
    torch.manual_seed(0)
    wide = build_model("resnet", {"depth": 8, "width": 8})
    with pytest.raises(LockstepError, match=r"Checkpoint a.pt has no stem.weight of shape \(4, 3"):
        copy_weights(wide, network("range"), "a.pt")
