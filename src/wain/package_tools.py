"""What command lines of conda, pixi, apt, apk, dnf and npm say of their caches.

Source: the manuals of conda, micromamba, pixi, apt, apk, dnf and npm; tests build images with apt and npm and look.
"""

from __future__ import annotations

from wain.invocation import CacheUse, Invocation, Setting, Tool, begins_with, verb_of

_CONDA_VALUES = frozenset("-n --name -p --prefix -c --channel -f --file -r --root-prefix --solver".split())


def conda_prefix(call: Invocation) -> str:
    """Where conda lives, as far as its path, variables and PATH tell; /opt/conda where they do not."""
    program = call.argv[0] or ""
    if program.startswith("/") and "/bin/" in program and call.program in {"conda", "mamba"}:
        return program.rpartition("/bin/")[0]
    root = call.env.get("MAMBA_ROOT_PREFIX") or call.env.get("CONDA_DIR") or call.env.get("CONDA_PREFIX")
    if root:
        return root.rstrip("/")
    for entry in (call.env.get("PATH") or "").split(":"):
        if entry.endswith("/bin") and any(name in entry for name in ("conda", "mamba", "forge")):
            return entry.removesuffix("/bin")
    return "/opt/conda"


def _conda_use(call: Invocation) -> CacheUse | None:
    verb, rest, found = verb_of(call, _CONDA_VALUES)
    if verb == "env":
        verb = f"env {rest[0]}" if rest else verb
    if verb not in {"install", "create", "update", "upgrade", "env create", "env update"}:
        return None
    if any(name in {"--dry-run", "-d", "--offline"} for name, _ in found):
        return None
    folder = f"{conda_prefix(call)}/pkgs"
    if call.program == "micromamba" and not call.env.get("MAMBA_ROOT_PREFIX"):
        flag = next((value for name, value in found if name in {"-r", "--root-prefix"} and value), None)
        folder = f"{flag.rstrip('/')}/pkgs" if flag else call.under_home("micromamba/pkgs")
    place, setting, enabled = call.variable_place("CONDA_PKGS_DIRS", (folder, Setting(kind="default", name="")))
    place = place.split(",")[0].split(":")[0]
    return CacheUse(tool="conda", verb=verb, enabled=enabled, folders=(place,), home=place, switch=None, place=setting)


def _pixi_use(call: Invocation) -> CacheUse | None:
    verb, rest, _ = verb_of(call, frozenset({"-e", "--environment", "--manifest-path"}))
    if verb == "global" and rest[:1] == ["install"]:
        verb = "global install"
    if verb not in {"install", "add", "run", "update", "reinstall", "global install", "shell-hook"}:
        return None
    folder, place, enabled = call.variable_place("RATTLER_CACHE_DIR", call.cache_home("rattler"))
    folder, place, enabled = call.variable_place("PIXI_CACHE_DIR", (folder, place))
    return CacheUse(tool="pixi", verb=verb, enabled=enabled, folders=(folder,), home=folder, switch=None, place=place)


_APT_VALUES = frozenset({"-o", "--option", "-t", "--target-release", "-c", "--config-file"})


def _apt_use(call: Invocation) -> CacheUse | None:
    verb, _, found = verb_of(call, _APT_VALUES)
    default = Setting(kind="default", name="")
    if any("Dir::" in (value or "") or "Dir::" in name for name, value in found):
        return None
    if verb == "update":
        folders = ("/var/lib/apt/lists",)
    elif (
        verb in {"install", "upgrade", "dist-upgrade", "full-upgrade", "build-dep"}
        and call.files.get("/etc/apt/apt.conf.d/docker-clean", "") == ""
    ):
        # The official Debian and Ubuntu images delete the archives after each install, unless docker-clean is removed.
        folders = ("/var/cache/apt/archives",)
        if "/etc/apt/apt.conf.d/docker-clean" not in call.files:
            return None
    else:
        return None
    return CacheUse(tool="apt", verb=verb, enabled=True, folders=folders, home=folders[0], switch=None, place=default)


def _apk_use(call: Invocation) -> CacheUse | None:
    verb, _, found = verb_of(call, frozenset({"-t", "--virtual", "-X", "--repository", "-p", "--root"}))
    if verb not in {"add", "update", "upgrade"}:
        return None
    off = any(name == "--no-cache" for name, _ in found)
    return CacheUse(
        tool="apk",
        verb=verb,
        enabled=not off,
        folders=("/var/cache/apk",),
        home="/var/cache/apk",
        switch=Setting(kind="flag", name="--no-cache") if off else None,
        place=Setting(kind="default", name=""),
    )


_DNF_VALUES = frozenset({"-c", "--config", "--enablerepo", "--disablerepo", "--installroot"})


