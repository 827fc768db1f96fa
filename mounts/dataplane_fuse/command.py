"""`dataplane mount` and `dataplane umount`: arguments in, one clear line out."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dataplane.cache.admin import check_usable, unusable_warning
from dataplane.cli.options import (
    cache_config,
    cache_options,
    encrypt_option,
    metrics_options,
    store_config,
    store_options,
)
from dataplane.cli.text import output, print_pieces
from dataplane.errors import ConfigError, MountError
from dataplane.fuse_host import check_device, load_library
from dataplane.mount_table import find_mount, probe
from dataplane.stores.urls import parse_url
from dataplane_fuse.boot import mount_helper, systemd_unit, this_program
from dataplane_fuse.daemon import default_log_file, is_daemon, start, wait_for_exit
from dataplane_fuse.filesystem import FilesystemOptions
from dataplane_fuse.mountpoint import check_mountpoint, normal_path
from dataplane_fuse.mountpoint import unmount as remove_mount

if TYPE_CHECKING:
    from dataplane.cache.config import CacheConfig
    from dataplane_fuse.service import MountRequest

__all__ = ["mount", "umount"]

_EXIT_TIMEOUT_S = 30.0


def _printer(
    content: Callable[[str], str],
) -> Callable[[click.Context, click.Parameter, bool], None]:
    """Return the callback of an option that prints a file for the system instead of mounting."""

    def show(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        del param
        if value and not ctx.resilient_parsing:
            click.echo(content(this_program()), nl=False)
            ctx.exit()

    return show


@click.command()
@click.argument("url")
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("-f", "--foreground", is_flag=True, help="Serve from this process until Ctrl-C.")
@cache_options
@encrypt_option
@store_options
@click.option("--allow-other", is_flag=True, help="Let other users of the host read the mount.")
@click.option(
    "--list-ttl",
    type=float,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long names, sizes and absences are believed.",
)
@click.option(
    "--no-samples", is_flag=True, help="Show packed datasets as objects only, without KEY/ folders."
)
@click.option(
    "--mmap",
    "page_cache",
    is_flag=True,
    help="Use the kernel's page cache, for programs that map files shared (numpy.memmap).",
)
@click.option(
    "--log-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the daemon logs; by default in ~/.local/state/dataplane/logs.",
)
@metrics_options("Answer Prometheus at this port; 0 takes a free one, which the log names.")
@click.option(
    "--print-systemd-unit",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_printer(systemd_unit),
    help="Print a systemd unit that makes mounts at boot, and exit.",
)
@click.option(
    "--print-mount-helper",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_printer(mount_helper),
    help="Print the helper that lets fstab and mount -t dataplane make mounts, and exit.",
)
@click.option("--ready-fd", type=int, hidden=True)
@click.pass_context
def mount(
    ctx: click.Context,
    url: str,
    mountpoint: Path,
    *,
    foreground: bool,
    cache_dir: Path | None,
    cache_size: int | None,
    endpoint_url: str | None,
    region: str | None,
    anonymous: bool | None,
    allow_other: bool,
    list_ttl: float,
    no_samples: bool,
    page_cache: bool,
    log_file: Path | None,
    metrics_port: int | None,
    metrics_host: str,
    ready_fd: int | None,
) -> None:
    """Mount a bucket, a prefix or a packed dataset as read-only files.

    URL is what to mount: s3://bucket/prefix, gs://…, az://…, https://…, a local folder.
    MOUNTPOINT is an empty directory. The mount is served in the background until
    `dataplane umount MOUNTPOINT`. Beside their objects, packed datasets show every sample KEY as a
    file KEY.zarr.zip and a folder KEY/, which Zarr readers open in place.
    """
    store = store_config(endpoint_url, region, anonymous=anonymous)
    cache = _usable(cache_config(cache_dir, cache_size))
    options = FilesystemOptions(list_ttl_s=list_ttl, show_samples=not no_samples)
    where = normal_path(mountpoint)
    debug = bool((ctx.obj or {}).get("debug"))
    load_library()
    check_device()
    # The daemon's parent has checked the mount point already; between the two only time passed.
    check_mountpoint(where, allow_other=allow_other)
    if cache_dir is None and ready_fd is None:
        # On the terminal, and not only in the daemon's log.
        warning = unusable_warning(cache.dir, sharing=cache.sharing)
        if warning is not None:
            click.echo(f"dataplane: {warning}", err=True)
    elif ready_fd is None:
        # Without this the mount would work, and cache nothing, and say so in its log only.
        check_usable(cache.dir, sharing=cache.sharing)
    if foreground or ready_fd is not None:
        # Imported by the process that serves: the other one only waits for it.
        from dataplane_fuse.service import MountRequest

        request = MountRequest(
            url,
            where,
            store=store,
            cache=cache,
            filesystem=options,
            allow_other=allow_other,
            page_cache=page_cache,
            metrics_port=metrics_port,
            metrics_host=metrics_host,
        )
        _serve(request, ready_fd, debug=debug)
        return
    log = normal_path(log_file) if log_file else default_log_file(where)
    arguments = ["mount", "--foreground", "--list-ttl", str(list_ttl)]
    if debug:
        arguments.insert(0, "--debug")
    arguments += ["--cache-dir", str(cache.dir.absolute())]
    arguments += ["--cache-size", str(cache.size_bytes)] if cache.size_bytes is not None else []
    arguments += ["--endpoint-url", endpoint_url] if endpoint_url else []
    arguments += ["--region", region] if region else []
    if metrics_port is not None:
        arguments += ["--metrics-port", str(metrics_port), "--metrics-host", metrics_host]
    flags = {
        "--anonymous": anonymous,
        "--allow-other": allow_other,
        "--no-samples": no_samples,
        "--mmap": page_cache,
    }
    arguments += [flag for flag, given in flags.items() if given]
    last = ["--", _absolute(url), str(where)]
    pid = start(lambda fd: [*arguments, "--ready-fd", str(fd), *last], where, log)
    print_pieces(output(), [f"{where}: {url} mounted read-only (pid {pid}, log {log})"])


@click.command()
@click.argument("mountpoint", type=click.Path(path_type=Path))
@click.option("--lazy", is_flag=True, help="Detach a mount that is in use; it ends when unused.")
def umount(mountpoint: Path, *, lazy: bool) -> None:
    """Remove a mount and wait for its daemon to end."""
    where = normal_path(mountpoint)
    mounted = find_mount(where)
    if mounted is None:
        raise MountError(f"nothing is mounted on {where}", hint="see the mounts with: mount")
    if not mounted.is_ours:
        raise MountError(f"{where} is a mount of {mounted.filesystem_type}, not of dataplane")
    state = probe(where)
    # A mount whose daemon is dead or hangs can only be detached.
    hangs = state.error == errno.ETIMEDOUT
    remove_mount(where, lazy=lazy or state.is_dead or hangs)
    daemon = state.pid if state.pid is not None and is_daemon(state.pid) else None
    if daemon is not None and not lazy and not wait_for_exit(daemon, _EXIT_TIMEOUT_S):
        raise MountError(
            f"{where} is unmounted, but its daemon (pid {daemon}) has not ended",
            hint=f"kill {daemon}",
        )
    click.echo(f"{where}: unmounted")


def _usable(cache: CacheConfig) -> CacheConfig:
    """Refuse what cannot be a cache directory, before a daemon in the background finds out.

    click does the same with `--cache-dir`; this is for the environment and the settings file.
    """
    if cache.dir.exists() and not cache.dir.is_dir():
        raise ConfigError(
            f"the cache directory {cache.dir} is not a directory",
            hint="set DATAPLANE_CACHE_DIR or --cache-dir to one, or remove what is there",
        )
    return cache


def _serve(request: MountRequest, ready_fd: int | None, *, debug: bool) -> None:
    """Serve from this process; in the background its stderr is the log file."""
    if ready_fd is not None:
        logging.basicConfig(
            level=logging.DEBUG if debug else logging.INFO,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            force=True,
        )
    else:
        click.echo(f"{request.mountpoint}: serving {request.url}; Ctrl-C unmounts", err=True)
    from dataplane_fuse.service import Ready, run

    run(request, Ready(ready_fd))


def _absolute(url: str) -> str:
    """Return a local path as an absolute one, because the daemon runs in `/`."""
    return parse_url(url).url
