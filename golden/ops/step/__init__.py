"""The operators of the integer training step: no value between images and new weights is a float.

A step is a Program of them: exponents, masters, momenta and running values are its state; images,
labels, rate, seed and step number its inputs. See `golden.ops.step.base` for what they share.
"""

from golden.ops.step.activation import MaskedGradient
from golden.ops.step.addition import GradientAddition, ResidualAddition
from golden.ops.step.convolution import PreNormCodes
from golden.ops.step.convolution_backward import BiasGradient, CodesGradient, KernelGradient
from golden.ops.step.dropout import Dropout, DropoutGradient
from golden.ops.step.exponents import ExponentRule, ShiftSum
from golden.ops.step.head import CrossEntropy, LogitSums
from golden.ops.step.lanes import GradientCodes, GradientDigits, LaneCodes
from golden.ops.step.norm_backward import (
    NormGradientParameters,
    NormGradientSums,
    NormInputGradient,
)
from golden.ops.step.norm_deviation import DeviationGradientParameters, DeviationInputGradient
from golden.ops.step.norm_forward import NormApply, NormParameters
from golden.ops.step.pooling import AverageCodes, GlobalAverageCodes, MaximumCodes
from golden.ops.step.pooling_backward import (
    AverageGradient,
    MaximumGradient,
    ReshapedGradient,
    SpreadGradient,
)
from golden.ops.step.statistics import NormStatistics, RunningStatistics
from golden.ops.step.update import VectorUpdate, WeightCodes, WeightUpdate

STEP_OPERATORS = (
    ExponentRule, ShiftSum, LaneCodes, GradientDigits, GradientCodes,
    PreNormCodes, CodesGradient, KernelGradient, BiasGradient,
    NormStatistics, NormParameters, NormApply,
    NormGradientSums, NormGradientParameters, NormInputGradient,
    DeviationGradientParameters, DeviationInputGradient,
    ResidualAddition, GradientAddition, MaskedGradient,
    AverageCodes, AverageGradient, MaximumCodes, MaximumGradient, GlobalAverageCodes,
    SpreadGradient, ReshapedGradient, Dropout, DropoutGradient,
    LogitSums, CrossEntropy,
    WeightCodes, WeightUpdate, VectorUpdate, RunningStatistics)

__all__ = ["STEP_OPERATORS", *(operator.__name__ for operator in STEP_OPERATORS)]
