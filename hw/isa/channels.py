"""The channels of results: which are written, which pass the lanes, and their parameters."""

from __future__ import annotations

import numpy as np

from hw.isa.instruction import WORD_MASK, Access, throughout
from hw.isa.layout import LocalMemory

__all__ = ["RESCALE_FIELDS", "RESULT_FIELDS", "emitted_groups", "parameter_reads",
           "parameter_words", "written_channels", "written_words"]

#: Fields of everything that rescales, and of everything that writes some of its channels.
RESCALE_FIELDS = frozenset({"gemmlowp", "zero_point", "low", "high"})
RESULT_FIELDS = frozenset({"out_base", "out_bank", "out_step", "n_channels", "first_channel"})


def written_channels(f, n_chunks: int, target) -> np.ndarray:
    """bool (n_chunks, columns): which channels an instruction writes."""
    channel = np.arange(n_chunks * target.columns).reshape(n_chunks, -1)
    return (f["first_channel"] <= channel) & (channel < f["n_channels"])


def written_words(f, n_chunks: int, target) -> np.ndarray:
    """int64: words of channels of which some channel is written."""
    return np.flatnonzero(written_channels(f, n_chunks, target).any(1))


def emitted_groups(f, n_chunks: int, target) -> np.ndarray:
    """int64 (n_chunks,): groups of channels that pass the lanes, for each word of channels."""
    left = f["n_channels"] - np.arange(n_chunks) * target.columns
    return np.clip(-(-left // target.lanes), 1, target.columns // target.lanes)


def parameter_words(f, n_chunks: int, target) -> np.ndarray:
    """int64 (n_chunks, groups): parameter word of each group of channels."""
    n_groups = target.columns // target.lanes
    return (f["parameter_base"] + np.arange(n_chunks * n_groups).reshape(n_chunks, n_groups)
            & WORD_MASK)


def parameter_reads(f, n_chunks: int, n_steps: int, target, needed: bool) -> Access:
    """The parameters of the groups that pass the lanes, or of the channels that are written."""
    words = parameter_words(f, n_chunks, target)
    channels = words[..., None] * target.lanes + np.arange(target.lanes)
    if needed:
        channels = channels.reshape(n_chunks, -1)[written_channels(f, n_chunks, target)]
    else:
        passes = np.arange(words.shape[1]) < emitted_groups(f, n_chunks, target)[:, None]
        channels = channels[passes]
    return throughout(LocalMemory.PARAMETERS, channels, n_steps)
