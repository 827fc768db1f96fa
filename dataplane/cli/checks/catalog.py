"""The list of all checks, in the order of the report, for what was asked.

What several checks share (the settings, the driver's answer, the server's) is found once: settings
here, since a broken file is a finding that the others depend on, the rest by the first check that
needs it. A group whose code cannot be imported, because the native module is missing, is one line
that says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dataplane.cli.checks import gpu, limits, mounting, software
from dataplane.cli.checks.finding import Check, Finding, ok, skip, warn
from dataplane.cli.checks.nvml import Driver, ask_driver, gpus_on_bus
from dataplane.cli.checks.once import Once
from dataplane.cli.checks.versions import installed_version
from dataplane.config import Resolved, assemble, load_toml
from dataplane.distribution import optional_requirements, required_python, requirements
from dataplane.errors import ConfigError, DataplaneError

if TYPE_CHECKING:
    from dataplane.cache.config import CacheConfig
    from dataplane.stores.base import StoreConfig

__all__ = ["GROUPS", "Asked", "checks_of"]

GROUPS = ("software", "limits", "gpu", "mount", "cache", "store")
_DRIVER_S = 30.0
_SERVER_S = 30.0
_READING_S = 45.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for.

    Attributes:
        url: URL of a store, or None.
        cache_dir: cache directory, or None for that of the settings.
        cache_size: budget, or None for that of the settings.
        endpoint_url: S3 endpoint, or None.
        region: S3 region, or None.
        anonymous: whether no credentials are sent, or None for what the settings say.
        without: groups to leave out.
    """

    url: str | None = None
    cache_dir: Path | None = None
    cache_size: int | None = None
    endpoint_url: str | None = None
    region: str | None = None
    anonymous: bool | None = None
    without: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Settings:
    cache: Resolved[CacheConfig]
    store: Resolved[StoreConfig]
    file: str


def checks_of(asked: Asked) -> list[Check]:
    """Return the checks for what was asked, in the order of the report."""
    driver = Once(ask_driver)
    settings: _Settings | None = None
    why = ""
    failure: Finding | None = None
    try:
        settings = _settings(asked)
    except DataplaneError as err:
        why = "the settings cannot be read"
        failure = Finding("fail", err.message, err.hint or "", exit_code=err.exit_code)
    except ImportError as err:
        why = f"a part of the project cannot be imported: {(str(err).splitlines() or ['?'])[0]}"
        failure = skip(why)
    found = [
        *_software(settings, failure),
        *_limits(driver),
        *_gpu(driver),
        *_mount(),
        *_cache(settings, why),
        *_store(asked, settings, why),
    ]
    # Settings that cannot be read are told whatever is left out: it is why other lines are empty.
    needed = "software.settings" if failure is not None else None
    return [it for it in found if it.group not in asked.without or it.name == needed]


def _settings(asked: Asked) -> _Settings:
    from dataplane.cache.config import CacheConfig
    from dataplane.stores.base import StoreConfig

    cache = {"dir": asked.cache_dir, "size_bytes": asked.cache_size}
    store = {
        "endpoint_url": asked.endpoint_url,
        "region": asked.region,
        "anonymous": asked.anonymous,
    }
    return _Settings(
        assemble(CacheConfig, "cache", cache), assemble(StoreConfig, "store", store), load_toml()[1]
    )


def _software(settings: _Settings | None, failure: Finding | None) -> Iterator[Check]:
    yield Check("software.python", lambda: software.python(wanted=required_python()))
    yield Check("software.packages", lambda: software.packages(requirements()))
    yield Check("software.torch", lambda: software.torch(optional_requirements()))
    yield Check("software.extras", lambda: software.extras(optional_requirements()))
    yield Check("software.native", software.native_module, timeout_s=30.0)
    yield Check(
        "software.settings",
        lambda: _settings_found(settings) if settings is not None else failure or skip("unknown"),
    )


def _settings_found(settings: _Settings, environ: Mapping[str, str] = os.environ) -> Finding:
    from dataplane.cli.config import unread

    origins = [*settings.cache.origins.values(), *settings.store.origins.values()]
    given = sum(origin not in ("default", "argument") for origin in origins)
    exists = "" if Path(settings.file).exists() else " (not there)"
    found = (
        f"{given} set by the file {settings.file}{exists} or the environment; "
        "dataplane config shows them"
    )
    if warnings := list(unread(environ)):
        return warn(f"{'; '.join(warnings)}; {found}", "correct or unset it", set=given)
    return ok(found, set=given)


