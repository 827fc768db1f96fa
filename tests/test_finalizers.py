"""Calls when an object dies: once, in time, and never because the process ends."""

from __future__ import annotations

import ast
import gc
import subprocess
import sys
from pathlib import Path

import dataplane
import dataplane_fuse
from dataplane import finalizers
from dataplane.finalizers import finalize


class Owner:
    """Something that can be referred to weakly."""


def test_it_is_called_once_when_its_owner_dies() -> None:
    called: list[int] = []
    owner = Owner()
    first, second = finalize(owner, called.append, 1), finalize(owner, called.append, 2)
    gc.collect()
    assert called == []
    del owner
    assert sorted(called) == [1, 2]
    assert not first()
    assert not second()
    gc.collect()
    assert sorted(called) == [1, 2]


def test_it_is_called_for_an_owner_in_a_cycle() -> None:
    called: list[int] = []
    owner = Owner()
    owner.itself = owner  # type: ignore[attr-defined]
    finalize(owner, called.append, 1)
    del owner
    gc.collect()
    assert called == [1]


def test_it_can_be_called_off_once() -> None:
    called: list[int] = []
    owner = Owner()
    call_off = finalize(owner, called.append, 1)
    other = Owner()
    finalize(other, called.append, 2)
    assert call_off()
    assert not call_off()
    del owner, other
    assert called == [2]


def test_nothing_is_kept_of_what_is_over() -> None:
    before = len(finalizers._references)
    owners = [Owner() for _ in range(100)]
    call_offs = [finalize(owner, lambda: None) for owner in owners]
    assert len(finalizers._references) == before + 100
    for call_off in call_offs[:50]:
        call_off()
    del owners
    gc.collect()
    assert len(finalizers._references) == before


_PROGRAM = """
import threading
from dataplane.finalizers import finalize

class Owner: pass

begun = threading.Event()

def work():
    while True:
        owners = [Owner() for _ in range(1000)]
        for owner in owners:
            finalize(owner, int)
        begun.set()

threading.Thread(target=work, daemon=True).start()
begun.wait()
kept = Owner()
finalize(kept, print, "called when Python takes this module apart")
"""


def test_a_program_ends_in_silence_while_another_thread_makes_them() -> None:
    program = [sys.executable, "-c", _PROGRAM]
    for _ in range(5):
        done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_source_makes_none_that_python_goes_through_at_exit() -> None:
    roots = [Path(root) for package in (dataplane, dataplane_fuse) for root in package.__path__]
    sources = [path for root in roots for path in root.rglob("*.py")]
    trees = {path: ast.parse(path.read_text()) for path in sources}
    assert len(trees) > 300
    names = {"weakref.finalize", "from weakref import finalize"}
    found = [
        str(path)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.ImportFrom) and ast.unparse(node) in names
    ]
    assert found == []
