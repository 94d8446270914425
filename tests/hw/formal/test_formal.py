# amaranth: UnusedElaboratable=no
"""The proofs of the rescaler hold, and each is able to fail: a mutant of its stages is refuted."""

import pytest
from amaranth.hdl import Cat

from flows import formal
from hw.formal import rescaler as properties
from hw.rtl.lanes.rescaler import RescalerPipeline

pytestmark = pytest.mark.slow


class SaturatesOneTooLow(RescalerPipeline):
    def front_stages(self, pipe):
        super().front_stages(pipe)
        x = pipe.now.x
        is_highest = ~x[-1] & x[:-1].all()
        pipe.now.x = (x - is_highest)[:len(x)].as_signed()


class InvertsTheSign(RescalerPipeline):
    def product_stages(self, m, pipe):
        super().product_stages(m, pipe)
        pipe.now.p = Cat(pipe.now.p[:-1], ~pipe.now.p[-1]).as_signed()


class ClampsTooLate(RescalerPipeline):
    def output_stages(self, pipe):
        pipe.now.high = (pipe.now.high + 1)[:self.widths.code].as_signed()
        super().output_stages(pipe)


@pytest.mark.parametrize("name", formal.TASKS)
def test_verdict(name, tmp_path):
    verdict = formal.check(name, tmp_path)
    assert verdict.status == formal.TASKS[name][2], verdict.log[-3000:]


@pytest.mark.parametrize(("proof", "mutant"), [
    (properties.FrontProof, SaturatesOneTooLow),
    pytest.param(properties.ProductProof, InvertsTheSign, marks=pytest.mark.long),
    (properties.OutputProof, ClampsTooLate),
    pytest.param(properties.FullProof, ClampsTooLate, marks=pytest.mark.long),
])
def test_each_proof_refutes_a_mutant(proof, mutant, tmp_path):
    verdict = formal.prove("mutant", proof(mutant(widths=proof.widths)), tmp_path)
    assert verdict.status == "FAIL", verdict.log[-3000:]


def test_an_unknown_proof_is_named(capsys):
    with pytest.raises(formal.LockstepError, match="Unknown proof rounding; known are front"):
        formal.main(["rounding"])


def test_traces_are_kept_on_request(tmp_path, capsys):
    assert formal.main(["output", "-o", str(tmp_path / "kept")]) == 0
    assert "output   proven" in capsys.readouterr().out
    assert (tmp_path / "kept" / "output" / "top.sby").exists()
