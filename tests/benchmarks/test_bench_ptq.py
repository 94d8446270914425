"""flows/bench.py ptq: its rows on a small network and random pictures, goals, what is missing."""

import json

import pytest
import torch

from benchmarks import ptq, ptq_brevitas, ptq_methods, ptq_networks, ptq_runtime, ptq_table
from benchmarks.ptq_methods import METHODS, schemes
from benchmarks.ptq_table import recovered_share, rows_of
from cli import command as cli
from flows import bench
from golden.errors import LockstepError
from models import build_model
from sw.data.memory import MemoryDataset
from sw.ptq.config import AdaRoundConfig, PtqConfig
from sw.train.checkpoint import Checkpoint

FLOAT = {"quantize": False, "recipe": "float"}
TINY = ptq_networks.Network(words="Tiny", model="resnet", options={"depth": 8, "width": 4},
                            epochs=2)


def pictures(n_train: int = 64, n_test: int = 40) -> MemoryDataset:
    """A data set in place of CIFAR-10: every class has a brightness."""
    def part(n, seed):
        labels = torch.arange(n) % 10
        noise = torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        return ((noise + labels.view(-1, 1, 1, 1)) * 23).to(torch.uint8), labels
    return MemoryDataset(name="cifar10", train=part(n_train, 0), test=part(n_test, 1),
                         n_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The suite with one small network and few methods; ``bench.main`` with these arguments."""
    few = {name: METHODS[name] for name in ("naive", "aciq", "published")}
    few["all"] = ptq_methods.Method(
        words="all", everywhere=True, program=True, both={"equalise": "weights"},
        weights={"adaround": AdaRoundConfig(iterations=2, patches=32)})
    for module in (ptq_methods, ptq_table):
        monkeypatch.setattr(module, "METHODS", few)
    for module in (ptq_networks, ptq_table):
        monkeypatch.setattr(module, "NETWORKS", {"tiny": TINY})
    monkeypatch.setattr("sw.data.load_dataset", lambda *args, **options: pictures())
    monkeypatch.setattr(ptq_brevitas, "installed", lambda: False)
    return ["ptq", "-o", str(tmp_path), "--images", "16", "--batch-size", "16", "--threads", "1",
            "--device", "cpu"]


def rows_in(folder) -> dict[str, dict]:
    rows = json.loads((folder / "ptq.json").read_text())
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row for row in rows}


def save(path, model="resnet", options=None, dataset="cifar10"):
    options = options or TINY.options | FLOAT | {"zero_init_residual": False}
    torch.manual_seed(0)
    network = build_model(model, options)
    network(pictures().train_images)  # ranges and statistics
    Checkpoint(model=model, model_config=options, dataset=dataset, train_config={}, epochs_done=3,
               history=[], state=network.state_dict()).save(path)
    return f"tiny={path}"


@pytest.mark.long
def test_rows_page_and_what_is_kept(small, tmp_path, monkeypatch, capsys):
    assert bench.main(small) == 0
    rows = rows_in(tmp_path)
    for name in ("float", "w8a8.naive", "w8a8.naive.integer", "w8a8.naive.integer_minus_float",
                 "w8a8.onnxruntime", "w8a4.aciq", "w4a8.all", "w4a4.naive.integer", "w4a4.all",
                 "w4a4.published"):
        assert f"ptq.tiny.{name}" in rows
    assert "ptq.tiny.w8a8.aciq" not in rows
    assert "simulation only: activations have a scale" in rows["ptq.tiny.w4a4.published"]["context"]
    assert "simulation only" not in rows["ptq.tiny.w4a4.all"]["context"]
    assert "ptq.tiny.w4a4.published.integer" not in rows
    assert "trained in float for 2 epochs of cifar10's 64" in rows["ptq.tiny.float"]["context"]
    assert rows["ptq.tiny.float"]["command"].startswith("python flows/bench.py ptq --threads 1")
    assert "pip install 'lockstep[bench]'" in capsys.readouterr().err
    page = (tmp_path / "ptq.md").read_text()
    assert "| method | runs as | Tiny |" in page
    assert "| **W4A4** | |" in page
    assert "and `-bcw` | simulation |" in page

    def again(*args, **options):
        raise AssertionError("computed again")
    monkeypatch.setattr("sw.train.engine.train", again)
    monkeypatch.setattr(ptq, "_quantized", again)
    bench.main(small)
    assert rows_in(tmp_path) == rows
    with pytest.raises(AssertionError, match="computed again"):
        bench.main([*small, "--test-images", "39"])
    monkeypatch.setattr(ptq, "source_hash", lambda: "changed")
    with pytest.raises(AssertionError, match="computed again"):
        bench.main(small)


def test_a_trained_checkpoint_and_several_draws(small, tmp_path, monkeypatch):
    given = save(tmp_path / "float.pt")
    seen = []

    def quantized(run, scheme, seed):
        seen.append((seed, run.calibration(seed)[0, 0, 0, 0].item()))
        return {"simulated": 50.0 + 2 * seed, "integer": 40.0}
    monkeypatch.setattr(ptq, "_quantized", quantized)
    monkeypatch.setattr("sw.train.engine.train", None)
    bench.main([*small, "--checkpoint", given, "--seeds", "2", "--variants", "w4a4"])
    rows = rows_in(tmp_path)
    assert rows["ptq.tiny.w4a4.naive"]["value"] == 51
    assert rows["ptq.tiny.w4a4.naive.standard_deviation"]["value"] == pytest.approx(2**0.5)
    assert "brought in float for 3 epochs" in rows["ptq.tiny.w4a4.naive"]["context"]
    assert not any(".w8a8." in name for name in rows)
    assert len(set(seen)) == 2  # other images for the other seed


def result(simulated, integer=None):
    return [{"simulated": simulated} | ({} if integer is None else {"integer": integer})]


@pytest.mark.parametrize(("best", "share", "met"), [
    (86.0, 80.0, True), (85.9, 79.5, False), (90.5, 102.5, True), (65.0, -25.0, False)])
def test_the_recovered_share_is_that_of_integer_programs(best, share, met):
    rows = {row["name"]: row for row in rows_of("resnet20", {
        "float": result(90.0), "w4a4.naive": result(11.0, 70.0), "w4a4.all": result(12.0, best)},
        "", "")}
    assert rows["ptq.resnet20.w4a4.recovered"]["value"] == pytest.approx(share)
    assert rows["ptq.resnet20.w4a4.recovered"]["met"] is met


def test_nothing_lost_is_no_share():
    assert recovered_share(70.0, 70.0, 71.0) is None
    rows = rows_of("resnet20", {"float": result(70.0), "w4a4.naive": result(70, 71.0),
                                "w4a4.all": result(70, 71.0)}, "", "")
    assert not any("recovered" in row["name"] for row in rows)


@pytest.mark.parametrize(("value", "met"), [(75.1, True), (74.9, True), (75.11, False),
                                            (74.89, False)])
def test_eight_bits_must_be_near_float(value, met):
    rows = {row["name"]: row for row in rows_of(
        "resnet20", {"float": result(75.0), "w8a8.naive": result(0.0, value)}, "", "")}
    assert rows["ptq.resnet20.w8a8.naive.integer_minus_float"]["met"] is met


def test_a_wrong_integer_program_misses_the_goal(small, tmp_path, monkeypatch):
    given = save(tmp_path / "float.pt")
    arguments = [*small, "--checkpoint", given, "--variants", "w8a8"]
    model, _ = ptq_networks.load("tiny", tmp_path / "float.pt", pictures())
    answers = model(pictures().test_images).argmax(1)  # what it says of them counts as right
    data = pictures()
    data._splits["test"] = data._splits["test"][0], answers
    monkeypatch.setattr("sw.data.load_dataset", lambda *args, **options: data)
    monkeypatch.setattr("sw.executor.run", lambda program, x: {
        program.outputs[0]: torch.nn.functional.one_hot((answers + 1) % 10, 10)[:len(x)]})
    bench.main(arguments)
    row = rows_in(tmp_path)["ptq.tiny.w8a8.naive.integer_minus_float"]
    assert (row["value"], row["met"]) == (-100, False)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--networks", "resnet21"], "Unknown network 'resnet21'; known: tiny"),
    (["--variants", "w2a2"], "Unknown variant 'w2a2'; known: w8a8, w8a4"),
    (["--checkpoint", "float.pt"], "--checkpoint takes NETWORK=FILE, not 'float.pt'"),
    (["--checkpoint", "vgg=float.pt"], "there is no network 'vgg' among tiny"),
    (["--checkpoint", "tiny=none.pt"], "There is no checkpoint none.pt"),
    (["--images", "65"], "Option --images must be at most 64, the images of cifar10, not 65"),
    (["--test-images", "41"], "Option --test-images must be at most 40"),
    (["--images", "0"], "Images must be at least 1, not 0")])
def test_bad_options(small, arguments, message):
    with pytest.raises(LockstepError, match=message):
        bench.main([*small, *arguments])


def test_bad_checkpoints(small, tmp_path):
    (tmp_path / "noise.pt").write_bytes(b"\x00" * 1000)
    for given, message in (
            (f"tiny={tmp_path / 'noise.pt'}", "is damaged or not a checkpoint"),
            (save(tmp_path / "a.pt", "lenet", {"dataset": "cifar10"} | FLOAT), "not resnet"),
            (save(tmp_path / "b.pt", dataset="digits"), "was trained on digits, not on cifar10"),
            (save(tmp_path / "c.pt", options=TINY.options), "was trained with quantization")):
        with pytest.raises(LockstepError, match=message):
            bench.main([*small, "--checkpoint", given])


def test_a_missing_data_set_is_one_line_and_exit_2(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("LOCKSTEP_DATA", raising=False)
    with pytest.raises(SystemExit) as exit_:
        cli.run(bench.main, ["ptq", "-o", str(tmp_path / "out"), "--datasets-dir", str(tmp_path)])
    assert exit_.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "cifar10" in lines[0].lower()
    assert not (tmp_path / "out").exists()


def test_blocks_hold_what_concerns_their_widths():
    assert list(schemes("w8a8")) == ["naive", "logits", "all"]
    assert not {"aciq", "mse", "channels"} & {*schemes("w4a8")}
    assert not {"allocation", "adaround", "bias_correction"} & {*schemes("w8a4")}
    assert list(schemes("w4a4")) == list(METHODS)
    everything = schemes("w4a4")["all"].config
    assert everything.simulation_only is None
    assert everything.equalise and everything.adaround and everything.allocate_weights
    simulated = {name for name, scheme in schemes("w4a4").items() if scheme.config.simulation_only}
    assert simulated == {"channels", "channels_aciq", "channels_allocation", "published"}


PLAIN = [("resnet", {"depth": 8, "width": 4}), ("vgg", {"depth": 11, "width": 4}),
         ("mobilenet_v1", {"width_multiplier": 0.125, "dataset": "cifar10"}),
         ("mobilenet_v1", {"width_multiplier": 0.125, "dataset": "cifar10",
                           "activation": "relu6"})]


@pytest.fixture(params=PLAIN, ids=lambda entry: entry[0])
def network(request):
    torch.manual_seed(0)
    model = build_model(request.param[0], request.param[1] | FLOAT)
    model(pictures().train_images)  # running statistics of its norms
    return model.eval()


@torch.no_grad()
def test_peers_get_the_same_float_network(network):
    from sw.layers.graph import trace
    from sw.ptq.folding import fold_norms

    images = pictures().test_images[:8]
    expected = network(images)
    _, steps, output = trace(fold_norms(network))
    found = ptq_brevitas.plain_network(steps, output)(images)
    assert torch.allclose(found, expected, atol=1e-4 * expected.abs().max().item())
    found = torch.from_numpy(ptq_runtime.logits(ptq_runtime.float_onnx(network), images.numpy(), 1))
    assert torch.allclose(found, expected, atol=1e-4 * expected.abs().max().item())


@torch.no_grad()
def test_onnx_runtime_quantizes_it(network):
    images = pictures().train_images[:8]
    expected = network(images).numpy()
    model = ptq_runtime.quantized(ptq_runtime.float_onnx(network), images.numpy())
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) > 8
    difference = abs(ptq_runtime.logits(model, images.numpy(), 1) - expected).max()
    assert 0 < difference < 0.3 * abs(expected).max()


@pytest.mark.parametrize("strong", [False, True])
def test_brevitas_quantizes_it(network, strong):
    pytest.importorskip("brevitas", reason="the extra bench is not installed")
    data = pictures()
    with torch.no_grad():
        answers = network(data.test_images).argmax(1)
    found = ptq_brevitas.accuracy(network, data.train_images[:16], (data.test_images, answers),
                                  PtqConfig(weight_bits=8, activation_bits=8), strong=strong)
    assert found > 70
