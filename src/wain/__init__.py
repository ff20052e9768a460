"""Container images of Python programs, straight from wheels.

The public names are imported when they are first used, so that `import wain` costs next to nothing. The verbs stand in
modules of their own name: `wain.build.build`, `wain.audit.audit`, `wain.fix.fix`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wain.findings import Finding
    from wain.image import Image
    from wain.layers import Layer
    from wain.lock import Lock
    from wain.store import Store
    from wain.transfer import read_image, write_image
    from wain.wheels import Wheel

__all__ = ["Finding", "Image", "Layer", "Lock", "Store", "Wheel", "read_image", "write_image"]

_HOMES = {
    "Finding": "findings",
    "Image": "image",
    "Layer": "layers",
    "Lock": "lock",
    "Store": "store",
    "Wheel": "wheels",
    "read_image": "transfer",
    "write_image": "transfer",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'wain' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"wain.{_HOMES[name]}"), name)
