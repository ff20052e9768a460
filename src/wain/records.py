"""Records of which not every field is shown or compared; all others are plain `msgspec.Struct`s.

A Struct costs a hundredth of a dataclass when its module is imported, which is what a short command spends most on.
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct


class Record(Struct, frozen=True):
    """A record whose repr leaves out the fields in `unshown` (secrets, and what is long), and that is equal to another
    of its class where all fields are but those in `uncompared`.
    """

    unshown: ClassVar[tuple[str, ...]] = ()
    uncompared: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name not in self.unshown)
        return f"{type(self).__name__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._compared())

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, name) for name in self._compared())))

    def _compared(self) -> list[str]:
        return [name for name in self.__struct_fields__ if name not in self.uncompared]
