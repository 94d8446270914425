"""Placements, packing, orientation, capacity, refusals, and the stored image."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.errors import LockstepError
from golden.ops import Reshape
from hw.compiler import Image, Placement, compile
from hw.compiler.allocate import place_tensors
from hw.compiler.emit import Emitter
from hw.isa import N_WORDS, Opcode, decode
from hw.targets import get_target
from tests import programs

TARGET = get_target("sim-4x4")
COMPILABLE = [name for name in programs.small_programs() if name != "norm_net"]


@st.composite
def branching_programs(draw):
    """Programs whose tensors live for very different times."""
    make = programs.Maker("branching", (draw(st.integers(1, 9)), 3, 2), seed=0)
    alike, every = [make.input], [make.input]
    for _ in range(draw(st.integers(1, 10))):
        kind = draw(st.sampled_from(["clamp", "add", "conv", "pool", "flatten"]))
        x = draw(st.sampled_from(alike))
        if kind == "clamp":
            alike.append(make.clamp(x, -100, 100))
        elif kind == "add":
            alike.append(make.add(x, draw(st.sampled_from(alike))))
        elif kind == "conv":
            every.append(make.conv(x, draw(st.integers(1, 20))))
        elif kind == "pool":
            every.append(make.max_pool(x, (1, 1), (1, 1)))
        else:
            every.append(make.clamp(make.flatten(x), -9, 9))
        every.append(alike[-1])
    return make.program(draw(st.sampled_from([x for x in every if x != make.input])
                             if len(set(every)) > 1 else st.just(every[0])))


@settings(max_examples=60)
@given(branching_programs(), st.sampled_from(["sim-4x4", "array-3x5", "array-2x16"]))
def test_no_tensor_is_overwritten_while_it_is_needed(program, name):
    """Play the program on a memory that remembers whose each word is."""
    places = place_tensors(program, get_target(name))
    memory, content = {}, {}

    def write(tensor):
        place = places[tensor]
        content[tensor] = tensor
        memory.update(dict.fromkeys(range(place.base, place.base + place.n_words), tensor))

    def check(tensor):
        place = places[tensor]
        assert {memory[word] for word in range(place.base, place.base + place.n_words)} == {
            content[tensor]}

    write(program.inputs[0])
    for node in program.nodes:
        if isinstance(node.op, Reshape):
            check(node.inputs[0])
            content[node.outputs[0]] = content[node.inputs[0]]
        else:
            write(node.outputs[0])  # before the check: the output must spare the inputs too
            for tensor in node.inputs:
                check(tensor)
        check(node.outputs[0])
    check(program.outputs[0])
    assert max(memory) < get_target(name).bank_words[1]


@settings(max_examples=60)
@given(st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5)), st.integers(2, 16),
       st.integers(0, 3))
def test_unpack_inverts_pack(shape, word_bytes, n_images):
    place = Placement(bank=1, base=0, shape=shape, stored=shape, word_bytes=word_bytes)
    x = np.random.default_rng(0).integers(-128, 128, (n_images, *shape)).astype(np.int8)
    words = place.pack(x)
    assert words.shape == (n_images, place.n_words, word_bytes)
    assert np.array_equal(place.unpack(words), x)
    assert np.count_nonzero(words) == np.count_nonzero(x), "padding channels are 0"


def products(image):
    words = image.instructions.reshape(-1, N_WORDS)
    fields = [decode([int(w) for w in instruction]) for instruction in words]
    return [f for f in fields if f["opcode"] == Opcode.MATMUL]


def test_orientation_follows_the_shape_of_the_layer():
    """One pixel, many channels: channels on the longer side; many pixels, few channels: pixels."""
    linear = programs.linear_net()
    assert {p["swap"] for p in products(compile(linear, get_target("array-16x2")))} == {1}
    assert {p["swap"] for p in products(compile(linear, get_target("array-2x16")))} == {0}
    make = programs.Maker("wide", (4, 16, 16), seed=0)
    image = compile(make.program(make.conv(make.input, 2)), get_target("array-16x2"))
    assert [p["swap"] for p in products(image)] == [0]


@pytest.mark.parametrize("name", ["sim-4x4", "array-16x8"])
def test_channels_that_start_between_lanes_leave_one_by_one(name):
    make = programs.Maker("joined", (3, 4, 4), seed=0)
    joined = make.concat(make.input, make.clamp(make.input, -5, 5))
    target = get_target(name)
    unaligned = [p for p in products(compile(make.program(joined), target))
                 if p["out_byte"] % target.lanes]
    assert unaligned
    assert all(p["swap"] for p in unaligned)


def smaller(**sizes):
    return replace(TARGET, name="small", **sizes)


@pytest.mark.parametrize(("sizes", "message"), [
    ({"bank_words": (16384, 20)},
     r"activations need \d+ scratchpad words of 4 bytes, there are 20"),
    ({"bank_words": (100, 16384)}, r"weights need \d+ scratchpad words of 4 bytes, there are 100"),
    ({"parameter_words": 3}, r"per-channel parameters need \d+ channels, there are 12"),
    ({"instruction_words": 64}, r"instructions need \d+ words, there are 64"),
])
def test_what_does_not_fit_says_how_much_is_needed(sizes, message):
    with pytest.raises(LockstepError,
                       match=f"Program 'residual' does not fit target small: {message}$"):
        compile(programs.residual_net(), smaller(**sizes))


def test_what_is_needed_is_enough():
    program = programs.residual_net()
    image = compile(program, TARGET)
    peak = max(place.base + place.n_words for place in image.placements.values())
    sizes = {"bank_words": (len(image.weights), peak), "instruction_words": len(image.instructions),
             "parameter_words": len(image.parameters) // TARGET.lanes}
    exact = compile(program, smaller(**sizes))
    assert np.array_equal(exact.instructions, image.instructions)
    for name, limit in sizes.items():
        for index in range(2) if name == "bank_words" else [None]:
            fewer = (limit - 1 if index is None
                     else tuple(n - (k == index) for k, n in enumerate(limit)))
            with pytest.raises(LockstepError, match="does not fit"):
                compile(program, smaller(**sizes | {name: fewer}))


def test_an_unsupported_operator_names_its_node():
    program = programs.norm_net()
    node = next(node for node in program.nodes if type(node.op).__name__ == "RangeNorm")
    with pytest.raises(LockstepError, match=f"Node '{node.name}': operator RangeNorm does not run"):
        compile(program, TARGET)


@pytest.mark.parametrize("kind", ["conv", "pool", "concat"])
def test_images_behind_a_reshape_name_the_node(kind):
    make = programs.Maker("flat", (4, 3, 3), seed=0)
    flat = make.flatten(make.input)
    if kind == "concat":
        make.concat(flat, flat)
        message = "joins tensors along the channels only"
    else:
        op = programs.ops.Reshape(shape=(6, 3, 2))
        image = make._append("image", op, [flat], *make._quantization(flat))
        make.conv(image, 2) if kind == "conv" else make.max_pool(image)
        message = "behind a reshape does not run"
    program = make.program(make.nodes[-1].outputs[0])
    with pytest.raises(LockstepError, match=f"Node '{program.nodes[-1].name}': .*{message}"):
        compile(program, TARGET)


def test_a_field_out_of_range_names_program_and_field():
    with pytest.raises(LockstepError, match="Program 'p': Instruction field 'n_pixels' must be"):
        Emitter(target=TARGET, program="p")._emit(opcode=1, n_pixels=1 << 24)


@pytest.mark.parametrize("name", COMPILABLE)
def test_images_survive_saving(name, tmp_path):
    image = compile(programs.small_programs()[name], TARGET)
    image.save(tmp_path / "a")
    image.save(tmp_path / "b")
    again = Image.load(tmp_path / "a")
    again.save(tmp_path / "c")
    for file in "image.bin", "image.hex", "image.json":
        contents = {(tmp_path / folder / file).read_bytes() for folder in "abc"}
        assert len(contents) == 1, file
    for part in "instructions", "parameters", "weights":
        assert np.array_equal(getattr(again, part), getattr(image, part))
    for part in ("program", "program_sha256", "target", "placements", "steps", "input", "output"):
        assert getattr(again, part) == getattr(image, part)
    assert len(image.listing().splitlines()) == image.n_instructions
    hexadecimal = (tmp_path / "a" / "image.hex").read_text().split()
    assert (np.array([int(x, 16) for x in hexadecimal], "<u4").tobytes()
            == (tmp_path / "a" / "image.bin").read_bytes())


@pytest.fixture
def saved(tmp_path):
    compile(programs.linear_net(), TARGET).save(tmp_path)
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


@pytest.mark.parametrize(("change", "message"), [
    (lambda about: about.pop("target"), "is damaged"),
    (lambda about: about.update(placements=[1, 2]), "is damaged"),
    (lambda about: about["placements"]["input"].update(colour=3), "is damaged"),
    (lambda about: about.update(target="array-99x1"), "must be in 2"),
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
