"""Platforms, and the Python environments on them that a wheel must fit.

Sources: OCI image index specification, "platform"; PyPA specifications, platform compatibility tags and
dependency specifiers (environment markers).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

from wain.errors import BaseError, PythonError, UsageError

if TYPE_CHECKING:
    from packaging.markers import Environment
    from packaging.tags import Tag

# GOARCH -> (machine as uname says it, as wheel tags say it).
_MACHINES = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "386": "i686",
    "arm": "armv7l",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}
_ALIASES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
    "armhf": "arm",
}
_DEBIAN_ARCHITECTURES = {
    "amd64": "amd64",
    "arm64": "arm64",
    "386": "i386",
    "arm": "armhf",
    "ppc64le": "ppc64el",
    "s390x": "s390x",
    "riscv64": "riscv64",
}


class Platform(Struct, frozen=True, order=True):
    """`os/architecture[/variant]` with Go's names, as the OCI specification has them."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        """`linux/arm64`, `linux/arm/v7`, and the aliases that people type (`aarch64`).

        :raises UsageError: when the text is no platform that wain can build for.
        """
        parts = text.strip().lower().split("/")
        if len(parts) == 1:
            parts = ["linux", *parts]
        if (
            len(parts) > 3
            or parts[1] in ("linux", "windows", "darwin")
            or not all(re.fullmatch(r"[a-z0-9_.-]+", part) for part in parts)
        ):
            raise UsageError(f"{text!r} is not a platform", hint="Write linux/amd64 or linux/arm64.")
        architecture = _ALIASES.get(parts[1], parts[1])
        variant = parts[2] if len(parts) == 3 else None
        if architecture == "arm64" and variant == "v8":
            variant = None  # every arm64 is v8; the specification's default
        if architecture == "arm" and variant is None:
            variant = "v7"
        return cls(parts[0], architecture, variant)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def same_as(self, other: Platform) -> bool:
        """Whether both name one platform: images say `arm64` with and without the variant that is its only one."""
        return self._plain() == other._plain()

    def _plain(self) -> tuple[str, str, str | None]:
        default = {("arm64", "v8"): None, ("amd64", "v1"): None, ("arm", None): "v7"}
        variant = default.get((self.architecture, self.variant), self.variant)
        return self.os, self.architecture, variant

    @property
    def machine(self) -> str:
        """The machine as `platform.machine()` says it on this platform, `x86_64` for amd64.

        :raises UsageError: when no wheel tag is known for it.
        """
        try:
            return _MACHINES[self.architecture]
        except KeyError:
            raise UsageError(
                f"no wheels are known for {self}", hint=f"wain builds for {', '.join(sorted(_MACHINES))}."
            ) from None

    @property
    def debian_architecture(self) -> str:
        """Debian's name of it, `arm64`, `ppc64el`.

        :raises UsageError: when Debian has no such architecture.
        """
        try:
            return _DEBIAN_ARCHITECTURES[self.architecture]
        except KeyError:
            raise UsageError(f"Debian has no architecture for {self}", hint="Name a base image.") from None

    @classmethod
    def host(cls) -> Platform:
        """This machine's, with `linux` for the system: images are Linux images."""
        import platform

        machine = platform.machine().lower()
        return cls.parse(f"linux/{machine}")


class PythonVersion(Struct, frozen=True, kw_only=True):
    """A full version of CPython, 3.13.5; free-threaded builds are told apart by their ABI."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> PythonVersion:
        """`3.13.5`; pre-release suffixes (`3.14.0rc1`) are dropped.

        :raises PythonError: when the text is no full version.
        """
        match = re.match(r"(\d+)\.(\d+)\.(\d+)", text.strip())
        if not match:
            raise PythonError(f"{text!r} is not a full Python version", hint="Write it like 3.13.5.")
        return cls(major=int(match[1]), minor=int(match[2]), patch=int(match[3]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def short(self) -> str:
        """`3.13`."""
        return f"{self.major}.{self.minor}"


def parse_python_minor(text: str) -> str:
    """`3.13` from what a user writes for a Python: `3.13`, `3.13.2`, `python3.13`, `cp313`.

    :raises PythonError: when it is free-threaded, another implementation, or no version.
    """
    cleaned = text.strip().lower().removeprefix("cpython").removeprefix("python").lstrip("-@ ")
    if match := re.fullmatch(r"cp3(\d{1,2})", cleaned):
        return f"3.{match[1]}"
    if re.fullmatch(r"3\.\d{1,2}(\.\d+)?t", cleaned):
        raise PythonError(
            f"Python {text} is a free-threaded build, which no base of wain has",
            hint=f"Use {cleaned.rstrip('t')}, or a base image that has it with --base.",
        )
    if match := re.fullmatch(r"(3\.\d{1,2})(\.\d+)?((a|b|rc)\d+)?", cleaned):
        return match[1]
    raise PythonError(f"{text!r} is not a version of CPython 3", hint="Write it like 3.13.")


class Target(Struct, frozen=True, kw_only=True):
    """The Python environment that wheels must fit: an interpreter, its ABI and its libc on a platform."""

    platform: Platform
    python: PythonVersion
    abi: str
    """`cp313`, or `cp313t` for a free-threaded build."""
    libc: str = "glibc"
    """`glibc` or `musl`."""
    libc_version: tuple[int, int] = (2, 36)

    def tags(self) -> list[Tag]:
        """The wheel tags that fit, best first, as the interpreter itself would list them.

        :raises BaseError: when the libc is unknown.
        """
        from packaging.tags import compatible_tags, cpython_tags

        platforms = list(self._platform_tags())
        version = (self.python.major, self.python.minor)
        interpreter = f"cp{self.python.major}{self.python.minor}"
        return [
            *cpython_tags(version, [self.abi], platforms),
            *compatible_tags(version, interpreter, platforms),
        ]

    def _platform_tags(self) -> list[str]:
        machine = self.platform.machine
        major, minor = self.libc_version
        if self.libc == "musl":
            return [*(f"musllinux_1_{n}_{machine}" for n in range(minor, -1, -1)), f"linux_{machine}"]
        if self.libc != "glibc" or major != 2:
            raise BaseError(f"libc {self.libc} {major}.{minor} is not known", hint="Use a base with glibc or musl.")
        legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        oldest = 5 if machine in ("x86_64", "i686") else 17
        tags = []
        for n in range(minor, oldest - 1, -1):
            tags.append(f"manylinux_2_{n}_{machine}")
            if n in legacy:
                tags.append(f"{legacy[n]}_{machine}")
        return [*tags, f"linux_{machine}"]

    def markers(self) -> Environment:
        """Every marker variable of the environment, so that none is taken from the host."""
        return {
            "implementation_name": "cpython",
            "implementation_version": str(self.python),
            "os_name": "posix",
            "platform_machine": self.platform.machine,
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "platform_python_implementation": "CPython",
            "python_full_version": str(self.python),
            "python_version": self.python.short,
            "sys_platform": "linux",
        }

    def __str__(self) -> str:
        libc = f"{self.libc} {self.libc_version[0]}.{self.libc_version[1]}"
        return f"CPython {self.python} ({self.abi}, {libc}) on {self.platform}"
