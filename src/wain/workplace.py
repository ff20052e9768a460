"""The place of one build: its source put into a folder at a path of its own, and the environment to build it in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from wain.backends import BuildEnvironment, BuildSystem, remove_tree, work_folder, wrap_compilers
from wain.digest import Digest
from wain.editables import EditablePlace, NotEditable, Snapshot, left_behind, point_to, snapshot
from wain.errors import SdistError
from wain.interpreters import Interpreter
from wain.oci import JSON

_FOLDER = Path("/tmp")  # noqa: S108 - one path for every user, so that builds do not differ by it


class BuildSource(Struct, frozen=True, kw_only=True):
    what: str
    """Names it in messages."""
    name: str | None
    version: str | None
    digest: Digest
    subdirectory: str
    place: Callable[[Path], Path]
    """Puts it below an empty folder; gives the project's folder."""
    editable: EditablePlace | None = None
    """Where the project will stand, for an editable wheel."""
    tell: Callable[[str], None] | None = None
    """Hears that it is built, and why; None: it is a warning, for whoever did not know of it."""


class Workplace:
    """A folder for one build, made when it is first needed, at the same path for the same build.

    Another process that builds the same waits for it. Where the path is another user's, a folder of another name
    is used, and compilers are told to write down the first.
    """

    def __init__(
        self,
        stack: contextlib.ExitStack,
        key: Digest,
        source: BuildSource,
        interpreter: Interpreter,
        environ: Mapping[str, str],
    ) -> None:
        self._stack = stack
        self._path = _FOLDER / f"wain-{key.hex[:16]}"
        self._source = source
        self._interpreter = interpreter
        self._environ = dict(environ)
        self._folder: Path | None = None
        self._project: Path | None = None
        self._build: BuildEnvironment | None = None
        self._is_spent = False

    def open(self) -> Path:
        """The folder, made and locked."""
        if self._folder is None:
            self._folder = self._stack.enter_context(work_folder(self._path))
            if self._folder != self._path:
                compilers = wrap_compilers(self._folder, self._path, self._environ.get("PATH", ""))
                self._environ["PATH"] = f"{compilers}:{self._environ.get('PATH', '')}"
        return self._folder

    def source(self) -> Path:
        """The project's folder, freshly placed where a back end ran in it before."""
        if self._project is None or self._is_spent:
            place = self.open() / "source"
            if place.exists():
                remove_tree(place)
            place.mkdir()
            self._project = self._source.place(place)
            if not self._project.is_dir():
                raise SdistError(
                    f"{self._source.what} has no folder {self._source.subdirectory!r}",
                    hint="Correct the subdirectory.",
                )
            self._is_spent = False
        return self._project

    def requirements(self) -> Path:
        """An empty folder for the build requirements' wheels."""
        folder = self.open() / "requirements"
        if folder.exists():
            remove_tree(folder)
        folder.mkdir()
        return folder

    def environment(self, wheels: Sequence[Path]) -> None:
        folder = self.open()
        if self._build is None:
            self._build = BuildEnvironment(
                folder, interpreter=self._interpreter.path, environ=self._environ, what=self._source.what
            )
        self._build.install(wheels)

    def requires(self, system: BuildSystem, settings: Mapping[str, JSON]) -> tuple[str, ...]:
        assert self._build is not None
        source = self.source()
        self._is_spent = True  # setup.py writes *.egg-info when it is asked
        return self._build.requires(system, source, settings, kind=self._kind)

    def build(self, system: BuildSystem, settings: Mapping[str, JSON]) -> tuple[Path, dict[str, str]]:
        """The wheel, and the texts that an editable build left beside the source.

        :raises NotEditable: when an editable wheel cannot be built elsewhere.
        """
        assert self._build is not None
        source = self.source()
        self._is_spent = True
        place = self._source.editable
        before: Snapshot = {}
        if place is not None:
            before = snapshot(source)
            # Installers ask in the project's own folder, where setuptools leaves its *.egg-info when it is asked.
            self._build.requires(system, source, settings, kind=self._kind)
        wheel = self._build.build(system, source, settings, kind=self._kind)
        if place is None:
            if wheel is None:
                raise SdistError(f"the back end of {self._source.what} built no wheel", hint="Name another version.")
            return wheel, {}
        if wheel is None:
            raise NotEditable(f"the back end of {self._source.what} has no editable wheels")
        left = left_behind(before, source, place)
        point_to(wheel, source, place)
        return wheel, left

    @property
    def _kind(self) -> str:
        return "wheel" if self._source.editable is None else "editable"
