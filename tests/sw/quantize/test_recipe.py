"""The records: overrides by dotted name, and one clear line for what cannot work."""

import dataclasses

import pytest

from golden.errors import LockstepError
from sw.quantize.recipe import Recipe, TensorRecipe, with_overrides
from sw.quantize.recipes import RECIPES, make_recipe


def test_overrides_replace_fields_and_leave_the_rest():
    recipe = make_recipe(overrides={"weight.bits": 4, "norm.chunks": 8, "bifurcated": False})
    assert (recipe.weight.bits, recipe.norm.chunks, recipe.bifurcated) == (4, 8, False)
    assert recipe.activation == Recipe().activation
    assert dataclasses.replace(recipe.weight, bits=8) == Recipe().weight
    assert with_overrides(recipe, None) == with_overrides(recipe, {}) == recipe


@pytest.mark.parametrize("overrides", [
    {"norm.fold": True, "norm.kind": "batch"}, {"norm.kind": "batch", "norm.fold": True}])
def test_the_order_of_overrides_does_not_matter(overrides):
    assert make_recipe(overrides=overrides).norm.fold


def test_code_bounds():
    assert TensorRecipe(bits=8).code_bounds == (-127, 127)
    assert TensorRecipe(bits=4, symmetric=False).code_bounds == (-8, 7)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_bits_of_a_kind_of_layer(kind):
    recipe = make_recipe(overrides={f"{kind}.bits": 5})
    other = "linear" if kind == "conv" else "conv"
    assert (recipe.for_layer(kind).weight.bits, recipe.for_layer(kind).activation.bits) == (5, 5)
    assert recipe.for_layer(other) is recipe


def test_bits_of_a_kind_of_layer_quantize_nothing_that_is_off():
    recipe = make_recipe(overrides={"activation.bits": None, "conv.bits": 4}).for_layer("conv")
    assert (recipe.weight.bits, recipe.activation.bits) == (4, None)
    recipe = make_recipe(overrides={"weight.bits": None, "conv.bits": 4}).for_layer("conv")
    assert (recipe.weight.bits, recipe.activation.bits) == (None, 4)


@pytest.mark.parametrize("field", ["weight.bits", "activation.bits", "conv.bits", "linear.bits",
                                   "error.bits", "gradient.bits", "update.bits"])
def test_bits_of_a_recipe_that_quantizes_nothing(field):
    with pytest.raises(LockstepError, match=f"Option {field} has no effect in recipe float, which"):
        make_recipe("float", overrides={field: 4})
    make_recipe("float", overrides={"weight.bits": None, "norm.momentum": 0.2})
    assert not make_recipe("banner", quantize=False, overrides={field: 4}).quantize


@pytest.mark.parametrize("name", ["jacob", "pact", "twn", "wrpn"])
def test_a_float_error_given_bits_is_rounded_at_random(name):
    recipe = make_recipe(name, overrides={"error.bits": 8, "gradient.bits": 8})
    assert (recipe.error.rounding, recipe.gradient.rounding) == ("stochastic", "half_up")
    assert not make_recipe(name).tensor("error").enabled


@pytest.mark.parametrize(("name", "overrides", "message"), [
    ("pact", {"activation.symmetric": True},
     "Option activation.symmetric must be False with activation.range pact, not True"),
    ("pact", {"activation.scale": "shift"}, "activation.scale must be float with activation.range"),
    ("pact", {"activation.granularity": "channel"}, "activation.granularity must be tensor with"),
    ("jacob", {"statistics.bits": 8}, "Option statistics.bits must be None with norm.fold, not 8"),
    ("dorefa", {"gradient_of": "product"}, "granularity cannot be sample with gradient_of"),
    ("dorefa", {"weight.scale": "shift"}, "Option weight.scale must be float with weight.grid dor"),
    ("dorefa", {"error.scale": "shift"}, "Option error.scale must be float with error.grid dorefa"),
    ("banner", {"weight.bits": None, "activation.bits": None, "conv.bits": 4},
     "Option conv.bits needs quantized weights or activations"),
    *(("banner", {f"{kind}.delay": 1}, f"Option {kind}.delay must be 0; only activations have")
      for kind in ("weight", "error", "gradient", "update", "statistics"))])
def test_fields_that_would_have_no_effect(name, overrides, message):
    with pytest.raises(LockstepError, match=message):
        make_recipe(name, overrides=overrides)


def test_quantize_false_keeps_the_recipe_but_quantizes_nothing():
    recipe = make_recipe("dorefa", quantize=False)
    assert recipe.norm.kind == "batch"
    assert not any(recipe.tensor(kind).enabled
                   for kind in ("weight", "activation", "error", "gradient", "update"))


