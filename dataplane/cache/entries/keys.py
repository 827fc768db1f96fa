"""The key of an encrypted cache: from the environment, a file, or made anew for each boot.

A key is 32 random bytes, written as 64 hexadecimal digits. Without one of the user's, a random key
lies in memory only, in the user's runtime directory or /dev/shm, where every process of the user
finds it until the machine goes down; what was cached before is then unreadable, and refetched. A
key never appears in messages, logs or configurations.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from pathlib import Path

from dataplane.errors import ConfigError

__all__ = ["KEY_BYTES", "KEY_VARIABLE", "key_identity", "load_key"]

KEY_BYTES = 32
KEY_VARIABLE = "DATAPLANE_CACHE_KEY"
_HINT = "a key is 64 hexadecimal digits, such as `openssl rand -hex 32` prints"
_MAX_KEY_FILE_BYTES = 4096


def load_key(key_file: Path | None) -> bytes:
    """Return the key: of the environment, else of the file, else this boot's.

    Raises:
        ConfigError: there is a key that is none, or a file that cannot be read or that others can.
    """
    text = os.environ.get(KEY_VARIABLE)
    if text is not None:
        return _parsed(text, f"the environment variable {KEY_VARIABLE}")
    if key_file is not None:
        return _parsed(_read_private(key_file), str(key_file))
    return _key_of_this_boot()


def key_identity(key: bytes) -> str:
    """Return a name for a key that does not give it away; part of the names of entries."""
    return hashlib.blake2b(key, digest_size=8, person=b"dataplane-keyid").hexdigest()


def _parsed(text: str, where: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{where} holds no cache key", hint=_HINT)
    return key


def _read_private(path: Path) -> str:
    try:
        fd = os.open(path.expanduser(), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as err:
        raise ConfigError(f"cannot read the cache key {path}: {err.strerror}", hint=_HINT) from err
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (os.geteuid(), 0):
            raise ConfigError(f"the cache key {path} is no file of this user")
        if status.st_mode & 0o077:
            raise ConfigError(
                f"others may read the cache key {path} (mode {status.st_mode & 0o777:o})",
                hint=f"chmod 600 {path}",
            )
        return os.read(fd, _MAX_KEY_FILE_BYTES).decode("ascii", "replace")
    finally:
        os.close(fd)


def _key_of_this_boot() -> bytes:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) if runtime and Path(runtime).is_dir() else Path("/dev/shm")  # noqa: S108 - the file in it is private
    path = folder / f"dataplane-cache-key-{os.geteuid()}"
    if not path.exists():
        # Linked into place whole, so that of several processes all get the first one's.
        draft = folder / f".{path.name}-{secrets.token_hex(8)}"
        try:
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(secrets.token_hex(KEY_BYTES))
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        except OSError as err:
            raise ConfigError(
                f"cannot keep a key for this boot in {folder}: {err.strerror}",
                hint=f"set {KEY_VARIABLE}, or cache.key_file",
            ) from err
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()
    return _parsed(_read_private(path), str(path))
