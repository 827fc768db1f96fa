"""Runs checks side by side, each with a deadline, and turns whatever happens into a finding.

Every check has a daemon thread, so that one that hangs (in a dead file system, in a driver) costs
its own line and no more: the thread is left behind, and ends with the process. All begin at once;
findings come in the order of the checks. An error of dataplane is a failed check with its message
and hint. Any other exception is a line as well. Of the system's errors it has the reason; the text
of others is not shown, since nobody knows what is in it, and what a check handles may be secret.

Threads: a check must not change what another one looks at.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from queue import Empty, SimpleQueue

from dataplane.cli.checks.finding import Check, Finding, fail
from dataplane.daemon_thread import DaemonThread
from dataplane.errors import DataplaneError
from dataplane.telemetry import logger

__all__ = ["finding_of", "run"]


def run(checks: Sequence[Check]) -> Iterator[tuple[Check, Finding]]:
    """Run checks, and yield what each has found, in their order."""
    begun_s = time.monotonic()
    queues = [_started(check) for check in checks]
    for check, queue in zip(checks, queues, strict=True):
        left_s = begun_s + check.timeout_s - time.monotonic()
        try:
            found = queue.get(timeout=max(0.0, left_s))
        except Empty:
            found = fail(f"no answer within {check.timeout_s:g} s", check.when_late)
        yield check, found


def finding_of(check: Check) -> Finding:
    """Return what a check finds, or the finding that it failed itself."""
    try:
        return check.look()
    except DataplaneError as err:
        return Finding("fail", err.message, err.hint or "", exit_code=err.exit_code)
    except BaseException as err:  # the boundary of the check's thread
        logger.debug("the check %s failed", check.name, exc_info=True)
        return fail(
            f"the check itself failed: {type(err).__name__}{_reason(err)}{_place(err)}",
            "dataplane --debug doctor shows more; please report it",
        )


def _started(check: Check) -> SimpleQueue[Finding]:
    queue: SimpleQueue[Finding] = SimpleQueue()
    thread = DaemonThread(lambda: queue.put(finding_of(check)), name=f"dp-doctor-{check.name}")
    try:
        thread.start()
    except RuntimeError:  # no more threads: that is a finding, too
        queue.put(fail("no thread could be started for it", "raise the limit: ulimit -u"))
    return queue


def _reason(err: BaseException) -> str:
    if not isinstance(err, OSError) or not err.errno:
        return ""
    named = f" of {err.filename}" if isinstance(err.filename, str) else ""
    return f" ({os.strerror(err.errno)}{named})"


def _place(err: BaseException) -> str:
    frames = traceback.extract_tb(err.__traceback__)
    return f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
