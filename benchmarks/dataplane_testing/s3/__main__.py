"""The endpoint's program: S3 from a folder, for a terminal, or for `S3Endpoint` in a process."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
from collections.abc import Sequence

from dataplane.errors import DataplaneError
from dataplane_testing.s3.control import serve_control
from dataplane_testing.s3.endpoint import S3Endpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m dataplane_testing.s3", description="A small S3 server on loopback."
    )
    parser.add_argument("--root", help="folder for the objects (default: temporary)")
    parser.add_argument("--bucket", action="append", help="bucket to make (default: data)")
    parser.add_argument("--port", type=int, default=0, help="port (default: a free one)")
    parser.add_argument("--access-key", default="dataplane", help="key id to accept")
    parser.add_argument("--secret-key", help="its secret (default: random)")
    parser.add_argument("--anonymous", action="store_true", help="accept unsigned requests")
    parser.add_argument("--control-fd", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.control_fd is not None:
        serve_control(options.control_fd)
        return 0
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with S3Endpoint(
            options.root,
            buckets=options.bucket or ["data"],
            access_key=options.access_key,
            secret_key=options.secret_key,
            anonymous=options.anonymous,
            port=options.port,
            in_process=True,
        ) as endpoint:
            for name, value in endpoint.environment().items():
                sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
            sys.stdout.flush()
            stop.wait()
    except DataplaneError as err:
        sys.stderr.write(f"{err}\n")
        return err.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
