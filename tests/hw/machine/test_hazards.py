"""The order check: a sound program passes, and each wait that is taken away is missed."""

import numpy as np
import pytest

from golden.errors import LockstepError
from hw.isa import EXTERNAL, INSTRUCTIONS, N_WORDS, Engine, LocalMemory, Opcode, decode, encode
from hw.machine.hazards import check
from hw.targets import get_target

TARGET = get_target("sim-8x8-axi")
LINES, WIDTH = 8, 8  # of all tensors, 8 channels: a word per pixel
X, Y, Z, OUT = 0, 100, 200, 300  # first words: X in bank 0, Y and Z in 2, weights in 1


def load(memory, base, n_lines=1, words=LINES * WIDTH, external=0, **sync):
    return {"opcode": Opcode.LOAD, "local_memory": memory, "local_base": base, "n_lines": n_lines,
            "line_words": words, "external_base": external, "external_step": 8 * words,
            "local_step": words, **sync}


def store(memory, base, n_lines=1, words=LINES * WIDTH, external=1 << 16, **sync):
    return load(memory, base, n_lines, words, external, **sync) | {"opcode": Opcode.STORE}


def product(source, out, weights=0, **sync):
    """Pointwise, 8 to 8 channels; (bank, base) of source and output."""
    return {"opcode": Opcode.MATMUL, "slots": 8, "period_count": 1, "inner_count": 1,
            "outer_count": LINES, "n_pixels": LINES * WIDTH, "n_channels": 8, "out_step": 1,
            "out_bank": out[0], "out_base": out[1], "a_bank": source[0],
            "a_base": 8 * source[1], "a_x_step": 8, "b_bank": 1, "b_base": weights, "b_feed": 1,
            "b_x_step": 1, **sync}


def depthwise(source, out, weights=8, **sync):
    return {"opcode": Opcode.DEPTHWISE, "x_bank": source[0], "x_base": source[1], "w_bank": 1,
            "w_base": weights, "n_chunks": 1, "width": WIDTH, "height": LINES,
            "out_width": WIDTH, "out_height": LINES, "stride_x": 1, "stride_y": 1, "left": 1,
            "top": 1, "line_step": WIDTH, "out_bank": out[0], "out_base": out[1], "out_step": 1,
            "n_channels": 8, **sync}


def add(first, second, out, **sync):
    return {"opcode": Opcode.ADD, "x_bank": first[0], "x_base": first[1], "y_bank": second[0],
            "y_base": second[1], "n_chunks": 1, "out_width": LINES * WIDTH, "out_bank": out[0],
            "out_base": out[1], "out_step": 1, "n_channels": 8, **sync}


def chase(engine, number, first, step):
    return {"chase": 1, "chase_engine": engine, "chase_number": number, "chase_first": first,
            "chase_step": step}


def verify(program):
    check([decode(encode(**f)) for f in program], TARGET)


def network():
    """Weights, parameters and input are loaded; a product, a window, a sum, a store follow."""
    return [
        load(1, 0, words=17), load(LocalMemory.PARAMETERS, 0, words=16, external=1024),
        load(0, X, n_lines=LINES, words=WIDTH, external=4096),
        product((0, X), (2, Y), wait_load=2, **chase(Engine.LOAD, 2, WIDTH, WIDTH)),
        depthwise((2, Y), (3, Z), wait_load=2, **chase(Engine.ARRAY, 0, 2 * WIDTH, WIDTH)),
        add((3, Z), (2, Y), (2, Y), wait_vector=1),
        store(2, Y, n_lines=LINES, words=WIDTH, **chase(Engine.VECTOR, 1, WIDTH, WIDTH)),
        load(0, X, words=LINES * WIDTH, wait_array=1),
    ]


def test_a_sound_program_passes():
    verify(network() + [{"opcode": Opcode.HALT}, product((0, X), (2, Y))])
    check([encode(**f) for f in network()], TARGET)


@pytest.mark.parametrize("index, change, message", [
    (3, {"wait_load": 0, "chase": 0}, r"3 \(MATMUL\) reads 0..63 of BANK_0 .*2 \(LOAD\) has wr"),
    (3, {"chase": 0}, r"3 \(MATMUL\) reads 0..63 of BANK_0 perhaps before instruction 2 \(LOAD\)"),
    (3, {"chase_first": 0}, r"3 \(MATMUL\) reads 0..63 of BANK_0 perhaps"),
    (3, {"chase_step": 0}, r"3 \(MATMUL\) reads 8..63 of BANK_0 perhaps"),
    (4, {"chase": 0}, r"4 \(DEPTHWISE\) reads 100..163 of BANK_2 .* 3 \(MATMUL\) has written it"),
    (4, {"chase_first": WIDTH}, r"4 \(DEPTHWISE\) reads 108..163 of BANK_2"),
    (4, {"chase_step": 0}, r"4 \(DEPTHWISE\) reads 116..163 of BANK_2"),
    (4, {"wait_load": 0}, r"4 \(DEPTHWISE\) reads 8..16 of BANK_1 .* 0 \(LOAD\) has written it"),
    (5, {"wait_vector": 0}, r"5 \(ADD\) reads 200..263 of BANK_3 .* 4 \(DEPTHWISE\) has written"),
    (6, {"chase": 0}, r"6 \(STORE\) reads 100..163 of BANK_2 .* 5 \(ADD\) has written it"),
    (6, {"chase_first": 0}, r"6 \(STORE\) reads 100..163 of BANK_2"),
    (7, {"wait_array": 0}, r"7 \(LOAD\) writes 0..63 of BANK_0 .* 3 \(MATMUL\) has read it"),
])
def test_each_missing_wait_is_found(index, change, message):
    program = network()
    program[index] |= change
    with pytest.raises(LockstepError, match=message):
        verify(program)


