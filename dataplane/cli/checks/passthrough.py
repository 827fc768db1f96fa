"""Whether FUSE passthrough is possible here: reads of a mount straight from the cache's files.

It takes Linux 6.9 built with it, and CAP_SYS_ADMIN in the first user namespace: root in a user
namespace of its own (as in a rootless container) has it not. Version and capability are read from
/proc. What the kernel was built with only the kernel says: a child process mounts a FUSE file
system in a mount namespace of its own, reads what the kernel offers in its first message, and ends;
the mount ends with it, and nobody else ever sees it.

Source: include/uapi/linux/fuse.h (FUSE_INIT, FUSE_PASSTHROUGH), fs/fuse/backing.c for what it asks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dataplane.child_process import output_of

__all__ = ["Privileges", "kernel_offers", "kernel_version", "privileges"]

_CAP_SYS_ADMIN = 21
_ALL_USERS = 4_294_967_295
_TIMEOUT_S = 20.0
# What struct fuse_init_in holds after a header of 40 bytes: major, minor, max_readahead, flags,
# flags2. FUSE_INIT_EXT says that flags2 is there; FUSE_PASSTHROUGH is bit 37, which is bit 5 of it.
_PROGRAM = """
import ctypes, os, select, struct, tempfile
libc = ctypes.CDLL(None, use_errno=True)
def call(done):
    if done != 0:
        print("errno", ctypes.get_errno())
        raise SystemExit
call(libc.unshare(0x00020000))
call(libc.mount(b"none", b"/", None, ctypes.c_ulong((1 << 18) | (1 << 14)), None))
point = tempfile.mkdtemp(prefix="dataplane-doctor-")
try:
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    call(libc.mount(b"dataplane", point.encode(), b"fuse.doctor", ctypes.c_ulong(6), options))
    try:
        if select.select([device], [], [], 5)[0]:
            words = struct.unpack_from("<5I", os.read(device, 1 << 20), 40)
            print("offers", int(bool(words[3] & 1 << 30 and words[4] & 1 << 5)), *words[:2])
    finally:
        libc.umount2(point.encode(), 2)
        os.close(device)
finally:
    os.rmdir(point)
"""


@dataclass(frozen=True, slots=True)
class Privileges:
    """What this process may do.

    Attributes:
        is_admin: whether it has CAP_SYS_ADMIN.
        in_first_namespace: whether its user namespace is that of the host.
        no_new: whether programs that it starts gain no privileges (setuid has no effect).
    """

    is_admin: bool
    in_first_namespace: bool
    no_new: bool


def kernel_version(release: str) -> tuple[int, int]:
    """Return the version of a kernel: (6, 18) of `6.18.44-generic`; (0, 0) where there is none."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def privileges(proc: Path = Path("/proc/self")) -> Privileges:
    """Read the privileges of this process.

    Args:
        proc: its folder in /proc.
    """
    status = dict(line.split(":", 1) for line in _text(proc / "status").splitlines() if ":" in line)
    try:
        effective = int(status.get("CapEff", "0").strip(), 16)
    except ValueError:
        effective = 0
    maps = [line.split() for line in _text(proc / "uid_map").splitlines()]
    return Privileges(
        is_admin=bool(effective >> _CAP_SYS_ADMIN & 1),
        in_first_namespace=maps == [["0", "0", str(_ALL_USERS)]],
        no_new=status.get("NoNewPrivs", "0").strip() == "1",
    )


def kernel_offers(
    ask: Callable[[list[str], float], object] = output_of,
) -> bool | None:
    """Ask the kernel, by a mount that only a child process sees, if it offers passthrough.

    Args:
        ask: function that runs a command within a time.

    Returns:
        What it said; None where that could not be tried.
    """
    output = ask([sys.executable, "-I", "-S", "-c", _PROGRAM], _TIMEOUT_S)
    words = str(getattr(output, "text", "")).split()
    return words[1] == "1" if len(words) > 1 and words[0] == "offers" else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
