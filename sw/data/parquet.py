"""Images and labels of a parquet file in the layout of the data set hubs.

Columns: ``image`` (or ``img``) = struct{bytes, path} with an encoded picture, and ``label`` (or
``fine_label``) = integer. Decoding CIFAR's 50,000 pictures takes about 5 s on one core, so nothing
is cached.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from golden.errors import LockstepError
from sw.data.files import DAMAGED, decode

__all__ = ["read_parquet"]

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")


def _column(path: Path, schema, names: tuple[str, ...]) -> str:
    for name in names:
        if name in schema.names:
            return name
    raise LockstepError(f"{path} has no column {' or '.join(names)}; "
                        f"its columns are {', '.join(schema.names)}")


def read_parquet(path: Path, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, list[str]]:
    """Images (N, 3, H, W) uint8, labels (N,) int64 and the names of damaged pictures, left out.

    shape: (3, H, W) that every picture must have.
    """
    import pyarrow
    import pyarrow.parquet

    if not path.is_file():
        raise LockstepError(f"{path.parent} lacks {path.name}")
    try:
        schema = pyarrow.parquet.read_schema(path)
        image_column = _column(path, schema, IMAGE_COLUMNS)
        label_column = _column(path, schema, LABEL_COLUMNS)
        table = pyarrow.parquet.read_table(path, columns=[image_column, label_column])
    except (pyarrow.ArrowException, OSError) as error:
        line = str(error).splitlines()[0]
        raise LockstepError(f"{path} is not a readable parquet file: {line}") from error
    kind = schema.field(image_column).type
    if not (pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        raise LockstepError(f"Column {image_column} of {path} must be struct{{bytes, path}}, "
                            f"not {kind}")
    if not pyarrow.types.is_integer(schema.field(label_column).type):
        raise LockstepError(f"Column {label_column} of {path} must hold integers, "
                            f"not {schema.field(label_column).type}")
    rows = table[image_column].to_pylist()
    if table[label_column].null_count:
        raise LockstepError(f"Column {label_column} of {path} has empty rows")
    labels = table[label_column].to_numpy().astype(np.int64)
    channels, height, width = shape
    images = np.empty((len(rows), height, width, channels), dtype=np.uint8)
    damaged, good = [], []
    for i, row in enumerate(rows):
        row = row or {}
        try:
            picture = decode(row.get("bytes") or b"")
        except DAMAGED:
            damaged.append(f"{path.name}:{row.get('path') or f'row {i}'}")
            continue
        if picture.size != (width, height):
            raise LockstepError(f"Row {i} of {path} is a picture of {picture.width}x"
                                f"{picture.height} pixels, not {width}x{height}")
        images[i] = np.asarray(picture)
        good.append(i)
    if not good:
        raise LockstepError(f"None of the {len(rows)} pictures of {path} can be decoded")
    if damaged:
        images, labels = images[good], labels[good]
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return tensor, torch.from_numpy(labels), damaged
