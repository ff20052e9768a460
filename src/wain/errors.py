"""Every error that wain raises on purpose, with its exit code.

The tree::

    WainError                        (never raised itself)
    ├── UsageError               2   the command line, a setting or a reference is malformed
    ├── LockError                3   a lock file is malformed, stale or of a kind that is not read
    ├── ResolutionError          4   no set of versions fits the requirements
    │   ├── UnknownDistribution  5   no index has a distribution of that name
    │   └── NoWheel              6   the distribution has no wheel for a platform
    ├── HashMismatch             7   bytes are not those that were promised
    ├── TransferError            8   a download or upload failed after its retries
    │   ├── AuthError            9   credentials are missing or refused
    │   └── NotFound            10   the server has no such thing
    ├── Offline                 11   something is needed that only the network has
    ├── WheelError              12   a wheel breaks the wheel specification or is hostile
    ├── SdistError              13   a source distribution or project did not build
    ├── PythonError             14   the Python that is asked for cannot be had
    ├── BaseError               15   a base image is not usable
    ├── DebianError             16   a Debian mirror or package is not usable
    │   └── SignatureError      17   the archive's signature does not verify
    ├── ImageError              18   an image, layout, archive or manifest is malformed or hostile
    ├── ProjectError            19   the project cannot be made an image of
    ├── DockerfileError         20   a Dockerfile does not parse or asks for what cannot be done
    ├── EngineError             21   a container engine is missing or failed
    ├── StoreError              22   the store cannot do what was asked of it
    ├── OutputError             23   the destination cannot be written (disk full, no permission)
    └── InstallError            24   files cannot be installed where they should go

Exit code 1 means findings or a passed budget, 2 wrong usage, 130 an interrupt.
"""

from __future__ import annotations

from typing import ClassVar


class WainError(Exception):
    """What failed and on what; `hint` says what to do next.

    :param message: one sentence, no full stop needed, without credentials.
    :param hint: what the user can do about it, as one or more sentences.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(WainError):
    """The command line, a setting or a reference is malformed."""

    exit_code = 2


class LockError(WainError):
    """A lock file is malformed, stale or of a kind that is not read."""

    exit_code = 3


class ResolutionError(WainError):
    """No set of versions fits the requirements."""

    exit_code = 4


class UnknownDistribution(ResolutionError):
    """No index has a distribution of that name."""

    exit_code = 5


class NoWheel(ResolutionError):
    """The distribution has no wheel for a platform."""

    exit_code = 6


class HashMismatch(WainError):
    """Bytes are not those that were promised."""

    exit_code = 7


class TransferError(WainError):
    """A download or upload failed after its retries; `status` is the last answer's, where one came."""

    exit_code = 8

    def __init__(self, message: str, *, hint: str = "", status: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class AuthError(TransferError):
    """Credentials are missing or refused."""

    exit_code = 9


class NotFound(TransferError):
    """The server has no such thing."""

    exit_code = 10


class Offline(WainError):
    """Something is needed that only the network has."""

    exit_code = 11


class WheelError(WainError):
    """A wheel breaks the wheel specification or is hostile."""

    exit_code = 12


class SdistError(WainError):
    """A source distribution or project did not build."""

    exit_code = 13


class PythonError(WainError):
    """The Python that is asked for cannot be had."""

    exit_code = 14


class BaseError(WainError):
    """A base image is not usable."""

    exit_code = 15


class DebianError(WainError):
    """A Debian mirror or package is not usable."""

    exit_code = 16


class SignatureError(DebianError):
    """The archive's signature does not verify."""

    exit_code = 17


class ImageError(WainError):
    """An image, layout, archive or manifest is malformed or hostile."""

    exit_code = 18


class ProjectError(WainError):
    """The project cannot be made an image of."""

    exit_code = 19


class DockerfileError(WainError):
    """A Dockerfile does not parse or asks for what cannot be done."""

    exit_code = 20


class EngineError(WainError):
    """A container engine is missing or failed."""

    exit_code = 21


class StoreError(WainError):
    """The store cannot do what was asked of it."""

    exit_code = 22


class OutputError(WainError):
    """The destination cannot be written (disk full, no permission)."""

    exit_code = 23


class InstallError(WainError):
    """Files cannot be installed where they should go."""

    exit_code = 24
