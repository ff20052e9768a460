"""The layers of an image that wain made, put on another base, without the project at hand."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec.structs import replace

from wain.base_choice import open_base
from wain.bases import LABEL, BaseFacts, base_facts
from wain.build import BASE_DIGEST, BASE_LAYERS, BASE_NAME
from wain.debian import BASE_RUNTIME
from wain.errors import BaseError, ImageError
from wain.image import Image, Index
from wain.names import RegistryReference, parse_reference
from wain.oci import Config, Runtime
from wain.request import Workshop
from wain.settings import WainSettings
from wain.transfer import read_image

_ADDED_PACKAGES = re.compile(r"wain: debian packages: (\S+ \S+(?:, \S+ \S+)*)")


def rebase(image: Image | Index, onto: str, workshop: Workshop) -> Image | Index:
    """The image or index on another base, for each of its platforms.

    :param onto: a reference, or `debian:SUITE` for the built-in base with the newest packages.
    :raises BaseError: when wain did not make the image, or the new base lacks what its layers need.
    """
    if isinstance(image, Index):
        return Index(images=tuple(_rebase_one(item, onto, workshop) for item in image.images))
    return _rebase_one(image, onto, workshop)


def _rebase_one(image: Image, onto: str, workshop: Workshop) -> Image:
    old, old_facts = _base_of(image, workshop)
    name, new = open_base(onto, image.platform, WainSettings(), workshop, packages=_added_packages(old))
    facts = base_facts(new, workshop.store)
    if problems := differences(old_facts, facts):
        raise BaseError(
            f"the image's layers do not fit {name}: {'; '.join(problems)}",
            hint="Build the image anew on that base: wain build --base REF.",
        )
    moved = image.rebase(old, new)
    labels = {
        **moved.config.runtime.labels,
        BASE_NAME: name,
        BASE_DIGEST: new.digest,
        BASE_LAYERS: str(len(new.layers)),
    }
    if (label := facts.to_label()) is not None:
        labels[LABEL] = label
    else:
        labels.pop(LABEL, None)
    moved = moved.with_runtime(replace(moved.config.runtime, labels=labels))
    return moved.with_annotations({BASE_NAME: name, BASE_DIGEST: new.digest})


def _base_of(image: Image, workshop: Workshop) -> tuple[Image, BaseFacts]:
    """The base that an image was made on, and its facts, as the image's labels say."""
    labels = image.config.runtime.labels
    count, name, label = labels.get(BASE_LAYERS, ""), labels.get(BASE_NAME, ""), labels.get(LABEL)
    if not count.isdigit() or not name or not 0 < int(count) <= len(image.layers):
        raise BaseError(
            "the image does not say what base it was made on", hint="Only images that wain built can be rebased."
        )
    number = int(count)
    reference = parse_reference(name)
    if name.startswith("debian:"):
        runtime: Runtime = BASE_RUNTIME
        if label is not None:
            runtime = replace(runtime, cmd=(BaseFacts.from_label(label).interpreter,))
        base = Image(config=Config(platform=image.platform, runtime=runtime)).append(*image.layers[:number])
    else:
        if isinstance(reference, RegistryReference) and (digest := labels.get(BASE_DIGEST)):
            name = f"{name.partition('@')[0]}@{digest}"
        found = read_image(name, platform=image.platform, access=workshop.access)
        base = found.image_for(image.platform) if isinstance(found, Index) else found
    if base.config.diff_ids != image.config.diff_ids[:number]:
        raise ImageError(
            f"{name} is not the base that the image was made on", hint="Build the image anew: wain build --base REF."
        )
    return base, BaseFacts.from_label(label) if label is not None else base_facts(base, workshop.store)


def _added_packages(base: Image) -> tuple[str, ...]:
    """The Debian packages that a built-in base was given, as its history says: the new one is to have them too."""
    found = [match for layer in base.layers if (match := _ADDED_PACKAGES.fullmatch(layer.created_by))]
    return tuple(item.partition(" ")[0] for match in found for item in match[1].split(", "))


def differences(old: BaseFacts, new: BaseFacts) -> Sequence[str]:
    """In what a new base lacks what layers made for an old one need; empty where they fit."""
    problems = []
    for what, before, after in (
        ("platform", old.platform, new.platform),
        ("Python", old.python.short, new.python.short),
        ("interpreter", old.interpreter, new.interpreter),
        ("ABI", old.abi, new.abi),
        ("C library", old.libc, new.libc),
    ):
        if before != after:
            problems.append(f"its {what} is {after}, not {before}")
    if not problems and new.libc_version < old.libc_version:
        problems.append(f"its {new.libc} is older: {new.libc_version[0]}.{new.libc_version[1]}")
    if (old.passwd, old.group) != (new.passwd, new.group):
        problems.append("its users are others, and the image has a passwd of its own")
    if any(new.resolve(path) != old.resolve(path) for path in ("etc", "home", "opt", "app")):
        problems.append("its links are others")
    return problems
