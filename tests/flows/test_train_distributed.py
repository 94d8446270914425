"""flows/train.py under torchrun: two processes of this machine, over gloo."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
# Largest difference of an epoch's mean training loss from that of one process with the doubled
# batch. Float: the same sums in another order, 1e-7 relative a step, grown by 20 steps of SGD at
# rate 0.05. 8 bits: rounding differs by a step of the grid (1/127 of a range) where a sum differs
# in its last bit, other random bits round the gradients, and activation ranges are per process.
FLOAT_BOUND = 1e-4  # 2e-8 measured
EIGHT_BIT_BOUND = 0.02  # 6e-4 measured
ERROR_SECONDS = 15  # 1.1 measured


def train_command(runs, name, batch, *extra):
    return ["flows/train.py", "--model", "resnet_digits", "--model-config", "{'width': 4}",
            "--runs-dir", str(runs), "--save", name, "-b", str(batch), "--lr", "0.05", "--quiet",
            *extra]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def torchrun(*arguments):
    return subprocess.Popen([sys.executable, "-m", "torch.distributed.run", *arguments], cwd=ROOT,
                            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, start_new_session=True)


def alone(arguments):
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment(), check=True,
                   capture_output=True)


def finish(process, seconds=200):
    """(exit status, all output); kills the whole session if it hangs."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out + err


def losses(runs, name):
    return pandas.read_csv(runs / name / "results.csv")["train_loss"]


@pytest.mark.long
@pytest.mark.parametrize(("extra", "bound"), [
    pytest.param(["--recipe", "float"], FLOAT_BOUND, marks=pytest.mark.long),
    ([], EIGHT_BIT_BOUND)])
def test_two_processes_train_as_one_with_the_doubled_batch(tmp_path, extra, bound):
    extra = [*extra, "--sync-norm", "--epochs", "1"]
    status, output = finish(torchrun("--nproc_per_node=2",
                                     *train_command(tmp_path, "two", 64, *extra)))
    assert status == 0, output
    alone(train_command(tmp_path, "one", 128, *extra))
    difference = (losses(tmp_path, "two") - losses(tmp_path, "one")).abs().max()
    print(f"largest difference of an epoch's loss: {difference}")
    assert difference < bound


def workers(process):
    """The process ids of torchrun's training processes."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(word) for word in text.split()]


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.mark.long
def test_killing_a_worker_ends_in_an_error(tmp_path):
    process = torchrun("--nproc_per_node=2",
                       *train_command(tmp_path, "r", 8, "--epochs", "200"))
    wait_for(lambda: (tmp_path / "r" / ".partial.pt").is_file())
    killed = time.monotonic()
    os.kill(workers(process)[-1], signal.SIGKILL)
    status, output = finish(process, ERROR_SECONDS)
    print(f"error after {time.monotonic() - killed:.1f} s")
    assert status != 0
    assert re.search("Signal 9|exitcode: -9|SIGKILL", output.replace("  ", " ")), output
    assert not (tmp_path / "r" / "checkpoint.pt").exists()


@pytest.mark.long
def test_integers_end_alike_after_a_killed_worker_and_with_fewer_processes(tmp_path):
    integer = ["--arithmetic", "integer", "--epochs", "4"]
    process = torchrun("--nproc_per_node=2", *train_command(tmp_path, "r", 60, *integer))
    wait_for(lambda: (tmp_path / "r" / ".partial.pt").is_file())
    os.kill(workers(process)[-1], signal.SIGKILL)
    status, output = finish(process, ERROR_SECONDS)
    assert status != 0 and not (tmp_path / "r" / "checkpoint.pt").exists(), output
    alone(["flows/train.py", "--resume", "--save", "r", "--runs-dir", str(tmp_path), "-b", "120",
           "--quiet"])
    alone(train_command(tmp_path, "whole", 120, *integer))
    killed, whole = (json.loads((tmp_path / name / "config.json").read_text())["state_sha256"]
                     for name in ("r", "whole"))
    assert killed == whole


@pytest.mark.long
def test_an_elastic_restart_continues_from_the_last_epoch(tmp_path):
    process = torchrun("--nproc_per_node=2", "--max-restarts=1",
                       *train_command(tmp_path, "r", 16, "--epochs", "8"))
    wait_for(lambda: (tmp_path / "r" / ".partial.pt").is_file())
    os.kill(workers(process)[0], signal.SIGKILL)
    status, output = finish(process)
    assert status == 0, output
    results = pandas.read_csv(tmp_path / "r" / "results.csv")
    assert list(results["epoch"]) == list(range(8))
    whole, output = finish(torchrun("--nproc_per_node=2",
                                    *train_command(tmp_path, "whole", 16, "--epochs", "8")))
    assert whole == 0, output
    assert list(losses(tmp_path, "whole")) == list(results["train_loss"])


@pytest.mark.long
def test_two_nodes_meet_at_a_rendezvous(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    nodes = [torchrun("--nnodes=2", "--nproc_per_node=1", "--rdzv-backend=c10d",
                      f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=lockstep",
                      *train_command(tmp_path, "r", 64, "--epochs", "1")) for _ in range(2)]
    ended = [finish(node) for node in nodes]
    assert [status for status, _ in ended] == [0, 0], ended
    assert sum("wrote " in output for _, output in ended) == 1  # rank 0 alone
    assert '"processes": 2' in (tmp_path / "r" / "config.json").read_text()


def test_bad_input_is_one_line_of_one_process(tmp_path):
    status, output = finish(torchrun("--nproc_per_node=2",
                                     *train_command(tmp_path, "r", 800)))
    assert status != 0
    assert [line for line in output.splitlines() if line.startswith("error:")] == [
        "error: Batch size 800 times 2 processes is larger than the 1437 training images of digits"]