def _dnf_use(call: Invocation) -> CacheUse | None:
    verb, _, found = verb_of(call, _DNF_VALUES)
    known = {"install", "update", "upgrade", "groupinstall", "group", "localinstall", "reinstall", "makecache"}
    if verb not in known or any(name == "--installroot" for name, _ in found):
        return None
    folder = "/var/cache/yum" if call.program in {"yum", "microdnf"} else "/var/cache/dnf"
    return CacheUse(
        tool="dnf",
        verb=verb,
        enabled=True,
        folders=(folder,),
        home=folder,
        switch=None,
        place=Setting(kind="default", name=""),
    )


def _npm_use(call: Invocation) -> CacheUse | None:
    verb, _, found = verb_of(call, frozenset({"--prefix", "--cache", "--registry", "-w", "--workspace"}))
    if verb not in {"install", "i", "ci", "add", "update", "install-test", "clean-install", "isntall"}:
        return None
    folder = call.under_home(".npm")
    place = Setting(kind="default", name="")
    enabled: bool | None = True
    for variable in ("npm_config_cache", "NPM_CONFIG_CACHE"):
        folder, place, known = call.variable_place(variable, (folder, place))
        enabled = enabled if known else None
    for name, value in found:
        if name == "--cache":
            if value is None:
                enabled = None
            else:
                folder, place = call.path(value), Setting(kind="flag", name="--cache")
    return CacheUse(
        tool="npm",
        verb=verb,
        enabled=enabled,
        folders=(f"{folder}/_cacache",),
        home=folder,
        switch=None,
        place=place,
    )


def _conda_cleaned(call: Invocation) -> tuple[str, ...]:
    verb, _, found = verb_of(call)
    if verb != "clean":
        return ()
    names = {name for name, _ in found}
    short = "".join(name[1:] for name in names if not name.startswith("--"))
    # Archives and index are what weighs; unpacked packages are links into the environment.
    archives = "t" in short or "--tarballs" in names
    rest_of_it = {"p", "i"} & set(short) or {"--packages", "--index-cache"} & names
    if not ("a" in short or "--all" in names or (archives and rest_of_it)):
        return ()
    use = _conda_use(call.with_argv(call.argv[0], "install", "x"))
    return use.folders if use is not None else ()


def _pixi_cleaned(call: Invocation) -> tuple[str, ...]:
    if not begins_with(call, "clean", "cache"):
        return ()
    return (call.variable_place("PIXI_CACHE_DIR", call.cache_home("rattler"))[0],)


def _apt_cleaned(call: Invocation) -> tuple[str, ...]:
    verb, _, _ = verb_of(call, _APT_VALUES)
    if verb == "distclean":
        return ("/var/cache/apt/archives", "/var/lib/apt/lists")
    return ("/var/cache/apt/archives",) if verb == "clean" else ()


def _apk_cleaned(call: Invocation) -> tuple[str, ...]:
    return ("/var/cache/apk",) if begins_with(call, "cache", "purge") else ()


def _dnf_cleaned(call: Invocation) -> tuple[str, ...]:
    if not begins_with(call, "clean", "all", valued=_DNF_VALUES):
        return ()
    return ("/var/cache/yum", "/var/cache/dnf", "/var/cache/libdnf5")


def _npm_cleaned(call: Invocation) -> tuple[str, ...]:
    verb, rest, found = verb_of(call)
    forced = any(name in {"--force", "-f"} for name, _ in found)
    if verb != "cache" or rest[:1] not in (["clean"], ["clear"]) or not forced:
        return ()
    use = _npm_use(call.with_argv("npm", "ci"))
    return use.folders if use is not None else ()


CONDA = Tool(
    name="conda",
    programs=frozenset({"conda", "mamba", "micromamba"}),
    module=None,
    use=_conda_use,
    cleaned=_conda_cleaned,
)
PIXI = Tool(name="pixi", programs=frozenset({"pixi"}), module=None, use=_pixi_use, cleaned=_pixi_cleaned)
APT = Tool(name="apt", programs=frozenset({"apt", "apt-get"}), module=None, use=_apt_use, cleaned=_apt_cleaned)
APK = Tool(name="apk", programs=frozenset({"apk"}), module=None, use=_apk_use, cleaned=_apk_cleaned)
DNF = Tool(
    name="dnf",
    programs=frozenset({"dnf", "dnf5", "yum", "microdnf"}),
    module=None,
    use=_dnf_use,
    cleaned=_dnf_cleaned,
)
NPM = Tool(name="npm", programs=frozenset({"npm"}), module=None, use=_npm_use, cleaned=_npm_cleaned)
