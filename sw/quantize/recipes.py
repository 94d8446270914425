"""Named recipes: the published methods of low-precision training, each from its paper.

``make_recipe("banner", overrides={"weight.bits": 4})`` is what the command line's ``--recipe`` and
its overrides call. A recipe that gives integer weights and activations lowers to a Program; the
docstrings of the others say why they do not.
"""

import difflib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from golden.errors import LockstepError
from sw.quantize.recipe import FLOAT, LayerRecipe, NormRecipe, Recipe, TensorRecipe, with_overrides

__all__ = ["RECIPES", "banner", "dfp16", "dorefa", "float32", "fp8", "jacob", "make_recipe", "niti",
           "pact", "twn", "wage", "wrpn"]

# A float error whose bits are set rounds as a gradient must, or small ones vanish
_FLOAT_ERROR = replace(FLOAT, rounding="stochastic")


def float32() -> Recipe:
    """No quantization, ordinary batch normalization: the baseline. Gives no integers."""
    return Recipe(name="float", quantize=False, norm=NormRecipe(kind="batch"))


def banner() -> Recipe:
    """Banner, Hubara, Hoffer, Soudry 2018, arXiv 1805.11046: RangeBN and bifurcated gradients.

    W: 8 bits per output channel. A: 8 bits, the batch's minimum and maximum; the published code
    averages the samples' extremes (``activation.range=batch_mean``), which clips what reaches
    beyond that and costs accuracy. E: 8 bits, ``g8 = (g16 + r) >> 8``, r uniform in [0, 256). G: 16
    bits, nearest. Update in float32.
    """
    return Recipe(name="banner")


def jacob() -> Recipe:
    """Jacob et al. 2017, arXiv 1712.05877; folding and freeze as arXiv 1806.08342, section 3.2.2.

    W: 8 bits per tensor, ``gamma w / sigma`` quantized to [-127, 127]. A: running ranges, quantized
    after a delay, true zero. Batch norm folded, corrected by running / batch deviation until the
    freeze. Gradients in float32. Freeze late, at a small learning rate: with frozen statistics a
    large one diverges.
    """
    return Recipe(
        name="jacob", weight=TensorRecipe(),
        activation=TensorRecipe(symmetric=False, range="ema", delay=200, momentum=0.05,
                                clipped="mask"),
        error=_FLOAT_ERROR, gradient=FLOAT,
        norm=NormRecipe(kind="batch", fold=True, freeze_after=4000))


def dorefa() -> Recipe:
    """Zhou et al. 2016, arXiv 1606.06160: W 4, A 4, G 6 bits.

    W: ``2 q_k(tanh w / (2 max|tanh w|) + 1/2) - 1`` (equation 9), an odd multiple of
    1 / (2^k - 1). A: ``q_k(clip(a, 0, 1))``. E = G: ``2m (q_k(g / 2m + 1/2 + noise) - 1/2)``, m the
    maximum of each sample (equation 12). Weights of the first and last layer 8 bits (float in the
    paper). Lowers up to 7 weight bits: the codes reach 2^k - 1.
    """
    error = TensorRecipe(bits=6, grid="dorefa", granularity="sample", rounding="stochastic")
    return Recipe(
        name="dorefa", weight=TensorRecipe(bits=4, grid="dorefa"),
        activation=TensorRecipe(bits=4, symmetric=False, range="clamp", clamp=1.0, clipped="mask"),
        error=error, gradient=error, bifurcated=False, norm=NormRecipe(kind="batch"),
        ends=LayerRecipe(bits=8))


def wage() -> Recipe:
    """Wu, Li, Chen, Shi 2018, arXiv 1802.04680: W 2, A 8, G 8, E 8 bits, shift-based scales.

    W: ``clip(sigma round(w / sigma), -1 + sigma, 1 - sigma)``, sigma = 2^(1-k), ties to even as in
    the published code. A: the same grid behind a power-of-two factor of the layer. E: ``Q(e /
    Shift(max|e|))``; here Shift stays in the value, which the next Shift removes. G: ``g /
    Shift(max|g|)`` (equation 11; the fine grid only bounds the simulation), then U: the update of
    stored 8-bit weights, stochastically rounded to multiples of 2^-7, which is equation 12.
    Neither norm nor bias. Logits have a range of their own and cross-entropy replaces the paper's
    squared error. Plain SGD of rate eta * 2^-7, eta a power of two, 8 as in the paper.

    The clamp of 0.5 gives every width its sigma: 0.5 / (2^(k-1) - 1), rounded up to a power of two,
    is 2^(1-k), whose largest code stands for 1 - sigma.
    """
    return Recipe(
        name="wage",
        weight=TensorRecipe(bits=2, range="clamp", clamp=0.5, scale="power_of_two",
                            rounding="half_even"),
        activation=TensorRecipe(range="clamp", clamp=0.5, scale="power_of_two", clipped="mask"),
        error=TensorRecipe(scale="shift"),
        gradient=TensorRecipe(bits=16, scale="shift", normalise=True), gradient_of="product",
        update=TensorRecipe(range="clamp", clamp=0.5, rounding="stochastic",
                            scale="power_of_two"),
        norm=NormRecipe(kind="none"), initialise="wage", learning_rate=8 * 2.0**-7)


