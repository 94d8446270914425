"""Where the files of a data set are looked for, and how one image file is decoded."""

import io
import os
import struct
from pathlib import Path

from PIL import Image

from golden.errors import LockstepError

# What Pillow raises for files cut short or overwritten, depending on the format and the place.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error,
           Image.DecompressionBombError)
# Not all that Pillow reads: some, EPS among them, are handed to outside programs.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")


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
    """One picture, encoded or by its path, as RGB; raises one of DAMAGED if it is none."""
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    with Image.open(stream, formats=FORMATS) as image:
        return image.convert("RGB")