def test_a_chase_up_to_the_end_of_a_producer_waits_for_it():
    program = network()
    program[4] |= {"chase_first": LINES * WIDTH + 1, "chase_step": 0}
    verify(program)


def test_progress_comes_in_whole_units_of_the_producer():
    program = network()
    program[4] |= {"chase_first": WIDTH + 1}
    verify(program)
    program[5] |= {"wait_vector": 0, **chase(Engine.VECTOR, 0, 1, 1)}
    verify(program)


def test_weights_of_the_vector_engine_do_not_wait_for_its_chase():
    program = [load(1, 8, words=9), depthwise((2, Y), (3, Z), **chase(Engine.LOAD, 0, 9, 0))]
    with pytest.raises(LockstepError, match=r"1 \(DEPTHWISE\) reads 8..16 of BANK_1"):
        verify(program)
    verify([load(2, Y), depthwise((2, Y), (3, Z), **chase(Engine.LOAD, 0, 64, 0))])
    verify([load(1, 0), product((0, X), (3, Z), **chase(Engine.LOAD, 0, 64, 0))])


def test_products_of_one_engine_are_pipelined():
    program = [product((0, X), (2, Y)), product((2, Y), (3, Z))]
    with pytest.raises(LockstepError, match=r"1 \(MATMUL\) reads 100..163 of BANK_2"):
        verify(program)
    for sync in {"wait_array": 1}, chase(Engine.ARRAY, 0, 8, 8):
        verify([program[0], program[1] | sync])
    verify([program[0], program[0]])  # results in order
    verify([program[0], product((3, Z), (0, X))])  # reads in order, before the results


def test_writes_of_the_vector_engine_are_in_order():
    maximum = depthwise((2, Y), (3, Z)) | {"opcode": Opcode.MAXPOOL, "kernel_width": 1,
                                           "kernel_height": 1}
    other = depthwise((2, Y), (3, Z))
    verify([other, maximum])
    verify([maximum, other])  # although words of maxima take another way
    with pytest.raises(LockstepError, match=r"2 \(MATMUL\) writes 200..263 of BANK_3"):
        verify([maximum, other, product((0, X), (3, Z), wait_vector=1)])


def test_what_the_producer_waited_for_is_over_too():
    program = [load(0, X), product((0, X), (2, Y), wait_load=1),
               add((2, Y), (0, X), (3, Z), wait_array=1),
               store(3, Z, wait_vector=1), load(2, Y, wait_store=1)]
    verify(program)
    with pytest.raises(LockstepError, match=r"4 \(LOAD\) writes .* 2 \(ADD\) has read it"):
        verify(program[:4] + [load(2, Y, wait_array=1)])
    # Through a chase: a unit has begun, so its own needs were met.
    chased = add((0, X), (2, Y), (3, Z), **chase(Engine.ARRAY, 0, 8, 0))
    with pytest.raises(LockstepError, match=r"2 \(ADD\) reads 108..163 of BANK_2"):
        verify([program[0], program[1], chased])
    chased["chase_first"] = 64
    verify([program[0], program[1], chased])
    chased["chase_first"] = 0
    with pytest.raises(LockstepError, match=r"2 \(ADD\) reads 0..\d+ of BANK_0 .* 0 \(LOAD\)"):
        verify([program[0], program[1], chased])


def test_a_sync_orders_what_comes_behind_it():
    program = [load(0, X), {"opcode": Opcode.SYNC, "wait_load": 1}, product((0, X), (2, Y))]
    verify(program)
    program[1]["wait_load"] = 0
    with pytest.raises(LockstepError, match=r"2 \(MATMUL\) reads 0..63 of BANK_0"):
        verify(program)


