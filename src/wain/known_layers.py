"""What a lock and earlier images say of the layers that a build would make."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from wain.bases import LABEL
from wain.digest import Digest
from wain.errors import ImageError, LockError, NotFound, WainError
from wain.image import Image, Index
from wain.lock import Lock
from wain.names import RegistryReference, parse_reference
from wain.oci import JSON, Config, Runtime
from wain.platforms import Platform
from wain.request import Request, Workshop
from wain.reuse import KnownLayer, KnownWheels, Reuse, Source, layers_of
from wain.settings import WainSettings

log = logging.getLogger(__name__)


def earlier_images(
    references: Sequence[str], platforms: Sequence[Platform], workshop: Workshop
) -> dict[tuple[str, Platform], Image]:
    """The images that --cache-from names, by reference and platform; what has nothing to take is told and passed over.

    :raises UsageError: when a reference is malformed.
    """
    from wain.transfer import read_image

    found = {}
    for text in references:
        parse_reference(text)
        try:
            image = read_image(text, access=workshop.access)
        except NotFound:
            workshop.say(f"{text} is not there yet, so it has no layers to take")
            continue
        except WainError as error:
            log.warning("no layers are taken from %s: %s", text, "\n  ".join(filter(None, (error.message, error.hint))))
            continue
        images = image.images if isinstance(image, Index) else (image,)
        found.update({(text, item.platform): item for item in images})
        for platform in platforms:
            fitting = [item for item in images if item.platform.same_as(platform)]
            if not fitting:
                workshop.say(f"{text} has no image for {platform}, so it has no layers to take")
            elif not any(map(layers_of, fitting)):
                workshop.say(f"{text} was not made by wain, so it has no layers to take")
    return found


def reuse_for(
    platform: Platform,
    lock: Lock | None,
    earlier: Mapping[tuple[str, Platform], Image],
    request: Request,
    settings: WainSettings,
    workshop: Workshop,
) -> Reuse:
    """Where a platform's layers may be found: the lock's own, then those of the earlier images."""
    entries = [entry for entry in _locked_layers(lock) if entry.get("platform") == str(platform)]
    sources = [_locked_source(entry) for entry in entries]
    for (name, of), image in earlier.items():
        if of.same_as(platform):
            who = f"{name}, which --cache-from names,"
            sources.append(Source(who=who, layers=layers_of(image), wheels=KnownWheels.of_image(image)))
    names = (*request.destinations, *(request.cache_from or settings.cache_from))
    places = [place for name in names if isinstance(place := parse_reference(name), RegistryReference)]
    return Reuse(sources, places if request.reuses else (), workshop.access, verify=request.verify_cache)


def _locked_layers(lock: Lock | None) -> list[dict[str, JSON]]:
    value = lock.tool.get("layers") if lock else None
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _locked_source(entry: Mapping[str, JSON]) -> Source:
    """:raises LockError: when the lock's layers are malformed."""
    layers = entry.get("layers")
    try:
        wheels = KnownWheels.from_json(entry.get("wheels"))
    except (ValueError, KeyError, TypeError, AttributeError, ImageError) as error:
        raise LockError("the lock's layers are malformed", hint="Renew the lock with wain lock --layers.") from error
    return Source(
        who="the lock",
        layers=tuple(KnownLayer.from_json(item) for item in layers) if isinstance(layers, list) else (),
        wheels=wheels,
        is_whole=True,
    )


def locked_digests(lock: Lock) -> frozenset[Digest]:
    """The digests of all layers that a lock names."""
    return frozenset(layer.digest for entry in _locked_layers(lock) for layer in _locked_source(entry).layers)


def locked_facts(lock: Lock | None) -> list[Image]:
    """The base facts that a lock has, in the form in which an earlier image has them: its label."""
    return [
        Image(config=Config(platform=Platform(), runtime=Runtime(labels={LABEL: facts})))
        for entry in _locked_layers(lock)
        if isinstance(facts := entry.get("facts"), str)
    ]
