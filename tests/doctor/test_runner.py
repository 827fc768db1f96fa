"""How checks are run: side by side, each with a deadline, and whatever they raise is a line."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from dataplane.cli.checks.finding import Check, Finding, fail, ok, skip, warn
from dataplane.cli.checks.runner import finding_of, run
from dataplane.cli.doctor import document, exit_code
from dataplane.errors import CacheError, ConfigError


def raising(err: BaseException) -> Callable[[], Finding]:
    def look() -> Finding:
        raise err

    return look


def test_findings_come_in_the_order_of_the_checks_though_they_run_side_by_side() -> None:
    second_ran = threading.Event()

    def first() -> Finding:
        return ok("waited") if second_ran.wait(30) else fail("alone", "")

    def second() -> Finding:
        second_ran.set()
        return ok("ran")

    found = list(run([Check("a.first", first, timeout_s=60), Check("a.second", second)]))
    assert [(check.name, it.found) for check, it in found] == [
        ("a.first", "waited"),
        ("a.second", "ran"),
    ]


def test_a_check_that_hangs_costs_its_own_line_only() -> None:
    never = threading.Event()
    checks = [
        Check("cache.hangs", lambda: ok(str(never.wait())), timeout_s=0.2, when_late="look there"),
        Check("cache.fine", lambda: ok("fine")),
    ]
    found = [it for _, it in run(checks)]
    never.set()
    assert (found[0].status, found[0].advice) == ("fail", "look there")
    assert "no answer within 0.2 s" in found[0].found
    assert found[1] == ok("fine")


def test_an_error_of_ours_is_its_message_its_hint_and_its_exit_code() -> None:
    check = Check("store.read", raising(ConfigError("no such thing", hint="write another")))
    assert finding_of(check) == Finding("fail", "no such thing", "write another", exit_code=2)


@pytest.mark.parametrize(
    "err", [ValueError("password=HIDDEN"), SystemExit("HIDDEN"), RecursionError("HIDDEN")]
)
def test_an_unforeseen_error_is_a_line_without_its_text(err: BaseException) -> None:
    found = finding_of(Check("store.credentials", raising(err)))
    assert found.status == "fail"
    assert type(err).__name__ in found.found
    assert "test_runner.py:" in found.found
    assert "HIDDEN" not in found.found + found.advice


def test_an_error_of_the_system_says_its_reason_and_the_file() -> None:
    found = finding_of(Check("a.b", raising(PermissionError(13, "whatever", "/some/file"))))
    assert "PermissionError (Permission denied of /some/file)" in found.found


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([("cache.space", ok("")), ("gpu.dali", warn("", "")), ("gpu.torch", skip(""))], 0),
        ([("cache.space", fail("", ""))], 5),
        ([("cache.space", fail("", "")), ("cache.holes", fail("", ""))], 5),
        ([("mount.device", fail("", ""))], 6),
        ([("store.read", fail("", ""))], 3),
        ([("gpu.dali", fail("", ""))], 1),
        ([("store.read", fail("", "")), ("cache.space", fail("", ""))], 1),
        ([("store.endpoint", finding_of(Check("x.y", raising(ConfigError("url")))))], 2),
        ([("cache.directory", finding_of(Check("x.y", raising(CacheError("full")))))], 5),
    ],
)
def test_the_exit_code_is_that_of_what_failed(
    findings: list[tuple[str, Finding]], code: int
) -> None:
    assert (
        exit_code([(Check(name, raising(AssertionError())), it) for name, it in findings]) == code
    )


def test_the_document_has_every_line_and_the_worst_status() -> None:
    lines = [
        (Check("a.one", raising(AssertionError())), ok("fine", count=3)),
        (Check("b.two", raising(AssertionError())), warn("slow", "hurry")),
    ]
    made = document(lines)
    assert set(made) == {"schema", "version", "status", "exit_code", "counts", "checks"}
    assert (made["schema"], made["status"], made["exit_code"]) == (1, "warn", 0)
    assert made["counts"] == {"ok": 1, "warn": 1, "fail": 0, "skip": 0}
    assert made["checks"][0] == {
        "name": "a.one",
        "group": "a",
        "status": "ok",
        "found": "fine",
        "advice": "",
        "values": {"count": 3},
    }
