"""The stored image: what is written, and what is noticed when it is damaged."""

import json

import numpy as np
import pytest

from golden.errors import LockstepError
from hw.compiler import Image, compile_program
from hw.isa import N_WORDS, AddressWindow
from hw.targets import get_target
from tests import programs
from tests.hw.compiler.compiled import run_image

TARGET = get_target("sim-4x4")
COMPILABLE = [name for name in programs.small_programs() if name != "norm_net"]


@pytest.mark.parametrize("name", COMPILABLE)
def test_images_survive_saving(name, tmp_path):
    program = programs.small_programs()[name]
    image = compile_program(program, TARGET)
    image.save(tmp_path / "a")
    image.save(tmp_path / "b")
    again = Image.load(tmp_path / "a")
    again.save(tmp_path / "c")
    for file in "image.bin", "image.hex", "image.json":
        contents = {(tmp_path / folder / file).read_bytes() for folder in "abc"}
        assert len(contents) == 1, file
    for part in "instructions", "parameters":
        assert np.array_equal(getattr(again, part), getattr(image, part))
    for part in ("program", "program_sha256", "target", "placements", "steps", "inputs", "outputs",
                 "batch", "metadata"):
        assert getattr(again, part) == getattr(image, part)
    x = program.quantize_input(programs.random_codes(program, 1))
    assert np.array_equal(run_image(again, x), run_image(image, x))
    assert len(image.listing().splitlines()) == image.n_instructions
    assert len(image.instructions) == image.n_instructions * N_WORDS
    hexadecimal = (tmp_path / "a" / "image.hex").read_text().split()
    assert (np.array([int(x, 16) for x in hexadecimal], "<u4").tobytes()
            == (tmp_path / "a" / "image.bin").read_bytes())


def test_sections_lie_in_the_windows_of_their_memories():
    image = compile_program(programs.residual_net(), TARGET)
    ends = {AddressWindow.INSTRUCTIONS: 4 * TARGET.instruction_words,
            AddressWindow.PARAMETERS: 16 * TARGET.parameter_words * TARGET.lanes}
    ends |= {AddressWindow.BANK_0 + k: words * TARGET.word_bytes
             for k, words in enumerate(TARGET.bank_words)}
    for address, values in image.sections():
        assert (address & (1 << 28) - 1) + 4 * len(values) <= ends[address >> 28]
    place = image.place(image.inputs[0])
    assert image.bus_address(place) >> 28 == AddressWindow.BANK_0 + place.bank


@pytest.fixture
def saved(tmp_path):
    compile_program(programs.linear_net(), TARGET).save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("file", ["image.bin", "image.json"])
def test_a_missing_file_is_named(saved, file):
    (saved / file).unlink()
    with pytest.raises(LockstepError, match="Image .*: No such file"):
        Image.load(saved)


def test_a_binary_cut_anywhere_is_damaged(saved):
    whole = (saved / "image.bin").read_bytes()
    cuts = {0, 3, 4, 8, 15, 16, 20, 24, len(whole) - 4, len(whole) - 1}
    sections = 16
    for _ in range(3):  # before, inside and behind each section's header
        cuts |= {sections, sections + 4, sections + 8}
        sections += 8 + 4 * int(np.frombuffer(whole, "<u4")[sections // 4 + 1])
    for cut in sorted(cuts):
        (saved / "image.bin").write_bytes(whole[:cut])
        with pytest.raises(LockstepError, match="is damaged"):
            Image.load(saved)


@pytest.mark.parametrize("at", [50, -20])
def test_a_changed_bit_is_damage(saved, at):
    data = bytearray((saved / "image.bin").read_bytes())
    data[at] ^= 4
    (saved / "image.bin").write_bytes(data)
    with pytest.raises(LockstepError, match="is damaged"):
        Image.load(saved)


@pytest.mark.parametrize(("change", "message"), [
    (lambda about: about.pop("target"), "is damaged"),
    (lambda about: about.update(format=1), "its format is 1, not 3"),
    (lambda about: about.update(placements=[1, 2]), "is damaged"),
    (lambda about: about["placements"]["input"].update(colour=3), "is damaged"),
    (lambda about: about.update(target="array-99x1"), "must be one of"),
    (lambda about: about.update(target="sim-8x8"), "image.bin is for configuration"),
])
def test_a_damaged_description_is_one_clear_error(saved, change, message):
    about = json.loads((saved / "image.json").read_text())
    change(about)
    (saved / "image.json").write_text(json.dumps(about))
    with pytest.raises(LockstepError, match=message):
        Image.load(saved)


def test_a_foreign_file_is_damaged(saved):
    (saved / "image.json").write_text("{")
    with pytest.raises(LockstepError, match="is damaged"):
        Image.load(saved)


def test_an_image_of_the_format_before_is_read(tmp_path):
    image = compile_program(programs.linear_net(), get_target("sim-4x4"))
    image.save(tmp_path)
    about = json.loads((tmp_path / "image.json").read_text())
    about |= {"format": 2, "input": about.pop("inputs")[0], "output": about.pop("outputs")[0]}
    for step in about["steps"]:
        step["output"], = step.pop("outputs")
        del step["vector_macs"]
    for place in about["placements"].values():
        for name in ("axes", "dtype", "spare", "symmetric"):
            del place[name]
    (tmp_path / "image.json").write_text(json.dumps(about))
    again = Image.load(tmp_path)
    assert (again.inputs, again.outputs) == (image.inputs, image.outputs)
    assert again.placements == image.placements
    assert [step.outputs for step in again.steps] == [step.outputs for step in image.steps]
