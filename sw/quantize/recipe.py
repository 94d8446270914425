"""What is quantized while a network trains, and how: one record per kind of tensor.

The kinds follow the survey's letters: W weight, A activation, E error (the gradient that flows to
the layer's input), G gradient to the weight, U update (the stored weight after the optimizer's
step), the normalization's statistics, and the accumulator. ``sw/quantize/recipes.py`` names
complete recipes; any field may be replaced by its dotted name, ``{"weight.bits": 4}``.
"""

import dataclasses
import difflib
from dataclasses import dataclass, field, replace
from typing import Any

from golden.errors import LockstepError

__all__ = ["AccumulatorRecipe", "FLOAT", "LayerRecipe", "NormRecipe", "RANDOM_ROUNDINGS",
           "ROUNDINGS", "Recipe", "STATIC_RANGES", "TensorRecipe", "with_overrides"]

FORMATS = ("integer", "fp8_e4m3", "fp8_e5m2")
SCALES = ("float", "power_of_two", "shift", "multiplier")
GRANULARITIES = ("tensor", "channel", "group", "sample")
STATIC_RANGES = ("min_max", "percentile", "mse", "aciq_laplace", "aciq_gauss", "aciq_mix")
RANGES = (*STATIC_RANGES, "batch_mean", "ema", "pact", "clamp")
ROUNDINGS = ("half_up", "gemmlowp", "half_even", "half_away", "floor", "stochastic",
             "pseudo_stochastic")
RANDOM_ROUNDINGS = ("stochastic", "pseudo_stochastic")
GRIDS = ("uniform", "dorefa", "ternary")
NORMS = ("range", "batch", "l1", "frozen", "none")
RANGE_CONSTANTS = ("code", "paper", "exact")
RANGE_GRADIENTS = ("deviation", "extremes")
OVERFLOWS = ("wrap", "saturate")


def _one_of(field_name: str, value, known: tuple) -> None:
    if value not in known:
        raise LockstepError(f"Option {field_name} must be one of {', '.join(map(str, known))}, "
                            f"not {value!r}")


