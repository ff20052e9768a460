"""The store against a dict: whatever is done in whatever order, it holds what was put or says that it does not."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from wain.digest import Digest
from wain.errors import HashMismatch, StoreError
from wain.store import Store, recipe_key

contents = st.binary(max_size=40)
keys = st.integers(0, 5)
notes = st.text(max_size=300)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.parent = tempfile.TemporaryDirectory()
        self.root = Path(self.parent.name) / "cache"
        self.store = Store.open(self.root)
        self.blobs: dict[Digest, bytes] = {}
        self.memos: dict[int, int] = {}

    def teardown(self) -> None:
        self.store.close()
        self.parent.cleanup()

    @rule(data=contents, note=notes)
    def put(self, data: bytes, note: str) -> None:
        self.blobs[self.store.put(data, kind="wheel", note=note)] = data

    @rule(data=contents, cut=st.integers(0, 40))
    def download(self, data: bytes, cut: int) -> None:
        digest = Digest.of(data)
        with self.store.partial(digest, kind="wheel") as part:
            part.write(data[part.size_bytes : part.size_bytes + cut])
            if part.size_bytes == len(data):
                part.commit()
                self.blobs[digest] = data

    @rule(data=contents, promised=contents)
    def put_wrong(self, data: bytes, promised: bytes) -> None:
        if data != promised:
            with pytest.raises(HashMismatch):
                self.store.put(data, kind="wheel", expected=Digest.of(promised))

    @rule(key=keys, value=st.integers())
    def remember(self, key: int, value: int) -> None:
        self.store.put_memo("made", recipe_key(key), {"value": value})
        self.memos[key] = value

    @rule(key=keys)
    def forget(self, key: int) -> None:
        self.store.delete_memo("made", recipe_key(key))
        self.memos.pop(key, None)

    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        if not self.blobs:
            return
        digest = data.draw(st.sampled_from(sorted(self.blobs)))
        if not (right := self.blobs.pop(digest)):
            self.blobs[digest] = right
            return
        self.store.folder.blob(digest).write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
        if data.draw(st.booleans()):
            assert [bad.name for bad in self.store.verify()] == [digest.hex]
        else:
            with pytest.raises(HashMismatch), self.store.reader(digest) as reader:
                reader.read()

    @rule()
    def another_process(self) -> None:
        self.store.close()
        self.store = Store.open(self.root)

    @rule(cap=st.integers(0, 400))
    def prune(self, cap: int) -> None:
        self.another_process()
        self.store.prune(max_size_bytes=cap)
        found = self.store.contents()
        assert found.size_bytes <= cap
        self.blobs = {digest: data for digest, data in self.blobs.items() if self.store.has(digest)}
        self.memos = {key: value for key, value in self.memos.items() if self.store.memo("made", recipe_key(key))}

    @invariant()
    def holds_what_was_put(self) -> None:
        for digest, data in self.blobs.items():
            with self.store.reader(digest) as reader:
                assert reader.read() == data
        for key in range(6):
            memo = self.store.memo("made", recipe_key(key))
            assert memo == ({"value": self.memos[key]} if key in self.memos else None)
        assert {blob.name for blob in self.store.contents().blobs} == {digest.hex for digest in self.blobs}
        with pytest.raises(StoreError):
            self.store.reader(Digest.of(b"never put: longer than all that is drawn, so that it is not there"))


StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestStore = StoreMachine.TestCase