def test_instructions_must_be_loaded_before_their_fetch():
    one = load(LocalMemory.INSTRUCTIONS, 3 * N_WORDS, words=2, external=512)
    sync = {"opcode": Opcode.SYNC, "wait_load": 1}
    idle = {"opcode": Opcode.SYNC}
    verify([one, sync, idle, idle])
    with pytest.raises(LockstepError, match=r"3 \(SYNC\) is fetched from \d+..\d+ of INST"):
        verify([one, idle, idle, sync])
    one["local_base"] = 0
    verify([one, idle, idle, idle])


def test_external_memory_is_ordered():
    program = [store(0, X, external=4096), load(2, Y, external=4096)]
    with pytest.raises(LockstepError, match=r"1 \(LOAD\) reads 4096..4600 of external memory"):
        verify(program)
    verify([program[0], program[1] | {"wait_store": 1}])
    verify([program[0], load(2, Y, external=8192)])
    with pytest.raises(LockstepError, match=r"1 \(STORE\) writes .* 0 \(LOAD\) has read it"):
        verify([load(2, Y, external=4096), program[0]])


def test_parameters_are_ordered():
    program = [load(LocalMemory.PARAMETERS, 4, words=2), product((0, X), (2, Y))]
    with pytest.raises(LockstepError, match=r"1 \(MATMUL\) reads 1..1 of PARAMETERS"):
        verify(program)
    verify([program[0], product((0, X), (2, Y), n_channels=1)])
    with pytest.raises(LockstepError, match=r"1 \(LOAD\) writes 1..1 of PARAMETERS"):
        verify(program[::-1])


def test_an_addition_works_in_place_but_not_shifted():
    verify([add((2, Y), (3, Z), (2, Y))])
    verify([add((2, Y), (3, Z), (2, Y - 1))])
    with pytest.raises(LockstepError, match=r"0 \(ADD\) writes 101..163 of BANK_2"):
        verify([add((2, Y), (3, Z), (2, Y + 1))])
    with pytest.raises(LockstepError, match=r"0 \(DEPTHWISE\) writes 100..163 of BANK_2"):
        verify([depthwise((2, Y), (2, Y))])
    verify([depthwise((2, Y), (2, Y - 2 * WIDTH))])


def test_what_can_never_happen_is_refused():
    with pytest.raises(LockstepError, match="waits for 1 instructions of the engine VECTOR"):
        verify([product((0, X), (2, Y), wait_vector=1), add((2, Y), (2, Y), (3, Z))])
    with pytest.raises(LockstepError, match="follows number 0 of the engine ARRAY, but only 0"):
        verify([product((0, X), (2, Y), **chase(Engine.ARRAY, 0, 0, 0))])
    with pytest.raises(LockstepError, match=r"0 \(MATMUL\) is refused by the hardware"):
        verify([product((0, X), (2, Y), slots=1)])


def footprint(f):
    """Of what can matter."""
    return INSTRUCTIONS[f["opcode"]].footprint(decode(encode(**f)), TARGET, needed=True)


def accessed(f):
    """({memory: words read}, {memory: words written}) of an instruction."""
    done = footprint(f)
    return tuple({memory: np.unique(np.concatenate(
        [extent.words for extent in extents if extent.memory == memory])).tolist()
        for memory in {extent.memory for extent in extents}}
        for extents in (done.reads, done.writes))


def test_words_without_influence_are_left_out():
    reads, writes = accessed(product((0, X), (2, Y), n_pixels=9, n_channels=3))
    assert reads[0] == list(range(X, X + 9)) and writes[2] == list(range(Y, Y + 9))
    assert reads[LocalMemory.PARAMETERS] == list(range(3))
    # Bytes behind the slots that are used: 8 of 64 pixels begin within the last word.
    dense = product((0, X), (2, Y), a_x_step=3, slots=8)
    assert accessed(dense)[0][0] == list(range(-(-(63 * 3 + 8) // 8)))
    reads, writes = accessed(depthwise((2, Y), (3, Z), height=4, out_height=2, stride_y=2))
    assert reads[2] == list(range(Y, Y + 4 * WIDTH)) and len(writes[3]) == 2 * WIDTH
    reads, writes = accessed(product((0, X), (2, Y), wide=1, plane_step=70, n_pixels=2))
    assert writes[2] == [Y + 70 * q + n for q in range(4) for n in range(2)]
    assert LocalMemory.PARAMETERS not in reads
    reads, writes = accessed(load(LocalMemory.PARAMETERS, 4, words=3, external=80))
    assert reads[EXTERNAL] == [10, 11, 12] and writes[LocalMemory.PARAMETERS] == [1, 2]


def test_units_of_a_window():
    done = footprint(depthwise((2, Y), (3, Z)))
    x = done.reads[0]
    lines = np.arange(LINES).repeat(WIDTH)
    assert x.first.tolist() == np.maximum(lines - 1, 0).tolist()
    assert x.last.tolist() == np.minimum(lines + 1, LINES - 1).tolist()
    assert done.progress.tolist() == [WIDTH * (n + 1) for n in range(LINES)]