def pact() -> Recipe:
    """Choi et al. 2018, arXiv 1805.06085: A 4 bits, ``round(clip(x, 0, a) (2^k - 1) / a)``.

    The bound a learns: da = sum of g where x >= a, with an L2 penalty. W: DoReFa's 4 bits. Weights
    of the first and last layer 8 bits (float in the paper). Gradients in float32.
    """
    return Recipe(
        name="pact", weight=TensorRecipe(bits=4, grid="dorefa"),
        activation=TensorRecipe(bits=4, symmetric=False, range="pact", clamp=8.0,
                                clamp_decay=1e-4),
        error=_FLOAT_ERROR, gradient=FLOAT, norm=NormRecipe(kind="batch"), ends=LayerRecipe(bits=8))


def dfp16() -> Recipe:
    """Das et al. 2018, arXiv 1802.00930: dynamic fixed point, 16 bits with one exponent a tensor.

    W, A, E, G: ``round(x / 2^e)``, e the least exponent that holds max|x|. Does not lower: an
    int8 machine cannot hold 16-bit activations (``--weight-bits 8 --activation-bits 8`` can).
    """
    shared = TensorRecipe(bits=16, scale="power_of_two")
    return Recipe(name="dfp16", weight=shared, activation=shared, error=shared, gradient=shared,
                  norm=NormRecipe(kind="batch"))


def niti() -> Recipe:
    """Wang et al. 2020, arXiv 2009.13108 ("NITI"): int8 with integer exponents, weights included.

    W, A, E: 8 bits and a power of two; rounding of A and E by the dropped bits (section 3.3). G:
    the gradient to the weight in 5 bits and sign, whose integers are subtracted from the integers
    of the weight whatever the exponents (the published code's weight_update). U: weights stored in
    8 bits; their exponent follows the largest, where the published code clips at the initial one.
    Neither norm nor bias. Plain SGD of rate 1; for a slower one ``gradient.bits`` 5 and 4, its
    schedule.
    """
    shared = TensorRecipe(scale="power_of_two")
    pseudo = replace(shared, rounding="pseudo_stochastic")
    return Recipe(name="niti", weight=shared, activation=pseudo, error=pseudo,
                  gradient=replace(pseudo, bits=6, normalise=True), gradient_of="product",
                  update=pseudo,
                  norm=NormRecipe(kind="none"), learning_rate=1.0)


def twn() -> Recipe:
    """Li, Liu 2016, arXiv 1605.04711: ternary weights {-s, 0, s}.

    ``|w| > 0.7 E|w|`` keeps a weight, s is the mean magnitude of the kept (equations 4-6).
    Activations: 8 bits with running ranges, so that the network lowers (float in the paper:
    ``activation.bits=None``). Weights of the first and last layer 8 bits.
    """
    return Recipe(name="twn", weight=TensorRecipe(bits=2, grid="ternary"),
                  activation=TensorRecipe(symmetric=False, range="ema"), error=_FLOAT_ERROR,
                  gradient=FLOAT, norm=NormRecipe(kind="batch"), ends=LayerRecipe(bits=8))


def wrpn() -> Recipe:
    """Mishra et al. 2017, arXiv 1709.01134: W 4, A 4 bits, for a widened network.

    W: ``round(clip(w, -1, 1) (2^(k-1) - 1)) / (2^(k-1) - 1)``. A: ``round(clip(a, 0, 1)
    (2^k - 1)) / (2^k - 1)``. The widening is the model's option. Weights of the first and last
    layer 8 bits.
    """
    return Recipe(
        name="wrpn", weight=TensorRecipe(bits=4, range="clamp", clamp=1.0, clipped="mask"),
        activation=TensorRecipe(bits=4, symmetric=False, range="clamp", clamp=1.0, clipped="mask"),
        error=_FLOAT_ERROR, gradient=FLOAT, norm=NormRecipe(kind="batch"), ends=LayerRecipe(bits=8))


def fp8() -> Recipe:
    """Micikevicius et al. 2022, arXiv 2209.05433: W and A in e4m3, E and G in e5m2, emulated.

    A power-of-two scale per tensor puts the maximum in the top exponent; rounding half to even.
    Does not lower: floating-point codes are no integers with one scale.
    """
    forward, backward = TensorRecipe(format="fp8_e4m3"), TensorRecipe(format="fp8_e5m2")
    return Recipe(name="fp8", weight=forward, activation=forward, error=backward,
                  gradient=backward, norm=NormRecipe(kind="batch"))


RECIPES: dict[str, Callable[[], Recipe]] = {
    "banner": banner, "jacob": jacob, "dorefa": dorefa, "wage": wage, "pact": pact,
    "dfp16": dfp16, "niti": niti, "twn": twn, "wrpn": wrpn, "fp8": fp8, "float": float32,
}


def make_recipe(name: str = "banner", *, quantize: bool = True,
                overrides: dict[str, Any] | None = None) -> Recipe:
    """A named recipe with overrides by dotted field name.

    quantize: False trains the recipe's graph, with its norm, in float. Raises LockstepError for an
    unknown name or field and for impossible settings.
    """
    if not isinstance(name, str) or name not in RECIPES:
        near = difflib.get_close_matches(str(name), RECIPES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise LockstepError(f"Unknown recipe {name!r}; known recipes: {', '.join(RECIPES)}{hint}")
    if not isinstance(quantize, bool):
        raise LockstepError(f"Option quantize must be True or False, not {quantize!r}")
    if overrides is not None and not isinstance(overrides, dict):
        raise LockstepError(f"Option overrides must be a dict, not {overrides!r}")
    recipe = with_overrides(RECIPES[name](), overrides)
    if quantize and not recipe.quantize:
        for field, value in (overrides or {}).items():
            if field.endswith(".bits") and value is not None:
                raise LockstepError(f"Option {field} has no effect in recipe {name}, which "
                                    f"quantizes nothing; choose another recipe")
    return replace(recipe, quantize=recipe.quantize and quantize)