def _integer(field_name: str, value, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise LockstepError(f"Option {field_name} must be an integer from {low} to {high}, "
                            f"not {value!r}")


def _flag(field_name: str, value) -> None:
    if not isinstance(value, bool):
        raise LockstepError(f"Option {field_name} must be True or False, not {value!r}")


def _fraction(field_name: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise LockstepError(f"Option {field_name} must be in (0, 1], not {value!r}")


@dataclass(frozen=True, kw_only=True)
class TensorRecipe:
    """Quantization of one kind of tensor.

    bits: 2-16 (from 1 for a dorefa grid, 2 for a ternary, 8 for fp8); None leaves it in float32.
    format: ``integer``, or emulated 8-bit floating point, which is no integer machine's.
    scale: ``float``; ``power_of_two`` (rounded up); ``shift`` (nearest power of two); or
        ``multiplier``, M0 * 2^-n with M0 of ``multiplier_bits`` bits.
    granularity: one scale per ``tensor``, per ``channel`` (axis 0 of a weight, axis 1 of an
        activation), per ``group`` of group_size consecutive channels, or per ``sample`` (errors).
    range: how [low, high] is found; ``batch_mean`` averages the samples' extremes, ``ema`` uses
        the running range in training too, ``aciq_*`` the clip of least error for that
        distribution (``mix``: whichever errs less on the values), ``mse`` the clip of least error
        on the values, ``percentile`` leaves out 100 - ``percentile`` % on each side, ``pact`` is a
        learned upper bound, ``clamp`` the constant ``clamp``.
    symmetric: zero point 0 and codes of +-(2^(bits-1) - 1); else 0 is any code.
    rounding: of training; evaluation rounds half up where training draws or derives random bits.
    clipped: ``pass`` or ``mask`` the gradient of clipped values.
    delay: batches before quantization starts; the range is followed from the first.
    grid: ``uniform``; ``dorefa`` (no zero: odd multiples); ``ternary`` (weights in {-s, 0, s}).
    clamp_decay: coefficient of the L2 penalty on a learned bound.
    normalise: of the gradient to the weight: with scale ``shift`` in units of the power of two
        nearest the maximum (WAGE), else in units of the stored weight's grid step (NITI).
    """

    bits: int | None = 8
    format: str = "integer"
    scale: str = "float"
    multiplier_bits: int = 31
    granularity: str = "tensor"
    group_size: int = 1
    range: str = "min_max"
    percentile: float = 99.99
    clamp: float = 1.0
    clamp_decay: float = 0.0
    symmetric: bool = True
    rounding: str = "half_up"
    clipped: str = "pass"
    delay: int = 0
    momentum: float = 0.1
    grid: str = "uniform"
    normalise: bool = False

    def __post_init__(self):
        for name, known in (("format", FORMATS), ("scale", SCALES), ("range", RANGES),
                            ("granularity", GRANULARITIES), ("rounding", ROUNDINGS),
                            ("clipped", ("pass", "mask")), ("grid", GRIDS)):
            _one_of(name, getattr(self, name), known)
        if self.bits is not None:
            _integer("bits", self.bits, 1 if self.grid == "dorefa" else 2, 16)
            if self.format != "integer" and self.bits != 8:
                raise LockstepError(f"Option bits must be 8 for format {self.format}, not "
                                    f"{self.bits}")
            if self.grid == "ternary" and self.bits != 2:
                raise LockstepError(f"Option bits must be 2 for grid ternary, not {self.bits}")
        _integer("multiplier_bits", self.multiplier_bits, 1, 31)
        _integer("group_size", self.group_size, 1, 2**20)
        _integer("delay", self.delay, 0, 2**31 - 1)
        _fraction("momentum", self.momentum)
        _flag("symmetric", self.symmetric)
        _flag("normalise", self.normalise)
        if isinstance(self.percentile, bool) or not isinstance(self.percentile, (int, float)) \
                or not 50 < self.percentile <= 100:
            raise LockstepError(f"Option percentile must be in (50, 100], not "
                                f"{self.percentile!r}")
        if isinstance(self.clamp, bool) or not isinstance(self.clamp, (int, float)) \
                or not 0 < self.clamp < float("inf"):
            raise LockstepError(f"Option clamp must be a positive number, not {self.clamp!r}")
        if isinstance(self.clamp_decay, bool) or not isinstance(self.clamp_decay, (int, float)) \
                or not 0 <= self.clamp_decay < float("inf"):
            raise LockstepError(f"Option clamp_decay must be a finite number of 0 or more, not "
                                f"{self.clamp_decay!r}")

    @property
    def enabled(self) -> bool:
        """True if the tensor is quantized at all."""
        return self.bits is not None

    @property
    def code_bounds(self) -> tuple[int, int]:
        """Smallest and largest code."""
        high = 2**(self.bits - 1) - 1
        return (-high if self.symmetric else -high - 1), high


FLOAT = TensorRecipe(bits=None)


@dataclass(frozen=True, kw_only=True)
class NormRecipe:
    """The normalization after a convolution or linear layer.

    kind: ``range`` (RangeBN), ``batch`` (ordinary), ``l1`` (sigma = sqrt(pi/2) E|x - mu|),
        ``frozen`` (ordinary, running statistics in training too), ``none``.
    constant, chunks: RangeBN's C(n) and the number of chunks whose ranges are averaged.
    range_gradient: the gradient of RangeBN's scale is that of a constant times the standard
        ``deviation``, or falls on the ``extremes`` of the chunks, as published.
    quantize_input: the activation quantizer in front of RangeBN's statistics (training only).
    quantize_gradient: the gradient entering the norm is quantized as the error is.
    fold: quantize the weights with the norm's factor folded in, corrected for the batch's
        deviation until ``freeze_after`` batches, then with running statistics (needs ``batch``).
    synchronise: statistics of the batches of all processes.
    momentum: weight of the newest batch in the running statistics (torch's convention).
    """

    kind: str = "range"
    constant: str = "code"
    range_gradient: str = "deviation"
    chunks: int = 16
    momentum: float = 0.1
    quantize_input: bool = True
    quantize_gradient: bool = True
    fold: bool = False
    freeze_after: int | None = None
    synchronise: bool = False

    def __post_init__(self):
        _one_of("kind", self.kind, NORMS)
        _one_of("constant", self.constant, RANGE_CONSTANTS)
        _one_of("range_gradient", self.range_gradient, RANGE_GRADIENTS)
        _integer("chunks", self.chunks, 1, 2**20)
        _fraction("momentum", self.momentum)
        for name in ("quantize_input", "quantize_gradient", "fold", "synchronise"):
            _flag(name, getattr(self, name))
        if self.freeze_after is not None:
            _integer("freeze_after", self.freeze_after, 0, 2**31 - 1)
        if self.range_gradient != RANGE_GRADIENTS[0] and self.kind != "range":
            raise LockstepError(f"Option norm.range_gradient needs norm.kind range, not "
                                f"{self.kind}")
        if self.fold and self.kind != "batch":
            raise LockstepError(f"Option norm.fold needs norm.kind batch, not {self.kind}")


@dataclass(frozen=True, kw_only=True)
class AccumulatorRecipe:
    """Width of the sum of products. bits None: exact. overflow: ``wrap`` or ``saturate`` (once,
    at the end of the sum; partial sums are exact)."""

    bits: int | None = None
    overflow: str = "wrap"

    def __post_init__(self):
        if self.bits is not None:
            _integer("bits", self.bits, 4, 32)
        _one_of("overflow", self.overflow, OVERFLOWS)


@dataclass(frozen=True, kw_only=True)
class LayerRecipe:
    """Weight and activation bits of one kind of layer; None: those of the recipe."""

    bits: int | None = None

    def __post_init__(self):
        if self.bits is not None:
            _integer("bits", self.bits, 2, 16)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is quantized while it trains; part of every checkpoint.

    bifurcated: the gradient to the weight is computed from its own copy of the incoming gradient
        (``gradient``); False: from the same rounded copy as the gradient to the input (``error``).
    gradient_of: ``input`` quantizes the incoming gradient before the product, ``product`` the
        gradient to the weight itself.
    conv, linear, ends: bits of those layers; ends are the weights of the first and last one.
    learning_rate: of a method whose updates are in units of the weights' grid; the model then
        trains with plain SGD of this rate. None: with its own regime.
    initialise: of the weights; ``wage`` is uniform, no smaller than the grid, with a power-of-two
        factor behind the layer that undoes the enlargement.
    quantize: False gives the float32 baseline of the same graph.
    """

    name: str = "banner"
    quantize: bool = True
    weight: TensorRecipe = field(default_factory=lambda: TensorRecipe(granularity="channel"))
    activation: TensorRecipe = field(
        default_factory=lambda: TensorRecipe(symmetric=False))
    error: TensorRecipe = field(default_factory=lambda: TensorRecipe(rounding="stochastic"))
    gradient: TensorRecipe = field(default_factory=lambda: TensorRecipe(bits=16))
    update: TensorRecipe = FLOAT
    statistics: TensorRecipe = FLOAT
    norm: NormRecipe = NormRecipe()
    accumulator: AccumulatorRecipe = AccumulatorRecipe()
    conv: LayerRecipe = LayerRecipe()
    linear: LayerRecipe = LayerRecipe()
    ends: LayerRecipe = LayerRecipe()
    learning_rate: float | None = None
    initialise: str = "kaiming"
    bifurcated: bool = True
    gradient_of: str = "input"

    def __post_init__(self):
        _flag("quantize", self.quantize)
        _flag("bifurcated", self.bifurcated)
        _one_of("initialise", self.initialise, ("kaiming", "wage"))
        _one_of("gradient_of", self.gradient_of, ("input", "product"))
        if self.learning_rate is not None and (
                isinstance(self.learning_rate, bool)
                or not isinstance(self.learning_rate, (int, float))
                or not 0 < self.learning_rate < float("inf")):
            raise LockstepError(f"Option learning_rate must be a positive number, not "
                                f"{self.learning_rate!r}")
        if self.weight.enabled and self.weight.rounding in RANDOM_ROUNDINGS:
            raise LockstepError(
                f"Option weight.rounding cannot be {self.weight.rounding}: a stored weight must "
                f"have one code in evaluation; set update.rounding, which rounds what is stored")
        self._allow("weight", (*STATIC_RANGES, "clamp"),
                    ("tensor", "channel", "group"))
        self._allow("activation", RANGES, ("tensor", "channel", "group"))
        for kind in ("error", "gradient"):
            self._allow(kind, ("min_max", "aciq_laplace", "aciq_gauss", "clamp"),
                        ("tensor", "channel", "group", "sample"))
        for kind in ("update", "statistics"):
            self._allow(kind, ("min_max", "clamp"), ("tensor", "channel", "group"))
        for kind in ("weight", "error", "gradient", "update", "statistics"):
            if not getattr(self, kind).symmetric:
                raise LockstepError(f"Option {kind}.symmetric must be True; only activations have "
                                    f"a zero point")
        for kind in ("weight", "error", "gradient", "update", "statistics"):
            if getattr(self, kind).delay:
                raise LockstepError(f"Option {kind}.delay must be 0; only activations have a delay")
        if self.activation.range == "pact":
            self._require("activation.range pact", {"activation.symmetric": False,
                                                    "activation.scale": "float",
                                                    "activation.granularity": "tensor"})
        for kind in ("weight", "error", "gradient"):
            if getattr(self, kind).grid == "dorefa":
                self._require(f"{kind}.grid dorefa", {f"{kind}.scale": "float"})
        if self.norm.fold:  # what a machine keeps are the folded weights
            self._require("norm.fold", {"statistics.bits": None})
        if self.gradient_of == "product" and self.gradient.granularity == "sample":
            raise LockstepError("Option gradient.granularity cannot be sample with gradient_of "
                                "product: the gradient to a weight has no samples")
        if self.accumulator.bits is not None and (
                self.activation.granularity != "tensor"
                or not all(recipe.enabled and recipe.format == "integer"
                           for recipe in (self.activation, self.weight))):
            raise LockstepError("Option accumulator.bits needs integer weights and activations "
                                "with one scale per activation tensor")
        grids = {"weight": GRIDS, "error": ("uniform", "dorefa"), "gradient": ("uniform", "dorefa")}
        for kind in ("weight", "activation", "error", "gradient", "update", "statistics"):
            _one_of(f"{kind}.grid", getattr(self, kind).grid, grids.get(kind, ("uniform",)))
            if getattr(self, kind).normalise and kind != "gradient":
                raise LockstepError(f"Option {kind}.normalise must be False; only the gradient to "
                                    f"the weight is normalised")
        for kind in ("update", "statistics"):
            _one_of(f"{kind}.format", getattr(self, kind).format, ("integer",))
        for kind in ("conv", "linear"):
            bits = getattr(self, kind).bits
            if bits is not None and not (self.weight.enabled or self.activation.enabled):
                raise LockstepError(f"Option {kind}.bits needs quantized weights or activations; "
                                    f"set weight.bits or activation.bits")
            try:
                _with_bits(self.weight, bits)
                _with_bits(self.activation, bits)
            except LockstepError as error:
                raise LockstepError(f"Option {kind}.bits: {error}") from None

    def _allow(self, kind: str, ranges: tuple, granularities: tuple) -> None:
        recipe = getattr(self, kind)
        _one_of(f"{kind}.range", recipe.range, ranges)
        _one_of(f"{kind}.granularity", recipe.granularity, granularities)

    def _require(self, cause: str, values: dict[str, Any]) -> None:
        """Raise LockstepError for a field without effect, or with a wrong one, beside cause."""
        for dotted, value in values.items():
            kind, name = dotted.split(".")
            found = getattr(getattr(self, kind), name)
            if found != value:
                raise LockstepError(f"Option {dotted} must be {value} with {cause}, not {found!r}")

    def tensor(self, kind: str) -> TensorRecipe:
        """The record of a kind of tensor, FLOAT where nothing is quantized."""
        return getattr(self, kind) if self.quantize else FLOAT

    def for_layer(self, kind: str) -> "Recipe":
        """The recipe of one layer; kind "conv" or "linear" puts that kind's bits in force for
        what is quantized at all."""
        bits = getattr(self, kind).bits
        if bits is None:
            return self
        return replace(self, weight=_with_bits(self.weight, bits),
                       activation=_with_bits(self.activation, bits))


def _with_bits(recipe: TensorRecipe, bits: int | None) -> TensorRecipe:
    return recipe if bits is None or not recipe.enabled else replace(recipe, bits=bits)


def _check_field(record: Any, path: list[str], dotted: str) -> None:
    """Raise LockstepError unless the path leads to a field that is not a record."""
    names = [entry.name for entry in dataclasses.fields(record)]
    if path[0] not in names:
        near = difflib.get_close_matches(path[0], names, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise LockstepError(f"Recipe has no field {dotted!r}; known here: {', '.join(names)}{hint}")
    current = getattr(record, path[0])
    if len(path) > 1:
        if not dataclasses.is_dataclass(current):
            raise LockstepError(f"Recipe field {dotted!r}: {path[0]} has no fields of its own")
        _check_field(current, path[1:], dotted)
    elif dataclasses.is_dataclass(current):
        raise LockstepError(f"Recipe field {dotted!r} is a record; set one of its fields, such as "
                            f"{dotted}.{dataclasses.fields(current)[0].name}")


def with_overrides(recipe: Recipe, overrides: dict[str, Any] | None) -> Recipe:
    """The recipe with fields replaced by dotted name, all at once: their order does not matter.

    Raises LockstepError naming the field and the limit for a field that does not exist, a value
    out of range, and a combination that cannot work.
    """
    changes: dict[str, Any] = {}
    for dotted, value in (overrides or {}).items():
        if not isinstance(dotted, str) or not dotted:
            raise LockstepError(f"Recipe field must be a dotted name, not {dotted!r}")
        path = dotted.split(".")
        if dotted in ("name", "quantize"):
            raise LockstepError(f"Recipe field {dotted} cannot be overridden; choose another "
                                f"recipe or the model's option quantize")
        _check_field(recipe, path, dotted)
        if len(path) == 1:
            changes[dotted] = value
        else:
            changes.setdefault(path[0], {})[path[1]] = value
    for name, value in changes.items():
        record = getattr(recipe, name)
        if not dataclasses.is_dataclass(record):
            continue
        try:
            changes[name] = replace(record, **value)
        except LockstepError as error:
            text = str(error)
            field_name = text.removeprefix("Option ").split()[0]
            if field_name in (entry.name for entry in dataclasses.fields(record)):
                text = text.replace(f"Option {field_name}", f"Option {name}.{field_name}", 1)
            raise LockstepError(text) from None
    return replace(recipe, **changes)
