"""The faults that the tests of `make test` must catch, and which of them guard each module."""

from dataclasses import dataclass

__all__ = ["FAULTS", "Fault"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`new` in place of `old`, which stands once in `file`; some of `tests` must then fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _in(file: str, *tests: str):
    """A function that makes the faults of one file, guarded by the same tests."""
    def fault(name: str, old: str, new: str) -> Fault:
        return Fault(name=name, file=file, old=old, new=new,
                     tests=tuple(f"tests/{test}" for test in tests))
    return fault


_arith = _in("golden/arith.py", "golden/test_arith.py")
_average = _in("golden/arith.py", "golden/test_float_product.py")
_random = _in("golden/random.py", "golden/test_random.py", "golden/test_counter_bits.py")
_digits = _in("golden/digits.py", "golden/test_digits.py")
_product = _in("golden/float_product.py", "golden/test_float_product.py")
_windowed = _in("golden/ops/windowed.py", "golden/ops",
                "hw/compiler/test_compiler_tile.py::test_any_convolution_is_as_golden")
_norm = _in("golden/ops/range_norm.py", "golden/ops/test_range_norm.py")
_lanes = _in("golden/arith.py", "golden/ops/step/test_step_lanes.py")
_exponents = _in("golden/ops/step/exponents.py", "golden/ops/step/test_step_exponents.py")
_step_norm, _step_back, _statistics = (
    _in(f"golden/ops/step/{name}.py", "golden/ops/step/test_step_norm.py")
    for name in ("norm_forward", "norm_backward", "statistics"))
_deviation = _in("golden/ops/step/norm_deviation.py", "golden/ops/step/test_step_norm.py")
_addition = _in("golden/ops/step/addition.py", "golden/ops/step/test_step_addition.py")
_maximum = _in("golden/ops/step/pooling_backward.py", "golden/ops/step/test_step_pooling.py")
_head = _in("golden/ops/step/head.py", "golden/ops/step/test_step_head.py")
_update = _in("golden/ops/step/update.py", "golden/ops/step/test_step_update.py")
_dx = _in("golden/ops/step/convolution_backward.py", "golden/ops/step/test_step_convolution.py")
_compare = _in("golden/program/compare.py", "golden/program/test_compare.py")
_verify = _in("golden/program/verify.py", "golden/program/test_verify.py")
_storage = _in("golden/program/storage.py", "golden/program/test_program.py",
               "golden/program/test_storage.py")
_encoding = _in("golden/program/encoding.py", "golden/program/test_program.py")
_layout = _in("golden/program/layout.py", "golden/program/test_layout.py")

GOLDEN = (
    _arith("a tie goes down", "return (x + ((1 << n) >> 1)) >> n",
           "return (x + ((1 << n) - 1 >> 1)) >> n"),
    _arith("the left shift does not saturate", "saturate(saturate(acc, 32) << left, 32)",
           "(saturate(acc, 32) << left)"),
    _arith("gemmlowp's second rounding without a shift", "(high_half >> 63) * clamp(right, 0, 1)",
           "(high_half >> 63)"),
    _arith("a multiplier that rounds up to its limit", "multiplier >> 1, exponent + 1",
           "multiplier - 1, exponent"),
    _average("an average's ties go up", "return (1 << shift) // count + 1, shift",
              "return (1 << shift) // count, shift"),
    _random("another polynomial", "TAPS = (64, 63, 61, 60)", "TAPS = (64, 63, 61, 59)"),
    _random("an arithmetic shift in the hash", "high &= (1 << 32 - shift) - 1",
            "high &= -1"),
    _digits("a gradient one above the largest", "127 * 256 + 127", "127 * 256 + 128"),
    _product("a step's own accumulator left out", "while t * factor < k - 0.5:",
             "while t * factor <= k - 0.5:"),
    _windowed("stripes forget the dilation", "self.kernel[0] - 1) * self.dilation[0] + 1",
              "self.kernel[0] - 1) + 1"),
    _norm("the mean is not rounded", "arith.round_shift(p.integers(q) * multiplier + bias, shift)",
          "(p.integers(q) * multiplier + bias >> shift)"),
    _norm("chunks one longer", "length = -(-count // N_CHUNKS)",
          "length = count // N_CHUNKS + 1"),
    _lanes("a random constant of a mean below one half", "(2 * as_int64(random) + 1)",
           "(2 * as_int64(random))"),
    _lanes("a shift of 63 is not nothing", "kept = 1 - clamp(shift - SHIFT_MAX, 0, 1)",
           "kept = 1 - clamp(shift - SHIFT_MAX - 1, 0, 1)"),
    _exponents("a quiet step too many", "falls = quiet >> 3 ", "falls = quiet + 7 >> 4 "),
    _step_norm("a slope without range", "signum(gamma) * arith.clamp(spread, 0, 1)",
               "signum(gamma) * arith.clamp(spread + 1, 0, 1)"),
    _step_back("the spike's sign at an extreme", "p.integers(index == low) - p.integers(index == "
               "high)", "p.integers(index == high) - p.integers(index == low)"),
    _step_back("the remainder of the mean is dropped", "sum_gq - sum_g * whole - mean_g * rest",
               "sum_gq - sum_g * whole"),
    _deviation("the remainder of the mean is left out of V", "squares - total * whole - whole * "
               "rest", "squares - total * whole"),
    _deviation("a centre without its slope", "centre = mean - arith.round_shift(slope * middle",
               "centre = mean - arith.round_shift(slope * 0"),
    _deviation("no smallest deviation", "max(self.count >> DEVIATION_SHIFT, 1)", "1"),
    _deviation("a slope of 16 bits", "arith.clamp(length - 15, 0, 2)",
               "arith.clamp(length - 16, 0, 2)"),
    _deviation("a slope beyond the largest", "(arith.clamp(-shift, 0, 1) << 17)", "0"),
    _statistics("the last of equal maxima", "left = p.constant([[length - 1 - index for",
                "left = p.constant([[index for"),
    _addition("a unit too fine for 16 bits", "CODE_LIMIT, GRADIENT_LIMIT = 20, 15",
              "CODE_LIMIT, GRADIENT_LIMIT = 20, 20"),
    _maximum("every maximum of a window", "left = (1 - first) * left", "left = 1"),
    _head("a gradient that does not sum to 0", "gradient = wrong - right * p.sum(wrong, (1,))",
          "gradient = wrong - right * (1 << GRADIENT_FRACTION)"),
    _update("a gradient of the grown codes", "e_ga + 8 - exponent - grown + 8",
            "e_ga + 8 - grown - grown + 8"),
    _dx("the 8-bit gradient of the wrong group", "(groups, -1, channels, *kernel)), (0,",
        "(groups, -1, channels, *kernel))[:, ::-1], (0,"),
    _compare("only larger values differ", "different = actual != expected",
             "different = actual > expected"),
    _verify("one bit less for negative sums", "(value if value >= 0 else ~value).bit_length() + 1",
            "(value if value >= 0 else ~value).bit_length() + (value >= 0)"),
    _verify("sums beyond int32 pass", "if not INT32[0] <= value <= INT32[1]:",
            "if not INT32[0] - 1 <= value <= INT32[1] + 1:"),
    _verify("an output that nothing computes", "name not in ranges or name in program.sources",
            "name not in ranges"),
    _storage("altered arrays are read", '_check_hash(npz_path, document.get("tensors_sha256"), ',
             '_check_hash(npz_path, digest(data), '),
    _storage("a plain Program in the later version", "if version(program) != recorded:",
             "if version(program) > recorded:"),
    _encoding("the hash of an array forgets its shape", "{array.dtype.str} {array.shape}",
              "{array.dtype.str}"),
    _layout("channels last at rank 4 alone", "x.ndim > 2 else x\n\n\ndef to_file",
            "x.ndim == 4 else x\n\n\ndef to_file"),
)

_rounding = _in("sw/quantize/rounding.py", "sw/quantize/test_rounding.py")
_gradients = _in("sw/quantize/gradients.py", "sw/quantize/test_gradients.py")
_ranges = _in("sw/quantize/ranges.py", "sw/quantize/test_ranges.py")
_quantizers = _in("sw/quantize/quantizers.py", "sw/quantize/test_quantizers.py",
                  "sw/quantize/test_recipes.py")
_accumulator = _in("sw/quantize/accumulator.py", "sw/quantize/test_accumulator.py")
_schedule = _in("sw/train/schedule.py", "sw/train/test_schedule.py",
                "sw/train/test_train.py::test_no_weight_decay_on_biases_and_norms")
_equalisation = _in("sw/ptq/equalisation.py", "sw/ptq/test_equalisation.py")
_weights = _in("sw/ptq/weights.py", "sw/ptq/test_weights.py")
_allocation = _in("sw/ptq/allocation.py", "sw/ptq/test_allocation.py")
_integers = _in("sw/lower/integer_form.py", "sw/lower/test_lower.py")

SW = (
    _rounding("pseudo-stochastic rounding of equal halves", "up = (fraction >> half) > (",
              "up = (fraction >> half) >= ("),
    _gradients("the 8-bit copy of the gradient overflows", "GRADIENT16_HIGH = 127 * 256 ",
               "GRADIENT16_HIGH = 128 * 256 "),
    _ranges("a true zero that is no code", "low, high = low.clamp(max=0), high.clamp(min=0)",
            "low, high = low.clamp(max=0), high"),
    _ranges("a power of two that clips", "torch.exp2(torch.ceil(torch.log2(scale)))",
            "torch.exp2(torch.floor(torch.log2(scale)))"),
    _quantizers("PACT learns from below its bound too", "torch.where(x >= bound, gradient, 0.0)",
                "torch.where(x >= 0, gradient, 0.0)"),
    _quantizers("the first batch's range is damped", "torch.where(self.batches == 0, 1.0, ",
                "torch.where(self.batches < 0, 1.0, "),
    _accumulator("sums saturate one too high", "total.clamp(-high, high - 1)",
                 "total.clamp(-high, high)"),
    _schedule("warm-up starts from nothing", "min(1.0, (at + 1) / warm)", "min(1.0, at / warm)"),
    _schedule("norms decay", 'p.dim() <= 1], "weight_decay": 0.0}', "p.dim() <= 1]}"),
    _equalisation("balanced the wrong way", "torch.sqrt(outgoing / incoming)",
                  "torch.sqrt(incoming / outgoing)"),
    _weights("a corrected mean without the deviation", "weight.mean(1) - xi * quantized.mean(1)",
             "weight.mean(1) - quantized.mean(1)"),
    _allocation("bits by another power of the spread", "spread.pow(2 / 3)", "spread.pow(1 / 3)"),
    _integers("a bias rounded down", "bias = np.floor(offset / unit + 0.5)",
              "bias = np.floor(offset / unit)"),
)

_walker = _in("hw/rtl/array/walker.py", "hw/rtl/array/test_walker.py")
_readout = _in("hw/rtl/array/readout.py", "hw/rtl/array/test_readout.py")
_packed = _in("hw/rtl/array/packed.py",
              "hw/rtl/array/test_multiplier.py::test_products_are_exact_on_the_portable_hook")
_feeder = _in("hw/rtl/array/feeder.py", "hw/rtl/array/test_feeder.py")
_vector = _in("hw/rtl/vector/engine.py",
              "hw/rtl/test_accelerator_maxima.py::test_no_maximum_is_lost_however_long_its_bank_is_kept",
              "hw/rtl/test_accelerator_maxima.py::"
              "test_maxima_on_their_way_at_the_end_of_a_run_take_no_room_in_the_next")
_load = _in("hw/rtl/dma/load.py", "hw/rtl/test_accelerator_transfers.py::"
            "test_a_load_is_complete_when_its_last_word_is_written")
_slot = _in("hw/rtl/control/slot.py", "hw/rtl/control/test_slot.py")
_dispatcher = _in("hw/rtl/control/dispatcher.py", "hw/rtl/control/test_dispatcher.py")
_rescaler = _in("hw/rtl/lanes/rescaler.py", "hw/rtl/lanes/test_rescaler.py")
_crossbar = _in("hw/rtl/memory/crossbar.py", "hw/rtl/memory/test_crossbar.py")
_waiting = _in("hw/rtl/memory/waiting.py", "hw/rtl/memory/test_waiting.py")
_bursts = _in("hw/rtl/dma/bursts.py", "hw/rtl/dma/test_dma.py", "hw/rtl/dma/test_dma_errors.py")
_lines = _in("hw/rtl/dma/lines.py", "hw/rtl/dma/test_dma_errors.py")

RTL = (
    _walker("a level steps with every period", """            with m.If(k0.last):
                k1.step()
""", """            k1.step()
"""),
    _walker("a line begins where the last ended", "after.ix.eq(f.ix),", "after.ix.eq(here.ix),"),
    _readout("the next instruction's configuration", "m.d.sync += late_c.eq(c)",
             "m.d.comb += late_c.eq(c)"),
    _packed("a packed product without its borrow", "(difference[-2:] == 0b10)",
            "(difference[-2:] == 0b11)"),
    _feeder("direct bytes one lane apart", "chosen = Cat(turn[:lane], own, turn[lane + 1:])",
            "chosen = Cat(own, turn[1:])"),
    _vector("maxima overrun their queue", "emitter.m_room.eq(on_the_way.room)",
            "emitter.m_room.eq(1)"),
    _vector("a reset forgets maxima but not their count",
            "ResetInserter(own_copy(m, self.reset, \"ways_reset\"))(ways)", "ways"),
    _load("eight pending words count as none", "MAX_PENDING = WaitingQueue.DEPTH + 3",
          "MAX_PENDING = 7"),
    _slot("a chase is ignored", "past | (same & enough)", "past | same"),
    _dispatcher("single steps end with the ring", "goes_on = run.resume & head.kept",
                "goes_on = run.resume & ~head.kept"),
    _rescaler("gemmlowp rounds twice without a shift", "twice=now.gemmlowp & (now.right != 0)",
              "twice=now.gemmlowp"),
    _rescaler("a code at its bound", "near > now.high", "near >= now.high + 2"),
    _crossbar("two ports are granted one bank", "grant.eq(wanted & ~taken)", "grant.eq(wanted)"),
    _crossbar("a pair in the wrong order", "ordered[1].eq(Mux(odd, even_data, odd_data))",
              "ordered[1].eq(odd_data)"),
    _waiting("a queue that overflows", "level + pushed < self.DEPTH - 2",
             "level + pushed < self.DEPTH"),
    _bursts("a burst over the boundary", "Mux(block.all(), self.max_beats - in_block, "
            "self.max_beats)", "self.max_beats"),
    _lines("a line that ends at the region's end", "external_end > self.region_limit",
           "external_end >= self.region_limit"),
)

_machine = _in("hw/machine/machine.py", "hw/machine/test_machine.py")
_transfer = _in("hw/isa/instructions/transfer.py", "hw/machine/test_machine.py",
                "hw/compiler/test_nibbles.py::test_a_load_gives_what_was_packed")
_matmul = _in("hw/isa/instructions/matmul.py", "hw/machine/test_machine_array.py")
_vector = _in("hw/isa/instructions/windows.py", "hw/machine/test_machine_vector.py")
_hazards = _in("hw/machine/hazards.py", "hw/machine/test_hazards.py")
_nibbles = _in("hw/compiler/lowering/nibbles.py",
               "hw/compiler/test_nibbles.py::test_more_than_four_bits_stay_bytes")
_lifetimes = _in("hw/compiler/memory/lifetimes.py", "hw/compiler/test_allocator.py",
                 "hw/compiler/test_compiler.py")
_floors = _in("hw/compiler/scheduling/floors.py", "hw/compiler/test_floors.py")
_placement = _in("hw/compiler/memory/placement.py", "hw/compiler/test_compiler.py")
_pool = _in("hw/compiler/memory/pool.py", "hw/compiler/test_allocator.py",
            "hw/compiler/test_compiler_tile.py")

COMPILER = (
    _machine("indices end at the ring's end", "index = start + count & 0xFFFF",
             "index = (start + count) % self.n_records"),
    _transfer("nibbles in the other order", "low, high = content << 4, content & 0xF0",
              "high, low = content << 4, content & 0xF0"),
    _matmul("the padding is zero", 'values[~inside] = f[f"{port}_pad"]', "values[~inside] = 0"),
    _vector("taps column by column", "chunks * height * width + ky * width + kx",
            "chunks * height * width + kx * height + ky"),
    _hazards("progress of the next unit is enough", "known = other.known[unit + 1]",
             "known = other.known[-1]"),
    _nibbles("-9 passes for four bits", "if (-8 <= codes.min()) and codes.max() <= 7:",
             "if (-9 <= codes.min()) and codes.max() <= 7:"),
    _lifetimes("what ends as another begins shares its place",
               "if other_last < first or other_first > last:",
               "if other_last <= first or other_first > last:"),
    _floors("both directions add up on the bus", "max(moved.values())", "sum(moved.values())"),
    _floors("a port for weights to each instruction",
            "max(ports[record.engine], record.weights_per_cycle)",
            "ports[record.engine] + record.weights_per_cycle"),
    _placement("channels padded in front", "padded[:, :, :channels] = x.transpose(0, 2, 1)",
               "padded[:, :, -channels:] = x.transpose(0, 2, 1)"),
    _pool("live buffers are given away", "if any(buffer.is_live for buffer in within):",
          "if all(buffer.is_live for buffer in within) and len(within) > 1:"),
)

_images = _in("sim/images.py", "sim/test_images.py",
              "sim/test_rtl.py::test_an_error_of_the_hardware_is_raised")
_commands = _in("sim/commands.py",
                "sim/test_rtl.py::test_every_tensor_of_every_program_equals_golden")
_fuzz = _in("sim/fuzz.py", "sim/test_fuzz.py")
_unit = _in("sim/unit.py", "sim/test_unit.py")
_testbench = _in("sim/unit_testbench.py", "sim/test_unit.py")

SIM = (
    _images("errors of the hardware go unseen", "_FAILED = 0b100", "_FAILED = 0b1000"),
    _images("64-bit counters lose their upper half", "int(words[2 * counter + 1]) << 32",
            "int(words[2 * counter + 1]) << 31"),
    _commands("one step runs to the end", "_START | _SINGLE_STEP * single_step", "_START"),
    _fuzz("parameters without their shifts", "rows[:, :3] = self.parameters",
          "rows[:, :2] = self.parameters[:, :2]"),
    _unit("fields most significant first", "bits |= pack(field.shape, value[key]) << field.offset",
          "bits |= pack(field.shape, value[key])"),
    _testbench("an offer may be withdrawn", "assert self.waiting is None, f",
               "assert True, f"),
    _testbench("a surplus payload is not seen", "assert not self.done, f", "assert True, f"),
)

_pointwise = _in("sw/formats/tflite/pointwise.py", "sw/formats/tflite/test_precision.py",
                 "sw/formats/tflite/test_tables.py")
_tables = _in("sw/formats/tflite/tables.py", "sw/formats/tflite/test_tables.py")
_folding = _in("sw/formats/onnx/importer/folding.py", "sw/formats/onnx/importer/test_errors.py")
_exported = _in("sw/formats/onnx/importer/exported.py",
                "sw/formats/onnx/importer/test_exported.py")

FORMATS = (
    _pointwise("RELU's factor in double", '"RELU_N1_TO_1", precision=np.float32)',
               '"RELU_N1_TO_1", precision=np.float64)'),
    _pointwise("a constant factor without its zero point",
               "(int(second.data.item()) - second.zero_point)", "int(second.data.item())"),
    _tables("HARD_SWISH rounds ties up", "-((-values + half) >> exponent))",
            "(values + half) >> exponent)"),
    _tables("a left shift that does not wrap", "(values << left).astype(np.int32)",
            "np.clip(values << left, INT32_MIN, INT32_MAX)"),
    _folding("constants that are no numbers", 'divide="raise", over="raise", invalid="raise"',
             'all="ignore"'),
    _exported("changed constants go unseen",
              '("constants", graph.initializer, again.initializer)',
              '("constants", again.initializer, again.initializer)'),
)

_sim = _in("flows/sim.py", "flows/test_sim.py", "flows/test_sim_streaming.py")

FLOWS = (
    _sim("differences end with status 0", 'return 1 if any(row["differences"] for row in rows)',
         'return 1 if any(row["differences"] > row["values"] for row in rows)'),
    _sim("outputs in the Program's order", "program.output_array(trace[name], name)",
         "trace[name]"),
    _sim("two tensors share a trace's file", 're.sub("[%/', 're.sub("[/'),
)

_dropout = _in("golden/ops/step/dropout.py", "golden/ops/step/test_step_dropout.py")
_parts, _part_statistics = (_in(f"golden/ops/step/{name}.py", "golden/ops/step/test_step_parts.py")
                            for name in ("base", "statistics"))
_hash = _in("golden/random.py", "golden/ops/step/test_step_lanes.py")
_tape, _layers = (_in(f"sw/integer/{name}.py", "sw/integer/test_step.py")
                  for name in ("tape", "layers"))
_state = _in("sw/integer/state.py", "sw/integer/test_step.py")
_inference = _in("sw/integer/inference.py", "sw/integer/test_inference.py")
_integer, _host = (_in(f"sw/integer/{name}.py", "sw/integer/test_train_integer.py")
                   for name in ("train", "step"))
_initial = _in("sw/integer/initial.py", "sw/integer/test_train_integer.py")
_loops, _fused = (_in(f"sw/integer/{name}", "sw/integer/test_passes.py")
                  for name in ("passes.cpp", "passes.py"))
_processes = _in("sw/integer/runner.py", "flows/test_train_integer.py")

INTEGER = (
    _dropout("one code of 256 more is dropped", "arith.clamp(self.drop - bits, 0, 1)",
             "arith.clamp(self.drop - bits + 1, 0, 1)"),
    _parts("every part draws the bits of the first", "first = p.part()[0] * math.prod(shape)",
           "first = 0"),
    _part_statistics("a part's chunks begin at its first code",
                     "start, result = p.part()[0] * own, []", "start, result = 0, []"),
    _hash("a shift of the hash with its sign",
          "return state >> shift & (1 << STATE_WIDTH - shift) - 1", "return state >> shift"),
    _tape("the mask of a reader is lost", "return replace(self.masked(gradient), mask=y.mask)",
          "return replace(gradient, mask=y.mask)"),
    _tape("a third gradient is not added", "for number, part in enumerate(parts[1:]):",
          "for number, part in enumerate(parts[1:1]):"),
    _layers("the gradient of a pixel is that of all", "pixels=x.pixels, tensor_id", "tensor_id"),
    _layers("g8 has no exponent of its own", "(e, *terms), -8)", "(e, *terms), -7)"),
    _state("masters are rounded down", "np.floor(values * 2.0 ** (8 - exponent) + 0.5)",
           "np.floor(values * 2.0 ** (8 - exponent))"),
    _inference("the running spread of another unit", "finer = e_q - self.scalar",
               "finer = e_q + 1 - self.scalar"),
    _inference("a constant channel keeps its weights", "np.where(slope, sign, 0), np.where(slope",
               "sign, np.where(slope"),
    _integer("exponents do not settle", "for _ in range(SETTLE_STEPS):", "for _ in range(1):"),
    _integer("steps are counted by epoch", "step, lr = plan.starts[epoch] + index",
             "step, lr = index"),
    _host("decay is over the images", "*rate_code(rate * decay)",
          "*rate_code(rate * decay / n_images)"),
    _initial("two layers draw the same", "_uniform(seed, number, shape, draw)",
             "_uniform(seed, 1, shape, draw)"),
    _loops("a power of two rounds down", "i64 half = i64(1) << right;", "i64 half = 0;"),
    _loops("gradients that have no digits", "GRADIENT_MAX = 127 * 256 + 127",
           "GRADIENT_MAX = 32767"),
    _loops("a mask of no code lets all pass", "limit > 0 ? u32(limit) - 1 : 0",
           "u32(limit) - 1"),
    _fused("axes of length 1 as they are", "if min(rows, depth, columns) > 1:", "if True:"),
    _fused("a probe that cannot fail", "if not torch.equal(_int8_product(left, right)",
           "if torch.equal(_int8_product(left, right) * 0 + 1"),
    _processes("a watch is that of one process", "self._reduced(value, dist.ReduceOp.MAX)",
               "value"),
)

FAULTS = INTEGER + GOLDEN + SW + RTL + COMPILER + SIM + FORMATS + FLOWS
