"""Checkpoint files: what they hold, older ones, damaged ones, foreign ones."""

from dataclasses import replace

import pytest
import torch

from golden.errors import LockstepError
from models import build_model
from sw.train.checkpoint import FORMAT, Checkpoint, load_checkpoint, make_checkpoint, versions
from sw.train.engine import TrainConfig, train
from tests.sw.trained import digits

OPTIONS = {"width": 4}


@pytest.fixture(scope="module")
def made() -> Checkpoint:
    """After one epoch, with averaged weights."""
    torch.manual_seed(2)
    model, kept = build_model("resnet_digits", OPTIONS), []
    config = TrainConfig(epochs=1, batch_size=700, average_weights=0.9)

    def keep(result, state):
        kept.append(make_checkpoint(state, name="resnet_digits", model_config=OPTIONS,
                                    dataset="digits", train_config=config, history=[result]))
    train(model, digits(), config, on_epoch=keep)
    return kept[0]


@pytest.fixture
def saved(made, tmp_path):
    made.save(tmp_path / "c.pt")
    return tmp_path / "c.pt"


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_was_saved_is_loaded(made, saved):
    loaded = load_checkpoint(saved, model="resnet_digits")
    assert loaded.format == FORMAT and loaded.versions == versions()
    assert (loaded.epochs_done, loaded.history) == (1, made.history)
    assert TrainConfig(**loaded.train_config) == TrainConfig(epochs=1, batch_size=700,
                                                             average_weights=0.9)
    assert equal(loaded.state, made.state) and equal(loaded.averaged, made.averaged)
    moments, expected = (each.optimizer["state"] for each in (loaded, made))
    assert moments.keys() == expected.keys() and len(moments) > 10
    assert all(equal(moments[key], expected[key]) for key in moments)
    assert [path.name for path in saved.parent.iterdir()] == ["c.pt"]  # the temporary is gone


def test_the_averaged_weights_are_evaluated_and_the_others_trained_on(made):
    evaluated, trained = (build_model("resnet_digits", OPTIONS) for _ in range(2))
    made.restore(evaluated)
    made.restore_training(trained)
    assert equal(trained.state_dict(), made.state)
    assert torch.equal(evaluated.stem.weight, made.averaged["module.stem.weight"])
    assert not torch.equal(evaluated.stem.weight, trained.stem.weight)
    replace(made, averaged=None).restore(evaluated)
    assert equal(evaluated.state_dict(), made.state)


def test_a_file_of_the_first_format(saved):
    content = torch.load(saved, weights_only=True)
    for name in ("averaged", "world_size", "versions"):
        del content[name]
    torch.save(content | {"format": "lockstep-checkpoint-1"}, saved)
    loaded = load_checkpoint(saved)
    assert (loaded.averaged, loaded.world_size, loaded.format) == (None, 1, FORMAT)
    model = build_model("resnet_digits", OPTIONS)
    loaded.restore(model)
    assert equal(model.state_dict(), content["state"])
    torch.save(content | {"format": FORMAT}, saved)  # the new format has these fields
    with pytest.raises(LockstepError, match="not a Lockstep checkpoint"):
        load_checkpoint(saved)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:len(b) // 2],
                                    lambda b: b"no checkpoint", lambda b: b[100:]])
def test_a_damaged_file(saved, damage):
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(LockstepError, match="c.pt is damaged or not a checkpoint"):
        load_checkpoint(saved)


class Foreign:
    """Would run code when unpickled."""

    def __reduce__(self):
        return pytest.fail, ("code of a checkpoint ran",)


def test_pickled_code_is_not_run(saved):
    torch.save({"format": FORMAT, "model": Foreign()}, saved)
    with pytest.raises(LockstepError, match="damaged or not a checkpoint"):
        load_checkpoint(saved)


@pytest.mark.parametrize("content", [
    {"weight": torch.zeros(2)}, [1, 2], torch.zeros(2), {"format": "lockstep-checkpoint-3"},
    {"format": FORMAT}])
def test_a_foreign_file(saved, content):
    torch.save(content, saved)
    with pytest.raises(LockstepError, match=f"is not a Lockstep checkpoint of format {FORMAT}"):
        load_checkpoint(saved)


def test_another_model_and_other_weights(saved, tmp_path):
    with pytest.raises(LockstepError, match="is of model resnet_digits, not lenet"):
        load_checkpoint(saved, model="lenet")
    with pytest.raises(LockstepError, match="weights do not fit model resnet_digits with options"):
        load_checkpoint(saved).restore(build_model("resnet_digits", {"width": 8}))
    with pytest.raises(LockstepError, match="There is no checkpoint .*none.pt"):
        load_checkpoint(tmp_path / "none.pt")


def test_a_failed_writing_keeps_the_file_before(made, saved, monkeypatch):
    before = saved.read_bytes()

    def full(content, path):
        path.write_bytes(b"half")
        raise OSError("No space left on device")
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        made.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["c.pt"]
