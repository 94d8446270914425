"""Where the files of a data set are looked for, and how one image file is decoded."""

import io
import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from golden.errors import LockstepError

__all__ = ["DAMAGED", "decode", "not_found", "roots"]

# What Pillow raises for files cut short or overwritten, depending on the format and the place.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error,
           Image.DecompressionBombError)
# Not all that Pillow reads: some, EPS among them, are handed to outside programs.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
_GREY_16 = ("PNG", "PPM")  # whose Pillow mode I holds 16 bits


def roots(directory: Path | None, name: str) -> list[Path]:
    """Existing folders to search: DIR/NAME, DIR, then the same under $LOCKSTEP_DATA."""
    bases = [directory, os.environ.get("LOCKSTEP_DATA")]
    bases = [Path(base) for base in bases if base]
    return [path for base in bases for path in (base / name, base) if path.is_dir()]


def not_found(name: str, directory: Path | None, expected: str) -> LockstepError:
    """The error for a data set of which no file was found; expected says which and from where."""
    places = [directory, os.environ.get("LOCKSTEP_DATA")]
    where = " or ".join(str(place) for place in places if place) or "any folder (none is given)"
    return LockstepError(f"Data set {name} is not in {where}; put there {expected}")


def decode(source: bytes | str) -> Image.Image:
    """One picture, encoded or by its path, as RGB; raises one of DAMAGED if it is none.

    16-bit grey is scaled by 1/257, rounded. Grey of 32 bits or in floating point (TIFF) counts as
    damaged: the file does not say which number is white.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    with Image.open(stream, formats=FORMATS) as image:
        if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _GREY_16):
            grey = (np.asarray(image).astype(np.uint32) + 128) // 257
            return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
        if image.mode in ("I", "F"):
            raise ValueError(f"grey of 32 bits (mode {image.mode}) has no known white")
        return image.convert("RGB")
