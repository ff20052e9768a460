"""A registry over loopback HTTP with every fault that registries have, and images to push to it.

For tests, also of programs that use this library. It keeps everything in memory.

Source: OCI distribution specification 1.1; the distribution project's token authentication document.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import itertools
import json
import random
import re
import tarfile
from collections.abc import Callable
from typing import ClassVar
from urllib.parse import parse_qs

from msgspec import Struct, field

from wain.digest import Digest
from wain.faults import Answer, Fault, FaultyHandler, FaultyServer, Request
from wain.image import Image, Index
from wain.layers import Layer
from wain.oci import DOCKER_INDEX, DOCKER_MANIFEST, INDEX_TYPES, MANIFEST, MANIFEST_TYPES, Config, Runtime, load_json
from wain.platforms import Platform

__all__ = [
    "Fault",
    "LoopbackRegistry",
    "Request",
    "random_image",
    "random_index",
    "random_layer",
    "schema2_image",
]

_UPLOADS = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<upload>[^/]*)$")
_BLOBS = re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>[^/]+)$")
_MANIFESTS = re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)$")


def random_layer(seed: int, size_bytes: int = 2000, *, path: str | None = None) -> Layer:
    """A layer of one file with bytes that do not compress; the same seed gives the same layer."""
    data = random.Random(seed).randbytes(size_bytes)  # noqa: S311  (no secret)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        member = tarfile.TarInfo(path or f"data/{seed}")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    packed = gzip.compress(plain.getvalue(), mtime=0)
    return Layer(
        digest=Digest.of(packed),
        diff_id=Digest.of(plain.getvalue()),
        size_bytes=len(packed),
        source=lambda: io.BytesIO(packed),
        unpacked_bytes=size_bytes,
        created_by=f"random {seed}",
    )


def random_image(seed: int = 0, *, layers: int = 3, layer_bytes: int = 2000, platform: Platform | None = None) -> Image:
    """An image of random layers; the same arguments give the same image."""
    config = Config(platform=platform or Platform(), runtime=Runtime(cmd=("/bin/true",), env=(f"SEED={seed}",)))
    return Image(config=config).append(*(random_layer(seed * 1000 + n, layer_bytes) for n in range(layers)))


def random_index(seed: int = 0, *, layers: int = 2, layer_bytes: int = 2000) -> Index:
    """Images for amd64 and arm64."""
    platforms = (Platform("linux", "amd64"), Platform("linux", "arm64"))
    return Index(
        images=tuple(
            random_image(seed * 10 + n, layers=layers, layer_bytes=layer_bytes, platform=platform)
            for n, platform in enumerate(platforms)
        )
    )


class _Repository(Struct):
    blobs: set[str] = field(default_factory=set)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class _Token(Struct):
    scopes: frozenset[str]
    uses_left: int | None


def _error(status: int, code: str, message: str = "") -> Answer:
    document = {"errors": [{"code": code, "message": message or code.replace("_", " ").lower()}]}
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(document).encode())


class LoopbackRegistry(FaultyServer):
    """A registry on a port of its own, from `with` until its end.

    >>> with LoopbackRegistry() as registry:
    ...     registry.host.startswith("127.0.0.1:")
    True
    """

    def __init__(
        self,
        *,
        address: str = "127.0.0.1",
        auth: str | None = None,
        username: str = "user",
        password: str = "password",  # noqa: S107  (of a server for tests)
        identity_token: str | None = None,
        token_uses: int | None = None,
        token_scopes: Callable[[str, str], str] | None = None,
        anonymous_pull: bool = False,
        mounts: bool = True,
        chunks: bool = True,
        whole: bool = True,
        min_chunk_bytes: int = 0,
        max_body_bytes: int | None = None,
        relative_location: bool = False,
        oci_types: bool = True,
        storage: LoopbackRegistry | None = None,
        redirect_status: int = 307,
        redirect_uploads: bool = False,
    ) -> None:
        """
        :param auth: `basic`, `bearer`, or None for none.
        :param token_uses: requests that a token is good for.
        :param token_scopes: (method, repository) -> the scope that is asked for instead of the usual one.
        :param whole: whether a blob may be put with the request that ends its upload.
        :param storage: another server, to which requests for blobs are redirected with `redirect_status`.
        :param redirect_uploads: the Location of uploads is on `storage` too.
        """
        super().__init__(address, _Handler)
        self.auth, self.username, self.password, self.identity_token = auth, username, password, identity_token
        self.token_uses, self.token_scopes, self.anonymous_pull = token_uses, token_scopes, anonymous_pull
        self.mounts, self.chunks, self.whole, self.min_chunk_bytes = mounts, chunks, whole, min_chunk_bytes
        self.max_body_bytes, self.relative_location, self.oci_types = max_body_bytes, relative_location, oci_types
        self.storage, self.redirect_status, self.redirect_uploads = storage, redirect_status, redirect_uploads
        self.blobs: dict[str, bytes] = {}
        self.repositories: dict[str, _Repository] = {}
        self.uploads: dict[str, tuple[LoopbackRegistry, str, bytearray]] = {}
        self.upload_numbers = itertools.count()
        self.tokens: dict[str, _Token] = {}

    def reference(self, repository: str, tag: str = "1") -> str:
        """`host:port/repository:tag`."""
        return f"{self.host}/{repository}:{tag}"

    def repository(self, name: str) -> _Repository:
        with self.lock:
            return self.repositories.setdefault(name, _Repository())

    def add_blob(self, repository: str, data: bytes) -> str:
        digest = Digest.of(data)
        with self.lock:
            self.blobs[digest] = data
            self.repository(repository).blobs.add(digest)
        return digest

    def add_manifest(self, repository: str, data: bytes, media_type: str, tag: str | None = None) -> str:
        """Puts a manifest there as it is, whatever it names."""
        digest = Digest.of(data)
        with self.lock:
            self.repository(repository).manifests[digest] = (media_type, data)
            if tag:
                self.repository(repository).tags[tag] = digest
        return digest

    def state(self, repository: str, tag: str) -> str | None:
        """The digest that a tag names, whose manifests and blobs are all there; None where there is no such tag.

        :raises AssertionError: when something is missing: a reader would see half an image.
        """
        with self.lock:
            digest = self.repository(repository).tags.get(tag)
            if digest is not None:
                self._assert_whole(repository, digest)
            return digest

    def _assert_whole(self, name: str, digest: str) -> None:
        held = self.repository(name)
        assert digest in held.manifests, f"manifest {digest} is missing"
        for missing in _references(*held.manifests[digest]):
            kind, inner = missing
            if kind == "manifest":
                self._assert_whole(name, inner)
            else:
                assert inner in held.blobs, f"blob {inner} is missing"
                assert Digest.of(self.blobs[inner]) == inner


def _references(media_type: str, data: bytes) -> list[tuple[str, str]]:
    value = load_json(data, "manifest")
    found: list[tuple[str, str]] = []
    for key in ("manifests", "layers"):
        items = value.get(key)
        kind = "manifest" if key == "manifests" else "blob"
        listed = items if isinstance(items, list) else []
        found.extend((kind, str(item.get("digest"))) for item in listed if isinstance(item, dict))
    config = value.get("config")
    if isinstance(config, dict):
        found.append(("blob", str(config.get("digest"))))
    return found


class _Handler(FaultyHandler):
    _routes: ClassVar[list[tuple[re.Pattern[str], str]]] = [
        (_UPLOADS, "_uploads"),
        (_BLOBS, "_blobs"),
        (_MANIFESTS, "_manifests"),
    ]

    @property
    def registry(self) -> LoopbackRegistry:
        assert isinstance(self.server.owner, LoopbackRegistry)
        return self.server.owner

    def dispatch(self, request: Request) -> None:
        registry = self.registry
        if request.path == "/token":
            self._token(request)
        if request.path.startswith("/storage/"):
            self._storage(request)
        if request.path == "/v2/":
            self._authorize("registry:catalog:*" if registry.auth else None, request, "")
            raise Answer(200, {"Docker-Distribution-Api-Version": "registry/2.0"}, b"{}")
        if registry.max_body_bytes is not None and self.left > registry.max_body_bytes:
            raise _error(413, "SIZE_INVALID", "the body is too large")
        for pattern, route in self._routes:
            match = pattern.match(request.path)
            if match:
                name = match["name"]
                verb = "pull" if request.method in ("GET", "HEAD") and route != "_uploads" else "pull,push"
                scope = f"repository:{name}:{verb}"
                if registry.token_scopes is not None:
                    scope = registry.token_scopes(request.method, name)
                self._authorize(scope, request, name)
                getattr(self, route)(request, **match.groupdict())
        raise _error(404, "NAME_UNKNOWN")

    # Logins.

    def _authorize(self, scope: str | None, request: Request, name: str) -> None:
        registry = self.registry
        if registry.auth is None:
            return
        if registry.anonymous_pull and registry.auth == "basic" and scope and scope.endswith(":pull"):
            return
        given = request.authorization or ""
        if registry.auth == "basic":
            if given == self._basic():
                return
            raise Answer(401, {"WWW-Authenticate": 'Basic realm="test"'})
        challenge = f'Bearer realm="{registry.base}/token",service="test"'
        if scope and not scope.startswith("registry:"):
            challenge += f',scope="{scope}"'
        with registry.lock:
            token = registry.tokens.get(given.removeprefix("Bearer "))
            if token is not None and token.uses_left != 0:
                allowed = scope is None or scope.startswith("registry:") or _covers(token.scopes, scope)
                if allowed:
                    if token.uses_left is not None:
                        token.uses_left -= 1
                    return
        raise Answer(401, {"WWW-Authenticate": challenge})

    def _basic(self) -> str:
        pair = f"{self.registry.username}:{self.registry.password}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    def _token(self, request: Request) -> None:
        registry = self.registry
        fields = parse_qs(request.query)
        if request.method == "POST":
            fields = parse_qs(self.read_body().decode())
            if fields.get("refresh_token") != [registry.identity_token]:
                raise _error(401, "UNAUTHORIZED")
            scopes = [scope for text in fields.get("scope", []) for scope in text.split()]
        else:
            scopes = fields.get("scope", [])
            known = request.authorization == self._basic()
            if request.authorization and not known:
                raise _error(401, "UNAUTHORIZED")
            if not known:
                scopes = [scope for scope in scopes if registry.anonymous_pull and scope.endswith(":pull")]
        with registry.lock:
            value = f"token-{len(registry.tokens)}-{hashlib.sha256(repr(scopes).encode()).hexdigest()[:8]}"
            registry.tokens[value] = _Token(frozenset(scopes), registry.token_uses)
        raise Answer(
            200, {"Content-Type": "application/json"}, json.dumps({"token": value, "expires_in": 300}).encode()
        )

    # Blobs.

    def _storage(self, request: Request) -> None:
        """Blobs by digest without a login, for requests that another server has redirected here."""
        name = request.path.removeprefix("/storage/")
        if name.startswith("upload/"):
            self._continue_upload(request, name.removeprefix("upload/"))
        self._give(name)

    def _give(self, digest: str) -> None:
        data = self.registry.blobs.get(digest)
        if data is None:
            raise _error(404, "BLOB_UNKNOWN")
        headers = {"Docker-Content-Digest": digest, "Content-Type": "application/octet-stream", "ETag": f'"{digest}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted and self.command == "GET":
            start = int(wanted[1])
            if start >= len(data):
                raise Answer(416, {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            raise Answer(206, headers, data[start:])
        if self.command == "HEAD":
            raise Answer(200, {**headers, "Content-Length": str(len(data))})
        raise Answer(200, headers, data)

    def _blobs(self, request: Request, name: str, digest: str) -> None:
        registry = self.registry
        if request.method not in ("GET", "HEAD"):
            raise _error(405, "UNSUPPORTED")
        if digest not in registry.repository(name).blobs:
            raise _error(404, "BLOB_UNKNOWN")
        if registry.storage is not None and request.method == "GET":
            with registry.lock:
                registry.storage.blobs[digest] = registry.blobs[digest]
            target = f"{registry.storage.base}/storage/{digest}?signature=secret"
            raise Answer(registry.redirect_status, {"Location": target})
        self._give(digest)

    def _uploads(self, request: Request, name: str, upload: str) -> None:
        registry = self.registry
        if upload:
            self._continue_upload(request, upload)
        if request.method != "POST":
            raise _error(405, "UNSUPPORTED")
        fields = parse_qs(request.query)
        if "mount" in fields and registry.mounts:
            digest, source = fields["mount"][0], fields.get("from", [""])[0]
            if digest in registry.repository(source).blobs:
                self._authorize(f"repository:{source}:pull", request, source)
                registry.repository(name).blobs.add(digest)
                location = f"{registry.base}/v2/{name}/blobs/{digest}"
                raise Answer(201, {"Location": location, "Docker-Content-Digest": digest})
        with registry.lock:
            key = f"u{next(registry.upload_numbers)}"
            registry.uploads[key] = (registry, name, bytearray())
            if registry.storage is not None and registry.redirect_uploads:
                registry.storage.uploads[key] = registry.uploads[key]
        raise Answer(202, self._upload_headers(key))

    def _upload_headers(self, key: str) -> dict[str, str]:
        registry = self.registry
        owner, name, data = registry.uploads[key]
        path = f"/v2/{name}/blobs/uploads/{key}?_state=a%2Bb%3D%3D{len(data)}"
        if self.path.startswith("/storage/"):
            location = f"{registry.base}/storage/upload/{key}?_state=a%2Bb%3D%3D{len(data)}"
        elif registry.storage is not None and registry.redirect_uploads:
            location = f"{registry.storage.base}/storage/upload/{key}?_state=a%2Bb%3D%3D{len(data)}"
        else:
            location = path if registry.relative_location else registry.base + path
        headers = {"Location": location, "Docker-Upload-UUID": key, "Range": f"0-{max(len(data) - 1, 0)}"}
        if owner.min_chunk_bytes:
            headers["OCI-Chunk-Min-Length"] = str(owner.min_chunk_bytes)
        return headers

    def _continue_upload(self, request: Request, key: str) -> None:
        registry = self.registry
        if key not in registry.uploads:
            raise _error(404, "BLOB_UPLOAD_UNKNOWN")
        owner, name, data = registry.uploads[key]
        fields = parse_qs(request.query)
        # The state must come back as it was given, whatever characters it has.
        state = fields.get("_state", [""])[0]
        if not state.startswith("a+b==") or (request.method != "GET" and state != f"a+b=={len(data)}"):
            raise _error(404, "BLOB_UPLOAD_UNKNOWN", "the state is not the one that was given")
        if request.method == "GET":
            raise Answer(204, self._upload_headers(key))
        if request.method == "PATCH":
            self._chunk(request, key, data)
        if request.method != "PUT":
            raise _error(405, "UNSUPPORTED")
        if self.left and not owner.whole:
            raise _error(405, "UNSUPPORTED", "blobs are taken in chunks")
        if self.left:
            data += self.read_body()
        digest = fields.get("digest", [""])[0]
        with owner.lock:
            registry.uploads.pop(key, None)
            owner.uploads.pop(key, None)
        if Digest.of(data) != digest:
            raise _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        with owner.lock:
            owner.blobs[digest] = bytes(data)
            owner.repository(name).blobs.add(digest)
        raise Answer(201, {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})

    def _chunk(self, request: Request, key: str, data: bytearray) -> None:
        owner = self.registry.uploads[key][0]
        if not owner.chunks:
            raise _error(405, "UNSUPPORTED", "blobs are taken whole")
        given = re.fullmatch(r"(\d+)-(\d+)", request.headers.get("content-range", ""))
        if given is None:
            raise _error(400, "BLOB_UPLOAD_INVALID", "no Content-Range")
        start, end = int(given[1]), int(given[2])
        if start != len(data) or end - start + 1 != self.left:
            self.read_body()
            headers = self._upload_headers(key)
            raise Answer(416, headers)
        # What came before a cut stays, as real registries have it.
        for piece in self.body_pieces():
            data += piece
        raise Answer(202, self._upload_headers(key))

    # Manifests.

    def _manifests(self, request: Request, name: str, reference: str) -> None:
        registry = self.registry
        held = registry.repository(name)
        if request.method == "PUT":
            self._put_manifest(request, name, reference)
        if request.method not in ("GET", "HEAD"):
            raise _error(405, "UNSUPPORTED")
        digest = reference if ":" in reference else held.tags.get(reference, "")
        if digest not in held.manifests:
            raise _error(404, "MANIFEST_UNKNOWN")
        media_type, data = held.manifests[digest]
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest}
        if request.method == "HEAD":
            raise Answer(200, {**headers, "Content-Length": str(len(data))})
        raise Answer(200, headers, data)

    def _put_manifest(self, request: Request, name: str, reference: str) -> None:
        registry = self.registry
        data = self.read_body()
        media_type = request.headers.get("content-type", "")
        held = registry.repository(name)
        if media_type not in (*MANIFEST_TYPES, *INDEX_TYPES):
            raise _error(400, "MANIFEST_INVALID")
        if not registry.oci_types and media_type not in (DOCKER_MANIFEST, DOCKER_INDEX):
            raise _error(400, "MANIFEST_INVALID", "manifest type is not supported")
        digest = Digest.of(data)
        if ":" in reference and reference != digest:
            raise _error(400, "DIGEST_INVALID")
        with registry.lock:
            for kind, inner in _references(media_type, data):
                if kind == "manifest" and inner not in held.manifests:
                    raise _error(404, "MANIFEST_UNKNOWN", f"{inner} is unknown")
                if kind == "blob" and inner not in held.blobs:
                    raise _error(400, "MANIFEST_BLOB_UNKNOWN", f"{inner} is unknown")
            held.manifests[digest] = (media_type, data)
            if ":" not in reference:
                held.tags[reference] = digest
        raise Answer(201, {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest})


def _covers(scopes: frozenset[str], wanted: str) -> bool:
    name, _, verbs = wanted.rpartition(":")
    for scope in scopes:
        own_name, _, own_verbs = scope.rpartition(":")
        if own_name == name and set(verbs.split(",")) <= set(own_verbs.split(",")):
            return True
    return False


def schema2_image(image: Image) -> tuple[bytes, bytes]:
    """Manifest and config of an image as Docker's older format has them."""
    from wain.registry import to_schema2

    converted = to_schema2(image)
    assert isinstance(converted, Image)
    assert converted.manifest.media_type != MANIFEST
    return converted.manifest_bytes, converted.config_bytes
