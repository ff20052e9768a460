"""All rules, one module each. `RULES` is in the order of the documentation: by id."""

from __future__ import annotations

from wain.rules import (
    apk_cache,
    apt_cache,
    build_tools,
    bytecode_compiled,
    bytecode_written,
    cache_mount_owner,
    cache_mount_platform,
    cache_mount_target,
    cache_mount_unused,
    cache_removed_later,
    chown_copy,
    conda_cache,
    copy_order,
    dnf_cache,
    dockerfile_syntax,
    layer_budget,
    npm_cache,
    pdm_cache,
    pip_build_cache,
    pip_cache,
    pip_no_cache_value,
    pip_upgrade,
    pipenv_cache,
    pipx_cache,
    pixi_cache,
    poetry_cache,
    root_owned,
    secret_arg,
    secret_env,
    secret_file,
    secret_url,
    torch_cuda,
    unpinned_base,
    uv_cache,
)
from wain.rules.rule import DockerfileSubject, Options, Rule

__all__ = ["BY_ID", "RULES", "DockerfileSubject", "Options", "Rule"]

RULES: tuple[Rule, ...] = tuple(
    sorted(
        (
            module.RULE
            for module in (
                apk_cache,
                apt_cache,
                build_tools,
                bytecode_compiled,
                bytecode_written,
                cache_mount_owner,
                cache_mount_platform,
                cache_mount_target,
                cache_mount_unused,
                cache_removed_later,
                chown_copy,
                conda_cache,
                copy_order,
                dnf_cache,
                dockerfile_syntax,
                layer_budget,
                npm_cache,
                pdm_cache,
                pip_build_cache,
                pip_cache,
                pip_no_cache_value,
                pip_upgrade,
                pipenv_cache,
                pipx_cache,
                pixi_cache,
                poetry_cache,
                root_owned,
                secret_arg,
                secret_env,
                secret_file,
                secret_url,
                torch_cuda,
                unpinned_base,
                uv_cache,
            )
        ),
        key=lambda rule: rule.id,
    )
)
BY_ID: dict[str, Rule] = {rule.id: rule for rule in RULES}
