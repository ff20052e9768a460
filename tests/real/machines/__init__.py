"""Other people's programs, set up so that tests can hold wain's images against them.

Every module here is a plain library that benchmarks use too; the fixtures over it are in `tests/real/conftest.py`.
From the ground up:

- `places`: the cache between runs, `require_tool` (a missing program leaves a test out, and with CI=true fails it).
- `processes`: programs run to their end, or beside a test, within bounds.
- `registry`: docker-registry, open, with a password, or with TLS; its storage and request log.
- `index_front`: this machine's package index on loopback, kept on disk; its request log.
- `wire`: a port in front of another that counts every byte.
- `runtime`: umoci and runc, without a daemon, other architectures by emulation.
- `machine`: namespaces for daemons, on the host's programs or on a Debian root.
- `docker`, `trixie`: docker with the classic and with containerd's store, containerd, podman.
- `debian`, `layouts`, `bases`: Debian roots, layouts written by hand, the base images made of them.
- `wain`: the command itself.

Everything listens on 127.0.0.1 of the host's own network, so a daemon, a container with `--network host`, a registry
and the index's front all reach each other; nothing makes a bridge or a firewall rule. What is slow to make is kept in
`~/.cache/wain-tests` (or `WAIN_TESTS_CACHE`), which may be removed at any time; `python -m tests.real.machines`
makes it.
"""
