"""Images from and to wherever a reference points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wain.image import Image, Index
from wain.names import (
    ArchiveReference,
    DaemonReference,
    LayoutReference,
    Reference,
    parse_reference,
)

if TYPE_CHECKING:
    from wain.content import Progress
    from wain.digest import Digest
    from wain.distribution import Access
    from wain.platforms import Platform


def read_image(
    reference: str | Reference, *, platform: Platform | None = None, access: Access | None = None
) -> Image | Index:
    """The image or index that a reference names; layers stay where they are until they are opened.

    :param platform: picks one image of an index; without it an index comes whole.
    :param access: how registries are reached.
    :raises UsageError: when the text names no image.
    :raises ImageError: when it is malformed, or there is none for the platform.
    :raises TransferError: when a registry does not give it.
    """
    where = parse_reference(reference) if isinstance(reference, str) else reference
    if isinstance(where, LayoutReference):
        from wain import layout

        return layout.read(where, platform=platform)
    if isinstance(where, ArchiveReference):
        from wain import archive

        return archive.read(where, platform=platform)
    if isinstance(where, DaemonReference):
        from wain import daemon

        return daemon.read(where, platform=platform)
    from wain import registry

    return registry.read(where, platform=platform, access=access)


def write_image(
    image: Image | Index,
    reference: str | Reference,
    *,
    names: Sequence[str] = (),
    access: Access | None = None,
    progress: Progress | None = None,
    outcome: dict[Digest, str] | None = None,
    schema2: bool = False,
) -> Digest:
    """Puts an image or index where a reference points; it appears there whole or not at all.

    :param names: `repository:tag` that the image has in an archive, layout or daemon; a registry's reference and
        `daemon:` name it themselves.
    :param outcome: is filled with what became of each blob, where the destination tells; a registry is not asked for
        those that are in it.
    :param schema2: in Docker's media types, for registries that refuse OCI's.
    :returns: the digest of the manifest or index.
    :raises OutputError: when a file cannot be written.
    :raises TransferError: when a registry does not take it.
    :raises EngineError: when a daemon does not take it.
    """
    where = parse_reference(reference) if isinstance(reference, str) else reference
    if isinstance(where, LayoutReference):
        from wain import layout

        return layout.write(image, where, names=names, progress=progress, outcome=outcome)
    if isinstance(where, ArchiveReference):
        from wain import archive

        return archive.write(image, where, names=names, progress=progress)
    if isinstance(where, DaemonReference):
        from wain import daemon

        return daemon.write(image, where, names=names, progress=progress)
    from wain import registry

    return registry.write(image, where, access=access, progress=progress, outcome=outcome, schema2=schema2)
