"""Generated data sets: nothing to download, the same on every machine, written as ordinary files."""

from unetkit.data.phantoms.write import VERSION, generate

__all__ = ["VERSION", "generate"]
