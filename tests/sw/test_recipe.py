"""The records: overrides by dotted name, and one clear line for what cannot work."""

import dataclasses

import pytest

from golden.errors import LockstepError
from sw.recipe import Recipe, TensorRecipe, with_overrides
from sw.recipes import RECIPES, make_recipe


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
    ({"activation.clamp_decay": -1}, "Option activation.clamp_decay must be 0 or more, not -1"),
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
