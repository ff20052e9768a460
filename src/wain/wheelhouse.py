"""From a lock to the wheels of one target: selected, fetched, and built where there is none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from wain.digest import Digest
from wain.errors import LockError, StoreError
from wain.fetching import Progress, fetch
from wain.index import PackageIndexes
from wain.lock import Lock, Selected
from wain.locking import select_for
from wain.platforms import Target
from wain.settings import BuildSettings, IndexSettings
from wain.store import Store
from wain.transport import Transport
from wain.wheels import Wheel

if TYPE_CHECKING:
    from wain.editables import EditablePlace
    from wain.sdists import BuiltWheel

log = logging.getLogger(__name__)


def collect_wheels(
    lock: Lock,
    target: Target,
    *,
    folder: Path,
    settings: IndexSettings,
    store: Store,
    transport: Transport,
    extras: Iterable[str] = (),
    groups: Iterable[str] = (),
    credential_urls: Iterable[str] = (),
    builds: BuildSettings | None = None,
    progress: Progress | None = None,
    also: Sequence[Selected] = (),
    leave_out: Callable[[Selected], bool] = lambda item: False,
    editables: Mapping[str, EditablePlace] | None = None,
    on_built: Callable[[Selected, BuiltWheel], None] | None = None,
) -> list[Wheel]:
    """The wheels that a target gets of a lock, opened; the caller closes them.

    :param folder: where relative paths start.
    :param credential_urls: direct URLs as the user wrote them: a lock has them without user and password.
    :param builds: what is declared for builds from source.
    :param also: what goes with them; `leave_out` says what of the lock does not.
    :param editables: folders of projects whose wheel is to be an editable one, with where they will stand.
    :param on_built: is told of each wheel that was built, now or before.
    :raises NotEditable: when one of these has to be built in its place.
    :raises LockError, NoWheel: when the lock does not fit the target.
    :raises SdistError: when something that has no wheel does not build.
    :raises HashMismatch, TransferError, Offline: as `fetch` does.
    """
    chosen = select_for(lock, target, extras=extras, groups=groups, settings=settings, store=store)
    selected = (*(item for item in chosen if not leave_out(item)), *also)
    indexes = PackageIndexes(settings, store=store, transport=transport, folder=folder)
    urls = tuple(url for url in credential_urls if "@" in url)
    if urls:
        indexes.credentials = indexes.credentials.with_urls(urls)
    digests = fetch(
        [item.file for item in selected if item.file is not None],
        store=store,
        transport=transport,
        indexes=indexes,
        progress=progress,
    )
    wheels: list[Wheel] = []
    try:
        for item in selected:
            if item.kind == "wheel":
                assert item.file is not None
                filename, digest = item.file.filename, digests[item.file]
            else:
                fetched = None if item.file is None else digests[item.file]
                built = build_selected(
                    item,
                    fetched,
                    target,
                    indexes,
                    builds=builds or BuildSettings(),
                    credential_urls=urls,
                    editables=editables or {},
                )
                if on_built is not None:
                    on_built(item, built)
                log.info("%s: %s", built.filename, built.reason)
                filename, digest = built.filename, built.digest
            wheels.append(Wheel.open(_path(store, digest, filename), digest=digest, filename=filename))
    except BaseException:
        for wheel in wheels:
            wheel.close()
        raise
    return wheels


def build_selected(
    item: Selected,
    digest: Digest | None,
    target: Target,
    indexes: PackageIndexes,
    *,
    builds: BuildSettings,
    credential_urls: tuple[str, ...] = (),
    editables: Mapping[str, EditablePlace] = MappingProxyType({}),
) -> BuiltWheel:
    """The wheel of something that has none: a folder, a repository, an sdist or another archive.

    :param digest: of the file, which is in the store; None for a folder or a repository.
    :raises SdistError: when it does not build.
    """
    from wain.sdists import Builder, BuildOptions

    options = BuildOptions(env=builds.env_of(item.name), config_settings=builds.config_of(item.name))
    builder = Builder(target=target, indexes=indexes, options=options)
    package = item.package
    if package.directory is not None:
        place = Path(package.directory.path, package.directory.subdirectory or "")
        editable = editables.get(str(place))
        if editable is not None:
            return builder.editable(place, editable, name=item.name)
        return builder.project(place, name=item.name)
    if package.vcs is not None:
        return builder.repository(package.vcs, name=item.name, version=item.version, credential_urls=credential_urls)
    if item.file is None or digest is None:
        raise LockError(f"{item.name} has neither a file nor a source in the lock", hint="Lock again.")
    return builder.sdist(
        _path(indexes.store, digest, item.file.filename),
        filename=item.file.filename,
        digest=digest,
        name=item.name,
        version=item.version,
        subdirectory=package.subdirectory,
    )


def _path(store: Store, digest: Digest, filename: str) -> Path:
    path = store.path(digest)
    if path is None:
        raise StoreError(f"{filename} vanished from the cache", hint="Somebody emptied it meanwhile; run it again.")
    return path
