"""A stage while it is built: its files, its configuration and history, and the layers that they become."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct, field
from msgspec.structs import replace

from wain.bases import BaseFacts
from wain.dockerfile import Instruction, dockerfile_error
from wain.errors import DockerfileError
from wain.filework import user_ids
from wain.image import Image
from wain.layers import Layer, files_layer
from wain.oci import History, Runtime
from wain.pipsteps import Tools
from wain.scopes import Scope
from wain.shares import Share, WheelFile
from wain.steps import DEFAULT_SHELL
from wain.store import Store
from wain.tree import Node, Tree, changes, entries, fetch_contents
from wain.ustar import ZIP_EPOCH
from wain.wheels import Wheel

_COMMENT = "buildkit.dockerfile.v0"


class Record(Struct, frozen=True, kw_only=True):
    """One line of a stage's history, with the states of the tree around it; `before` None is no layer."""

    created_by: str
    before: Node | None = None
    after: Node | None = None


class StageBuild(Struct, kw_only=True):
    """The state of a stage. Copies share what is behind them."""

    name: str
    """The Dockerfile's, for errors."""
    tree: Tree
    runtime: Runtime
    base: Image | None
    scope: Scope
    facts: Callable[[], BaseFacts]
    tools: Tools
    shell: tuple[str, ...] = DEFAULT_SHELL
    records: list[Record] = field(default_factory=list)
    wheels: list[Wheel] = field(default_factory=list)
    author: str | None = None
    args: list[str] = field(default_factory=list)
    """The ARGs that were declared, as RUN's history lists them."""
    cmd_is_set: bool = False
    now: int = ZIP_EPOCH

    def child(self, scope: Scope) -> StageBuild:
        """A stage that goes on from this one."""
        return StageBuild(
            name=self.name,
            tree=self.tree.copy(),
            runtime=self.runtime,
            base=self.base,
            scope=scope,
            facts=self.facts,
            tools=self.tools,
            shell=self.shell,
            records=list(self.records),
            wheels=list(self.wheels),
            author=self.author,
            args=list(self.args),
            now=self.now,
        )

    def fail(self, instruction: Instruction, message: str, hint: str = "") -> DockerfileError:
        return dockerfile_error(self.name, instruction.line, message, hint)

    def text(self, text: str, instruction: Instruction) -> str:
        """A value with its variables replaced."""
        return self.scope.expand(text, instruction).value or ""

    def record(self, created_by: str, before: Node | None = None) -> None:
        after = self.tree.mark() if before is not None else None
        self.records.append(Record(created_by=created_by, before=before, after=after))

    def with_runtime(self, **values: object) -> None:
        self.runtime = replace(self.runtime, **values)

    def user(self) -> tuple[int, int, str]:
        """uid, gid and home of who runs commands.

        :raises CommandFails: when the user is not known.
        """
        passwd, group = self.accounts()
        text = self.runtime.user or "0"
        uid, gid = user_ids(text, passwd, group)
        entry = next(
            (
                line.split(":")
                for line in passwd.splitlines()
                if line.count(":") >= 6 and line.split(":")[2] == str(uid)
            ),
            None,
        )
        if gid is None:
            gid = int(entry[3]) if entry is not None else 0
        home = entry[5] if entry is not None else "/"
        return uid or 0, gid, home or "/"

    def accounts(self) -> tuple[str, str]:
        return self.tree.text("etc/passwd") or "", self.tree.text("etc/group") or ""

    def workdir(self) -> str:
        return self.runtime.working_dir or "/"

    def layers(self, store: Store) -> tuple[list[Layer], list[History]]:
        """The layers above the base, and the history above the base's, in order.

        :raises WainError: of every kind that reading the files can have.
        """
        layers: list[Layer] = []
        history: list[History] = []
        for record in self.records:
            made = self._layers_of(record, store) if record.before is not None else []
            for layer in made:
                history.append(History(created_by=record.created_by, comment=_COMMENT))
                layers.append(layer)
            if not made:
                history.append(History(created_by=record.created_by, comment=_COMMENT, empty_layer=True))
        return layers, history

    def _layers_of(self, record: Record, store: Store) -> list[Layer]:
        assert record.before is not None and record.after is not None
        found = changes(record.before, record.after)
        if not found:
            return []
        tree = Tree(record.after)
        shares: dict[int, tuple[Share, list[str]]] = {}
        for path, node in found.nodes:
            content = node.content
            if (
                isinstance(content, WheelFile)
                and content.file.path == path
                and (node.mode, node.uid, node.gid, node.mtime) == (content.file.mode, 0, 0, ZIP_EPOCH)
            ):
                shares.setdefault(id(content.share), (content.share, []))[1].append(path)
        covered: set[str] = set()
        shared: list[Layer] = []
        for share, paths in shares.values():
            if len(paths) == share.count:
                shared.append(share.layer(tree, store))
                covered.update(paths)
        folders: set[str] = set()
        for path in covered:
            folder = path.rpartition("/")[0]
            while folder and folder not in folders:
                folders.add(folder)
                folder = folder.rpartition("/")[0]
        rest = [item for item in found.nodes if item[0] not in covered and item[0] not in folders]
        layers: list[Layer] = []
        if rest or found.removed or found.replaced:
            fetch_contents(replace(found, nodes=tuple(rest)))
            made = entries(found, without=frozenset(covered))
            layers.append(files_layer(made, store=store, created_by=record.created_by))
        return [*layers, *shared]


class Sources(Struct, frozen=True, kw_only=True):
    """Where COPY takes files from: the context, and what `--from` names."""

    context: Callable[[], Tree]
    named: Callable[[str], Tree]
