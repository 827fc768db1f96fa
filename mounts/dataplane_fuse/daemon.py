"""Daemon of a mount: started in the background and waited for until the mount answers.

The daemon is a new interpreter, not a fork of this one: store clients have threads that do not
survive a fork. It leads a session of its own, runs in `/` (so relative paths in its environment are
made absolute), and writes to a log file that only its owner may read. It reports over a pipe; after
that the mount is looked at once from a third process, so that success means that the mount answers
and not only that it should.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import dataplane.errors
from dataplane.errors import DataplaneError, MountError
from dataplane.mount_table import find_mount, probe
from dataplane.stores.base import CA_VARIABLES
from dataplane_fuse.mountpoint import unmount

__all__ = ["default_log_file", "is_daemon", "start", "wait_for_exit"]

START_TIMEOUT_S = 180.0
"""A store may take `deadline_s` (two minutes) to be given up on."""

_MAX_LOG_BYTES = 10 << 20
_MAX_REPORT_BYTES = 65_536
_LOG_TAIL_BYTES = 2_000
_PATH_VARIABLES = (
    *("DATAPLANE_CACHE_DIR", "DATAPLANE_CACHE_KEY_FILE", "DATAPLANE_CONFIG"),
    *("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("GOOGLE_APPLICATION_CREDENTIALS", "AZURE_FEDERATED_TOKEN_FILE"),
    *CA_VARIABLES,
)
"""Environment variables that name files, also relative to where the command runs."""


def default_log_file(mountpoint: Path) -> Path:
    """Return where the daemon of a mount point logs unless it is told otherwise.

    That is `$XDG_STATE_HOME/dataplane/logs`, else `~/.local/state/dataplane/logs`: the cache
    directory holds the cache alone.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", str(mountpoint)).strip("-") or "root"
    return log_folder() / f"mount-{name[-200:]}.log"


def log_folder() -> Path:
    """Return the folder of logs whose path was not chosen; no other is ever made."""
    base = os.environ.get("XDG_STATE_HOME")
    folder = (Path(base) if base else Path("~/.local/state").expanduser()) / "dataplane" / "logs"
    return folder.absolute()


def start(arguments: Callable[[int], Sequence[str]], mountpoint: Path, log_file: Path) -> int:
    """Run `dataplane ARGUMENTS` in the background and wait for the mount.

    Args:
        arguments: function from the number of the pipe to report to, to the arguments.
        mountpoint: path where it will be.
        log_file: path that the daemon's output goes to.

    Returns:
        The daemon's process id.

    Raises:
        DataplaneError: what the daemon reported.
        MountError: it ended without a word, or the mount does not answer.
    """
    log = _open_log(log_file)
    reader, writer = os.pipe()
    try:
        os.set_inheritable(writer, True)
        # -P keeps the working directory, which is about to be `/`, off the module path.
        command = [sys.executable, "-P", "-m", "dataplane", *arguments(writer)]
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(writer,),
            start_new_session=True,
            cwd="/",
            env=_absolute_paths(os.environ),
            umask=0o077,
        )
    finally:
        os.close(writer)
        os.close(log)
    try:
        report = _read_report(reader, child)
        _check_report(report, child, log_file)
        state = probe(mountpoint)
        if state.error or find_mount(mountpoint) is None:
            raise MountError(
                f"{mountpoint} was mounted but answers {os.strerror(state.error or 107)}",
                hint=f"see {log_file}",
            )
    except BaseException:
        _stop(child, mountpoint)
        raise
    finally:
        os.close(reader)
    # The daemon outlives this process; it is not to be waited for when `child` is collected.
    child.returncode = 0
    return child.pid


def wait_for_exit(pid: int, timeout_s: float) -> bool:
    """Wait until a process that need not be a child has ended; False when it has not in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))
    finally:
        os.close(descriptor)


def is_daemon(pid: int) -> bool:
    """Whether a process id, as a mount gave it, is a dataplane process of this namespace."""
    try:
        return b"dataplane" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _absolute_paths(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that means the same in another working directory."""
    paths = {name: environ[name] for name in _PATH_VARIABLES if environ.get(name)}
    return {
        **environ,
        **{name: str(Path(it).absolute()) for name, it in paths.items() if it[0] not in "/~"},
    }


def _open_log(path: Path) -> int:
    try:
        if path.parent == log_folder():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with suppress(FileNotFoundError):
            if path.stat().st_size > _MAX_LOG_BYTES:
                path.replace(path.with_name(path.name + ".1"))
        # No following of links: the name can be guessed, the folder may be shared.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, 0o600)
    except OSError as err:
        raise MountError(
            f"the log file {path} cannot be written: {err.strerror}", hint="choose --log-file"
        ) from err


def _read_report(reader: int, child: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """Read the daemon's report; None when it closed the pipe without one."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    received = b""
    poll = select.poll()  # select() takes no descriptor above 1023
    poll.register(reader, select.POLLIN)
    while not received.endswith(b"\n") and len(received) < _MAX_REPORT_BYTES:
        left_s = deadline_s - time.monotonic()
        if not poll.poll(max(left_s, 0) * 1000):
            raise MountError(
                f"the daemon (pid {child.pid}) did not mount within {START_TIMEOUT_S:.0f} s"
            )
        piece = os.read(reader, 4096)
        if not piece:
            return None
        received += piece
    report = json.loads(received)
    assert isinstance(report, dict), "the daemon reports a JSON object"
    return report


def _check_report(
    report: dict[str, Any] | None, child: subprocess.Popen[bytes], log_file: Path
) -> None:
    if report is None:
        status = child.wait(timeout=30)
        tail = log_file.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        last = tail.splitlines()[-1] if tail else "its log is empty"
        raise MountError(f"the daemon ended with status {status}: {last}", hint=f"see {log_file}")
    if not report.get("ready"):
        raise _error_of_kind(report["kind"])(report["message"], hint=report["hint"])


def _error_of_kind(kind: str) -> type[DataplaneError]:
    classes = [getattr(dataplane.errors, name) for name in dataplane.errors.__all__]
    return next((cls for cls in classes if cls.kind == kind), MountError)


def _stop(child: subprocess.Popen[bytes], mountpoint: Path) -> None:
    """End a daemon that did not come up, and what it may have mounted."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    mounted = find_mount(mountpoint)
    if mounted is not None and mounted.is_ours and probe(mountpoint).error:
        with suppress(MountError):
            unmount(mountpoint, lazy=True)
