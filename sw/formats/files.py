"""What the importers need of a file as such."""

import hashlib

__all__ = ["sha256_of"]

HASH_BLOCK = 1 << 20


def sha256_of(path) -> str:
    """Hash of a file, hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()