@pytest.mark.parametrize(("overrides", "message"), [
    ({"weight.bit": 4}, "no field 'weight.bit'; .*did you mean bits?"),
    ({"weigth.bits": 4}, "no field 'weigth.bits'; .*did you mean weight?"),
    ({"weight.bits.low": 4}, "'weight.bits.low': bits has no fields of its own"),
    ({"weight": 4}, "'weight' is a record; set one of its fields, such as weight.bits"),
    ({3: 4}, "must be a dotted name, not 3"),
    ({"weight.bits": 1}, "Option weight.bits must be an integer from 2 to 16, not 1"),
    ({"weight.bits": 17}, "Option weight.bits must be an integer from 2 to 16, not 17"),
    ({"weight.bits": 4.0}, "Option weight.bits must be an integer from 2 to 16, not 4.0"),
    ({"weight.bits": True}, "Option weight.bits must be an integer from 2 to 16, not True"),
    ({"conv.bits": 1}, "Option conv.bits must be an integer from 2 to 16, not 1"),
    ({"weight.rounding": "nearest"}, "Option weight.rounding must be one of half_up, .*'nearest'"),
    ({"weight.rounding": "stochastic"}, "weight.rounding cannot be stochastic: a stored weight"),
    ({"weight.rounding": "pseudo_stochastic"}, "weight.rounding cannot be pseudo_stochastic"),
    ({"weight.range": "ema"}, "Option weight.range must be one of min_max, .* not 'ema'"),
    ({"weight.symmetric": False}, "Option weight.symmetric must be True; only activations"),
    ({"weight.granularity": "sample"}, "Option weight.granularity must be one of tensor, channel"),
    ({"weight.normalise": True}, "Option weight.normalise must be False; only the gradient"),
    ({"weight.grid": "ternary"}, "Option weight.bits must be 2 for grid ternary, not 8"),
    ({"weight.format": "fp8_e4m3", "weight.bits": 4}, "weight.bits must be 8 for format fp8_e4m3"),
    ({"activation.grid": "dorefa"}, "Option activation.grid must be one of uniform, not 'dorefa'"),
    ({"error.grid": "ternary", "error.bits": 2}, "error.grid must be one of uniform, dorefa, not"),
    ({"update.format": "fp8_e4m3"}, "update.format must be one of integer, not 'fp8_e4m3'"),
    ({"activation.clamp": -1}, "Option activation.clamp must be a positive number, not -1"),
    ({"activation.clamp_decay": -1}, "activation.clamp_decay must be a finite number of 0 or more"),
    ({"activation.clamp_decay": float("inf")}, "clamp_decay must be a finite number .* not inf"),
    ({"activation.clamp_decay": float("nan")}, "clamp_decay must be a finite number .* not nan"),
    ({"name": [1]}, "Recipe field name cannot be overridden; choose another recipe"),
    ({"quantize": False}, "Recipe field quantize cannot be overridden"),
    ({"activation.delay": -1}, "Option activation.delay must be an integer from 0"),
    ({"activation.momentum": 2}, r"Option activation.momentum must be in \(0, 1\], not 2"),
    ({"norm.fold": True}, "Option norm.fold needs norm.kind batch, not range"),
    ({"norm.kind": "group"}, "Option norm.kind must be one of range, batch, .* not 'group'"),
    ({"norm.fold": 1}, "Option norm.fold must be True or False, not 1"),
    ({"accumulator.bits": 33}, "Option accumulator.bits must be an integer from 4 to 32, not 33"),
    ({"accumulator.bits": 16, "activation.bits": None}, "accumulator.bits needs integer weights"),
    ({"accumulator.bits": 16, "activation.granularity": "channel"}, "one scale per activation"),
    ({"accumulator.bits": 16, "weight.format": "fp8_e4m3"}, "accumulator.bits needs integer wei"),
    ({"initialise": "ones"}, "Option initialise must be one of kaiming, wage, not 'ones'"),
    ({"learning_rate": 0}, "Option learning_rate must be a positive number, not 0")])
def test_what_cannot_work_is_one_line(overrides, message):
    with pytest.raises(LockstepError, match=message) as caught:
        make_recipe(overrides=overrides)
    assert len(str(caught.value).splitlines()) == 1


def test_bits_that_a_ternary_grid_cannot_have():
    with pytest.raises(LockstepError, match="Option conv.bits: Option bits must be 2 for grid ter"):
        make_recipe("twn", overrides={"conv.bits": 4})


def test_unknown_recipes_name_the_nearest():
    with pytest.raises(LockstepError, match=r"Unknown recipe 'doreffa'; .*did you mean dorefa\?"):
        make_recipe("doreffa")
    with pytest.raises(LockstepError, match="Unknown recipe None; known recipes: banner, jacob"):
        make_recipe(None)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_carries_its_name_and_its_source(name):
    assert make_recipe(name).name == name
    assert name == "float" or "arXiv" in RECIPES[name].__doc__