def _limits(driver: Callable[[], Driver]) -> Iterator[Check]:
    yield Check("limits.files", limits.open_files)
    yield Check(
        "limits.memlock",
        lambda: limits.locked_memory(has_gpu=driver().has_gpu),
        timeout_s=_DRIVER_S,
    )
    yield Check("limits.shm", limits.shared_memory)


def _gpu(driver: Callable[[], Driver]) -> Iterator[Check]:
    def check(name: str, look: Callable[[Driver], Finding]) -> Check:
        return Check(name, lambda: look(driver()), timeout_s=_DRIVER_S)

    yield check(
        "gpu.driver",
        lambda said: gpu.driver(
            said, on_bus=gpus_on_bus(), visible=os.environ.get("CUDA_VISIBLE_DEVICES")
        ),
    )
    yield check("gpu.torch", gpu.torch_build)
    yield check("gpu.dali", gpu.dali)
    yield Check("gpu.nvcomp", gpu.nvcomp)
    yield Check("gpu.dali_import", gpu.dali_import, timeout_s=75.0)
    yield check("gpu.triton", gpu.triton)


def _mount() -> Iterator[Check]:
    is_wanted = installed_version("mfusepy") is not None
    yield Check("mount.device", lambda: mounting.device(is_wanted=is_wanted))
    yield Check("mount.library", mounting.library, timeout_s=30.0)
    yield Check("mount.passthrough", mounting.passthrough, timeout_s=30.0)
    yield Check("mount.mounts", mounting.our_mounts, timeout_s=45.0)


def _cache(settings: _Settings | None, why: str) -> Iterator[Check]:
    if settings is None:
        yield Check("cache.directory", lambda: skip(why))
        return
    from dataplane.cli.checks import cache

    config = settings.cache.value
    late = f"the file system of {config.dir} hangs; name another with --cache-dir"

    def check(name: str, look: Callable[[cache.Place], Finding]) -> Check:
        def look_at_place() -> Finding:
            try:
                place = cache.place_of(config.dir)
            except OSError as err:  # the line of the directory says what follows from it
                return skip(f"{config.dir} cannot be looked at: {err.strerror}")
            return look(place)

        return Check(f"cache.{name}", look_at_place, when_late=late)

    yield Check("cache.directory", lambda: cache.directory(config), when_late=late)
    yield check("filesystem", cache.file_system)
    yield check("space", lambda place: cache.space(config, place))
    yield check("inodes", cache.files)
    yield check("holes", cache.holes)
    yield Check("cache.encryption", lambda: cache.encryption(config))


def _store(asked: Asked, settings: _Settings | None, why: str) -> Iterator[Check]:
    if settings is None:
        yield Check("store.read", lambda: skip(why))
        return
    from dataplane.cli.checks import server, store

    config, url = settings.store.value, asked.url
    origin = settings.store.origins["region"]
    address = Once(lambda: server.server_of(url, config))

    def ask() -> server.ServerAnswer:
        return server.ask_server(address() or "", config)

    answer = Once(ask)
    late = "the network or the server hangs; check the address, firewalls and proxies"

    def check(name: str, look: Callable[[], Finding], timeout_s: float = _SERVER_S) -> Check:
        def look_if_usable() -> Finding:
            try:
                address()
            except ConfigError:  # the line of the endpoint says it
                return skip("the URL or the endpoint cannot be used")
            return look()

        return Check(f"store.{name}", look_if_usable, timeout_s=timeout_s, when_late=late)

    yield Check(
        "store.endpoint",
        lambda: server.endpoint(address(), answer, asked=url),
        timeout_s=_SERVER_S,
        when_late=late,
    )
    yield check(
        "clock",
        lambda: server.clock(address(), answer, is_signed=store.is_signed(url, config)),
    )
    yield Check("store.certificates", lambda: store.certificates(config))
    yield check("credentials", lambda: store.credentials(url, config, origin))
    yield check("read", lambda: store.reading(url, config), _READING_S)
