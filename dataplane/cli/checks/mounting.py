"""Checks of mounting: the device, libfuse, passthrough, mounts of ours that are dead or hang.

A mount point is never touched by this process: `dataplane.mount_table` looks at it from a child.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

from dataplane.cli.checks.finding import Finding, Values, fail, ok, skip, warn
from dataplane.cli.checks.passthrough import (
    Privileges,
    kernel_offers,
    kernel_version,
    privileges,
)
from dataplane.cli.text import plural
from dataplane.errors import MissingPackage, MountError
from dataplane.fuse_host import DEVICE, check_device, library_version, load_library
from dataplane.mount_table import Mounted, Probe, mounts, probe

__all__ = ["device", "library", "our_mounts", "passthrough"]

_FIRST_WITH_PASSTHROUGH = (6, 9)
_LOOK_S = 10.0
_ALL_LOOKS_S = 30.0
_DAEMON = "mounts read through their daemon, as those of this release always do"


def device(
    path: Path = DEVICE,
    *,
    is_wanted: bool,
    user: int | None = None,
    which: Callable[[str], str | None] = shutil.which,
    allowed: Privileges | None = None,
) -> Finding:
    """Check that /dev/fuse opens, and that fusermount3 can do its work.

    Args:
        path: the device.
        is_wanted: whether the extra that mounts is installed.
        user: user that would mount; by default the user of this process.
        which: function that finds programs.
        allowed: what this process may do; by default that is read from /proc.
    """
    user = os.geteuid() if user is None else user
    allowed = privileges() if allowed is None else allowed
    try:
        check_device(path, user=user, which=which)
    except MountError as err:
        if not is_wanted:
            return skip(f"{err.message}; the extra fuse is not installed either", err.hint or "")
        return fail(f"{err.message}: dataplane mount cannot work here", err.hint or "")
    helper = which("fusermount3")
    if user != 0 and helper is not None:
        status = Path(helper).stat()
        if not (status.st_mode & stat.S_ISUID and status.st_uid == 0):
            return fail(
                f"{helper} is not setuid root, and cannot mount for other users",
                f"as root: chown root {helper} && chmod 4755 {helper}",
            )
        if allowed.no_new:
            return fail(
                f"{helper} gains no privileges here (no_new_privs is set)",
                "start the container without --security-opt no-new-privileges",
            )
    if user == 0 and not allowed.is_admin:
        return fail(
            "this process is root without CAP_SYS_ADMIN, and may not mount",
            "in a container, pass --cap-add SYS_ADMIN",
        )
    if helper is None:
        return ok(f"{path} opens; fusermount3 is missing, which root does without")
    return ok(f"{path} opens; fusermount3 is {helper}", fusermount3=helper)


def library(load: Callable[[], ModuleType] = load_library) -> Finding:
    """Check that mfusepy and libfuse 3 are there.

    Args:
        load: function that loads them.
    """
    try:
        fuse = load()
    except MissingPackage as err:
        return skip("mfusepy is not installed, which mounts need", err.hint or "")
    major, minor = library_version(fuse)
    return ok(f"libfuse {major}.{minor} through mfusepy", version=f"{major}.{minor}")


def passthrough(
    release: str | None = None,
    allowed: Privileges | None = None,
    offers: Callable[[], bool | None] = kernel_offers,
    *,
    has_device: bool | None = None,
) -> Finding:
    """Check whether the kernel would let mounts be read straight from the cache's files.

    Args:
        release: release of the kernel; by default the one that runs.
        allowed: what this process may do; by default that is read from /proc.
        offers: function that asks the kernel.
        has_device: whether /dev/fuse is there; by default it is looked for.
    """
    release = os.uname().release if release is None else release
    allowed = privileges() if allowed is None else allowed
    if not (DEVICE.exists() if has_device is None else has_device):
        return skip("there is no /dev/fuse", possible=False)
    if kernel_version(release) < _FIRST_WITH_PASSTHROUGH:
        return skip(f"not possible: Linux {release} is older than 6.9; {_DAEMON}", possible=False)
    if not allowed.in_first_namespace:
        return skip(f"not possible in a user namespace of its own; {_DAEMON}", possible=False)
    if not allowed.is_admin:
        return skip(f"not possible without CAP_SYS_ADMIN; {_DAEMON}", possible=False)
    offered = offers()
    if offered is None:
        return skip(
            f"not known: Linux {release} has it, but a trial mount did not work; {_DAEMON}",
            possible=None,
        )
    if not offered:
        return skip(
            f"not possible: this kernel ({release}) is built without it; {_DAEMON}",
            possible=False,
        )
    return ok(
        f"possible: Linux {release} offers it, and this process may use it; {_DAEMON}",
        possible=True,
    )


def our_mounts(
    table: Callable[[], Iterable[Mounted]] = mounts,
    look: Callable[[Path, float], Probe] = probe,
    all_looks_s: float = _ALL_LOOKS_S,
) -> Finding:
    """Check that every mount of dataplane on this host has a daemon that answers.

    Args:
        table: function that tells what is mounted.
        look: function that looks at a mount point within a time.
        all_looks_s: time for all of them.
    """
    try:
        ours = list({it.path: it for it in table() if it.is_ours})
    except OSError as err:
        return warn(f"what is mounted cannot be read: {err.strerror}", "mount /proc")
    if not ours:
        return ok("no mount of dataplane", mounts=0, dead=0, hanging=0)
    end_s = time.monotonic() + all_looks_s
    dead: list[Path] = []
    hanging: list[Path] = []
    unknown: list[Path] = []
    for path in ours:
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            unknown.append(path)
            continue
        answer = look(path, min(_LOOK_S, left_s))
        if answer.is_dead:
            dead.append(path)
        elif answer.error == errno.ETIMEDOUT:
            hanging.append(path)
        elif answer.error:
            unknown.append(path)  # another user's, for instance
    count = len(ours)
    values: Values = {"mounts": count, "dead": len(dead), "hanging": len(hanging)}
    said = [f"{count} {plural('mount', count)}"]
    said += [f"dead, its daemon is gone: {path}" for path in dead]
    said += [f"hangs, its daemon does not answer: {path}" for path in hanging]
    said += [f"not looked at, or another user's: {path}" for path in unknown]
    advice = [f"dataplane umount {shlex.quote(str(path))}" for path in dead]
    advice += [f"dataplane umount --lazy {shlex.quote(str(path))}" for path in hanging]
    if dead:
        advice.append("or mount there again, which clears a dead mount away")
    if dead or hanging:
        return fail("; ".join(said), "; ".join(advice), **values)
    said[0] += "" if unknown else f", which {'answers' if count == 1 else 'answer'}"
    return ok("; ".join(said), **values)
