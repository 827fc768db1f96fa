"""`S3Endpoint`: the endpoint as tests, the demo and benchmarks use it."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from dataplane.errors import ConfigError
from dataplane.stores.base import Buffer
from dataplane_testing.environment import exported
from dataplane_testing.s3.control import RemoteEngine
from dataplane_testing.s3.engine import Engine, Settings
from dataplane_testing.s3.faults import Faults
from dataplane_testing.s3.model import Limits, RequestRecord

__all__ = ["S3Endpoint"]

_FILES = ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "DATAPLANE_CONFIG")
_LOOPBACK = "127.0.0.1"


class S3Endpoint:
    """An S3 server on loopback, with a log and, on request, fault injection.

    It serves from its start until `close`, or the end of its `with` block. By default it runs in
    a process of its own, which ends with this one in any case; in this process it runs in
    threads, which suits small tests. Thread-safe; not to be used across fork.

    Args:
        root: folder for the objects, empty or made by an earlier endpoint, which is then served
            again; None keeps them in a temporary folder until `close`.
        buckets: buckets to make.
        access_key: key id to accept.
        secret_key: secret of the key; None makes a random one.
        anonymous: whether to let requests without a signature in.
        faults: faults to inject; none by default.
        in_process: whether to use threads of this process instead of a process of its own.
        port: port on loopback; 0 takes a free one.
        limits: limits of one client.
        certificate: file with a certificate of 127.0.0.1 and its key, to speak TLS with.

    Raises:
        ConfigError: the folder, the port, the certificate or a bucket's name cannot be used.

    Example:
        >>> import urllib.request
        >>> with S3Endpoint(anonymous=True, in_process=True) as endpoint:
        ...     etag = endpoint.put("data", "a b.txt", b"hello")
        ...     urllib.request.urlopen(f"{endpoint.url}/data/a%20b.txt").read()
        ...     [(record.operation, record.status) for record in endpoint.requests()]
        b'hello'
        [('GetObject', 200)]
    """

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        buckets: Sequence[str] = ("data",),
        access_key: str = "dataplane",
        secret_key: str | None = None,
        anonymous: bool = False,
        faults: Faults | None = None,
        in_process: bool = False,
        port: int = 0,
        limits: Limits | None = None,
        certificate: Path | None = None,
    ) -> None:
        self.access_key = access_key
        self.secret_key = secret_key or secrets.token_hex(20)
        self.region = "us-east-1"
        settings = Settings(
            root=None if root is None else Path(root).resolve(),
            buckets=tuple(buckets),
            access_key=access_key,
            secret_key=self.secret_key,
            anonymous=anonymous,
            port=port,
            faults=faults or Faults(),
            limits=limits or Limits(),
            certificate=certificate,
        )
        self._scheme = "http" if certificate is None else "https"
        self._engine = Engine(settings) if in_process else RemoteEngine(settings)

    @property
    def url(self) -> str:
        """URL of the endpoint, such as `http://127.0.0.1:40123`."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """Port on loopback."""
        return self._engine.port

    @property
    def root(self) -> Path:
        """Folder that holds the objects."""
        return self._engine.root

    def environment(self) -> dict[str, str]:
        """Return the variables that lead SDKs, and `dataplane`, to this endpoint.

        They suffice in a clean environment; in a user's own, other variables and files may lead
        elsewhere: see `exported`.
        """
        direct = _with_loopback(os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or "")
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": direct,
            "no_proxy": direct,
        }

    @contextmanager
    def exported(self) -> Iterator[None]:
        """Lead this process and its children here, past all other settings of the user.

        For the length of the block the environment is that of `environment()`, without any other
        variable that could lead to another server, to other credentials or to none, and without
        the configuration files of AWS and of dataplane. Not for threads that read the environment
        meanwhile.
        """
        nowhere = dict.fromkeys(_FILES, os.devnull)
        with exported(self.environment() | nowhere, without=("AWS_", "DATAPLANE_ANONYMOUS")):
            yield

    def put(self, bucket: str, key: str, data: Buffer | os.PathLike[str]) -> str:
        """Store an object, from memory or a local file, past the network; returns its ETag.

        It is not in the log. The ETag has its quotes.

        Raises:
            ConfigError: no such bucket, or the key is not allowed.
        """
        return self._engine.adopt(bucket, key, self._stage(data))

    def replace_between(
        self, bucket: str, key: str, data: Buffer | os.PathLike[str], *, after_gets: int = 1
    ) -> str:
        """Replace an object between two GETs of it; returns the ETag that it will have.

        The next `after_gets` GETs get the current version; every request that arrives after the
        last of these responses has begun sees the new one.

        Raises:
            ConfigError: no such bucket or object, or `after_gets` is not positive.
        """
        if after_gets < 1:
            raise ConfigError(f"after_gets must be at least 1, got {after_gets}")
        return self._engine.adopt(bucket, key, self._stage(data), after_gets)

    def create_bucket(self, bucket: str) -> None:
        """Make a bucket.

        Raises:
            ConfigError: the name is not allowed.
        """
        self._engine.create_bucket(bucket)

    def requests(self) -> list[RequestRecord]:
        """Return the requests so far, in order of arrival.

        Requests under way are waited for, at most two seconds.
        """
        return self._engine.requests()

    def clear_requests(self) -> None:
        """Forget the requests so far."""
        self._engine.clear_requests()

    def set_faults(self, faults: Faults | None) -> None:
        """Use other faults, or none, from the next request on."""
        self._engine.set_faults(faults or Faults())

    def fault_counts(self) -> dict[str, int]:
        """Return the number of faults of each kind since the start."""
        return self._engine.fault_counts()

    def close(self) -> None:
        """Stop. Every thread and process of it has ended when this returns. Idempotent."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _stage(self, data: Buffer | os.PathLike[str]) -> Path:
        path = self._engine.staging / secrets.token_hex(16)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as target:
                if isinstance(data, os.PathLike):
                    with Path(data).open("rb") as source:
                        shutil.copyfileobj(source, target, 1 << 20)
                else:
                    target.write(data)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path


def _with_loopback(direct: str) -> str:
    """Add loopback to a list of hosts that are reached without a proxy."""
    hosts = [host.strip() for host in direct.split(",") if host.strip()]
    return ",".join(hosts if _LOOPBACK in hosts else [*hosts, _LOOPBACK])
