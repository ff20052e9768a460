"""The wheels of one platform: known by digest from the lock, fetched or built when somebody must read them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from wain.build import WheelInput
from wain.digest import Digest
from wain.errors import StoreError
from wain.index import PackageIndexes
from wain.lock import Selected
from wain.locking import fetch_selected
from wain.platforms import Target
from wain.project import Project
from wain.request import Workshop
from wain.reuse import Reuse
from wain.settings import IndexSettings, WainSettings, normalize_name
from wain.store import recipe_key
from wain.wheelhouse import build_selected
from wain.wheels import Wheel

if TYPE_CHECKING:
    from wain.bases import BaseFacts
    from wain.sdists import BuiltWheel

log = logging.getLogger(__name__)


class LockedWheels:
    """The wheels of one platform: known by digest from the lock, fetched when somebody must read them."""

    def __init__(
        self,
        project: Project,
        selected: Sequence[Selected],
        target: Target,
        workshop: Workshop,
        *,
        settings: WainSettings,
        index: IndexSettings,
        reuse: Reuse | None = None,
    ) -> None:
        self._reuse = reuse
        self._project = project
        self._settings = settings
        self._index = index
        self._target = target
        self._workshop = workshop
        self._selected = {item.name: item for item in selected if item.name != project.name}
        self._paths: dict[Digest, Path] = {}
        self._indexes = PackageIndexes(
            index, store=workshop.store, transport=workshop.transport, folder=project.path.absolute()
        )

    def inputs(self) -> list[WheelInput]:
        """One for each distribution; what the lock does not say of it is known once it is in the store.

        :raises SdistError: when something that has no wheel does not build.
        """
        made = {item.name: self._built(item) for item in self._selected.values() if item.kind != "wheel"}
        wheels = [item for item in self._selected.values() if item.kind == "wheel"]
        known = {item.name: self._input(item) for item in wheels}
        unknown = [item for item in wheels if known[item.name] is None]
        self._fetch(unknown)
        known |= {item.name: self._input(item) for item in unknown}
        for name, found in known.items():
            assert found is not None
            made[name] = found
        return [made[name] for name in sorted(made)]

    def project(self) -> WheelInput:
        """The project's own wheel.

        :raises SdistError: when it does not build.
        """
        from wain.sdists import Builder, BuildOptions

        project, builds = self._project, self._settings.builds
        options = BuildOptions(env=builds.env_of(project.name), config_settings=builds.config_of(project.name))
        builder = Builder(target=self._target, indexes=self._indexes, options=options)
        own_name = project.name if project.has_project_table else None
        built = builder.project(project.path, name=own_name, tell=self._workshop.say)
        return self._of_built(own_name or normalize_name(built.filename.split("-")[0]), built)

    def described(self, own: WheelInput) -> Project:
        """The project with what only its wheel tells, where pyproject.toml does not.

        :raises WheelError: when its entry points are malformed.
        """
        project = self._project
        if project.scripts is not None:
            return project
        with Wheel.open(self._paths[own.digest], digest=own.digest, filename=own.filename) as wheel:
            scripts = {
                point.name: f"{point.module}:{point.attribute}" for point in wheel.entry_points if not point.is_gui
            }
            return replace(project, scripts=scripts, name=project.name if project.has_project_table else wheel.name)

    def open(self, wanted: Sequence[WheelInput]) -> list[Wheel]:
        """The wheels, in the order asked for."""
        self._fetch(
            [
                self._selected[wheel.name]
                for wheel in wanted
                if wheel.digest not in self._paths and self._selected[wheel.name].kind == "wheel"
            ]
        )
        return [Wheel.open(self._paths[wheel.digest], digest=wheel.digest, filename=wheel.filename) for wheel in wanted]

    def missing_libraries(self, inputs: Sequence[WheelInput], facts: BaseFacts) -> tuple[str, ...]:
        """What native libraries would be missing on the base, one line a distribution.

        Where a wheel was read neither now nor before, nothing is said: what seems to be missing may be in it.
        """
        from wain.natives import NativeFile, advice, known_natives, missing_libraries, natives_of

        def read(wheel: WheelInput) -> Sequence[NativeFile] | None:
            found = known_natives(wheel.digest, self._workshop.store)
            if found is None and (path := self._paths.get(wheel.digest)) is not None:
                with Wheel.open(path, digest=wheel.digest, filename=wheel.filename) as opened:
                    found = natives_of(opened, self._workshop.store)
            return found

        native = [wheel for wheel in inputs if not wheel.filename.endswith("-none-any.whl")]
        # Mostly inflating, which threads do side by side; the largest first.
        native.sort(key=lambda wheel: -wheel.size_bytes)
        with ThreadPoolExecutor(2, thread_name_prefix="natives") as pool:
            files = dict(zip((wheel.name for wheel in native), pool.map(read, native), strict=True))
        known = {name: found for name, found in files.items() if found is not None}
        if len(known) < len(files):
            return ()
        return advice(missing_libraries(facts, known))

    def _fetch(self, items: Sequence[Selected]) -> list[Path]:
        if not items:
            return []
        paths = []
        for item, path, digest in fetch_selected(
            items,
            store=self._workshop.store,
            transport=self._workshop.transport,
            settings=self._index,
            project=self._project.path,
            progress=self._workshop.progress,
        ):
            self._paths[digest] = path
            paths.append(path)
            if item.file is not None and item.file.digest is None:
                self._workshop.store.put_memo("file-digest", _file_key(item), {"digest": str(digest)}, refers=[digest])
            self._workshop.store.put_memo("wheel-size", digest, {"size": path.stat().st_size})
        return paths

    def _built(self, item: Selected) -> WheelInput:
        digest = None
        if item.file is not None:
            [path] = self._fetch([item])
            digest = next(digest for digest, known in self._paths.items() if known == path)
        built = build_selected(item, digest, self._target, self._indexes, builds=self._settings.builds)
        return self._of_built(item.name, built)

    def _of_built(self, name: str, built: BuiltWheel) -> WheelInput:
        if not built.was_built:
            log.info("%s: %s", built.filename, built.reason)
        path = self._workshop.store.path(built.digest)
        if path is None:
            raise StoreError(f"{built.filename} vanished from the store", hint="Run it again.")
        self._paths[built.digest] = path
        return WheelInput(
            name=name,
            version=built.filename.split("-")[1],
            filename=built.filename,
            digest=built.digest,
            size_bytes=path.stat().st_size,
        )

    def _input(self, item: Selected) -> WheelInput | None:
        assert item.file is not None
        digest = item.file.digest
        store = self._workshop.store
        if digest is None and (memo := store.memo("file-digest", _file_key(item))) is not None:
            digest = Digest(str(memo.get("digest")))
        if digest is None:
            return None
        size = item.file.size_bytes
        if size is None and (memo := store.memo("wheel-size", digest)) is not None:
            number = memo.get("size")
            size = number if isinstance(number, int) else None
        if size is None and self._reuse is not None:
            size = self._reuse.size_bytes(digest)
        if size is None:
            return None
        return WheelInput(
            name=item.name, version=item.version or "", filename=item.file.filename, digest=digest, size_bytes=size
        )


def _file_key(item: Selected) -> Digest:
    assert item.file is not None
    return recipe_key({"what": "file-digest", "file": item.file.to_json()})
