"""Finished steps of synthesis, kept by content (`sim.cache`)."""

import json
from pathlib import Path

from sim.cache import CACHE as ROOT
from sim.cache import cached, content_key

__all__ = ["CACHE", "cached", "content_key", "write_json"]

CACHE = ROOT / "synthesis"


def write_json(path: Path, content) -> None:
    """Write a file into a folder that is not yet in place."""
    path.write_text(json.dumps(content, indent=1) + "\n")
