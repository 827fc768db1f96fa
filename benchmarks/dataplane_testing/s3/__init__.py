"""Our own S3 server on loopback, for the demo, the benchmarks and fault tests.

Enough of S3 for obstore, boto3 and s3fs; fast enough (files and `sendfile`) not to be the
bottleneck of a benchmark; and with fault injection like the failures of a real cloud, in a way that
can be repeated. It is not a store for data that matters: nothing is synced, and it listens on
loopback only.

The modules, downward: `endpoint` (the Python face), `control` (the same in another process),
`engine` (all parts together), `server` and `connection` (sockets and threads), `faults` and
`delivery` (faults, and responses on the wire), `*_operations` over `exchange` (S3 itself),
`objects`, `uploads`, `replacements` (state), `sigv4`, `bodies`, `http`, `documents`, `listing`,
`conditions` (protocol), `model` (words).

Started as a program, `python -m dataplane_testing.s3 --help`, it serves until Ctrl-C.
"""

from __future__ import annotations

from dataplane_testing.s3.endpoint import S3Endpoint
from dataplane_testing.s3.faults import Faults
from dataplane_testing.s3.model import Limits, RequestRecord

__all__ = ["Faults", "Limits", "RequestRecord", "S3Endpoint"]
