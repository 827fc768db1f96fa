"""Global state that the user's code keeps: what copies of his objects would still share.

A copy of an object does not copy the module-level variables that its methods use: a scratch buffer,
a generator of random numbers, an open file; nor what its class keeps, or a function in its defaults
and attributes. With worker processes each has its own. Before code is run in threads,
`find_shared_state` looks for such variables, in what the code can reach: functions and classes of
the user's own modules (not of installed packages), and what these name.

It reads bytecode and runs nothing. What cannot change (numbers, texts, types, modules, …) and what
is made to be shared by threads (locks, events, queues) does not count. It errs on the side of
finding: an array that is only read counts as well. Functions without state; safe from any thread.
"""

from __future__ import annotations

import builtins
import dis
import enum
import functools
import logging
import pathlib
import queue
import re
import sys
import sysconfig
import threading
import types
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from dataplane.loader.random_streams import name_of_hidden

__all__ = ["SYNCHRONIZATION", "find_shared_state", "is_by_reference"]

SYNCHRONIZATION: tuple[type, ...] = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Event,
    threading.Semaphore,
    threading.Barrier,
    threading.local,
    queue.Queue,
    queue.SimpleQueue,
)
"""Types that are made to be shared by threads."""

_FIXED: tuple[type, ...] = (
    types.ModuleType,
    types.BuiltinFunctionType,
    types.GenericAlias,
    np.ufunc,
    np.dtype,
    torch.dtype,
    torch.device,
    torch.Size,
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    range,
    slice,
    type(None),
    type(Ellipsis),
    type(NotImplemented),
    enum.Enum,
    pathlib.PurePath,
    re.Pattern,
    logging.Logger,
    *SYNCHRONIZATION,
)


def find_shared_state(roots: Iterable[object]) -> str | None:
    """Return the name of a variable that copies of some classes and functions would share.

    Args:
        roots: classes and functions that the code begins with.

    Returns:
        Its name with that of its module, or None where there is none.
    """
    # What is copied is made already: it is no worker's `__init__` that runs for it.
    waiting: list[tuple[object, bool]] = [(one, True) for one in roots]
    seen: set[tuple[int, bool]] = set()
    named: set[str] = set()  # by the code that was reached
    asked_by_name: list[types.FunctionType] = []
    while waiting:
        one, is_made = waiting.pop()
        if (id(one), is_made) in seen or (id(one), False) in seen:
            continue
        seen.add((id(one), is_made))
        for name, value in _kept_by(one):
            if not _is_fixed(value):
                return name
        for function, is_of_class in _functions(one):
            if is_made and function.__name__ == "__init__":
                continue
            if is_of_class:
                asked_by_name.append(function)
            else:
                found = _attribute_set(function, is_of_class=False)
                if found is not None:
                    return found
            named.update(_names_in(function.__code__))
            for name, value, is_set in _globals_of(function, function.__code__):
                if is_set or not _is_fixed(value):
                    return f"{function.__module__}.{name}"
                waiting.append((value, False))
            waiting += [(value, False) for value in _closure_of(function)]
        wrapped = getattr(one, "__wrapped__", None)
        if isinstance(wrapped, types.FunctionType):
            waiting.append((wrapped, False))
    for function in asked_by_name:
        if function.__name__ in named:
            found = _attribute_set(function, is_of_class=True)
            if found is not None:
                return found
    return None


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _kept_by(one: object) -> Iterator[tuple[str, object]]:
    """Yield what classes and functions keep themselves: class attributes, defaults, attributes."""
    if isinstance(one, types.FunctionType) and _is_users(one.__module__):
        for name, value in vars(one).items():
            if name != "__wrapped__":
                yield f"{one.__module__}.{one.__qualname__}.{name}", value
        for value in (*(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values()):
            yield f"{one.__module__}.{one.__qualname__} (a default argument)", value
        for value in _closure_of(one):
            yield f"{one.__module__}.{one.__qualname__} (its closure)", value
    elif isinstance(one, type):
        for kind in one.__mro__:
            if not _is_users(kind.__module__) or issubclass(kind, (tuple, enum.Enum)):
                continue
            for name, value in vars(kind).items():
                if not name.startswith("__") and not _is_member(value):
                    yield f"{kind.__module__}.{kind.__qualname__}.{name}", value


def _closure_of(function: types.FunctionType) -> Iterator[object]:
    yield from _contents(function.__closure__ or ())


def _contents(cells: Iterable[types.CellType]) -> Iterator[object]:
    for cell in cells:
        try:
            yield cell.cell_contents
        except ValueError:
            continue  # it is still empty


def _is_member(value: object) -> bool:
    """Whether a class attribute is a method, a property, a slot or the like, and no data."""
    return callable(value) or hasattr(value, "__get__") or type(value).__name__ == "_abc_data"


def is_by_reference(function: types.FunctionType) -> bool:
    """Whether copies of a function are the function itself: one that can be imported."""
    found: object = sys.modules.get(function.__module__ or "")
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function and function.__module__ != "__main__"


def _functions(one: object) -> Iterator[tuple[types.FunctionType, bool]]:
    """Yield the functions of a class or the one that it is, where they are the user's own.

    With each comes whether it is a class method.
    """
    if isinstance(one, types.FunctionType):
        if _is_users(one.__module__):
            yield one, False
    elif isinstance(one, type):
        for kind in one.__mro__:
            if _is_users(kind.__module__):
                for member in vars(kind).values():
                    for function in _functions_of_member(member):
                        if _is_users(function.__globals__.get("__name__")):
                            yield function, isinstance(member, classmethod)


def _functions_of_member(member: object) -> Iterator[types.FunctionType]:
    if isinstance(member, (staticmethod, classmethod)):
        member = member.__func__
    if isinstance(member, functools.cached_property):
        member = member.func
    parts = (member.fget, member.fset) if isinstance(member, property) else (member,)
    for part in parts:
        found = getattr(part, "__wrapped__", part)
        if isinstance(found, types.FunctionType):
            yield found


def _globals_of(
    function: types.FunctionType, code: types.CodeType
) -> Iterator[tuple[str, object, bool]]:
    """Yield the global variables that code names: name, value, whether it sets it."""
    names = function.__globals__
    module: object = None
    for step in dis.get_instructions(code):
        found: object = None
        if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            yield str(step.argval), None, True
        elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval == "globals":
            yield "globals()", None, True
        elif step.opname == "IMPORT_NAME" and _is_users_module(sys.modules.get(str(step.argval))):
            # Which of its variables are used is not followed: any that the code names.
            for name, value in vars(sys.modules[str(step.argval)]).items():
                if name in code.co_names:
                    yield name, value, False
        elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in names:
            found = names[step.argval]
            yield str(step.argval), found, False
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and _is_users_module(module):
            found = getattr(module, str(step.argval), None)
            yield str(step.argval), found, False
        module = found if isinstance(found, types.ModuleType) else None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_of(function, constant)


def _attribute_set(function: types.FunctionType, *, is_of_class: bool) -> str | None:
    """Say what a function sets of a class or function, all of whose copies share it, or None."""
    if function.__name__ == "__init_subclass__":
        return None  # runs where a class is made
    first = function.__code__.co_varnames[:1] if is_of_class else ()
    found = _Setting(function, frozenset(first)).of(function.__code__)
    if found is None:
        return None
    return f"{function.__module__}.{function.__qualname__} (which sets {found})"


class _Setting:
    """Finds what code sets of classes and functions.

    Args:
        function: function that the code is of.
        classes: names of its variables that are classes.
    """

    def __init__(self, function: types.FunctionType, classes: frozenset[str]) -> None:
        self._function = function
        self._classes = set(classes)

    def of(self, code: types.CodeType) -> str | None:
        """Return the name of an attribute that is set, with its owner's."""
        steps = [one for one in dis.get_instructions(code) if one.opname != "EXTENDED_ARG"]
        for at, step in enumerate(steps):
            if step.opname == "STORE_ATTR":
                end = at - 1
                if steps[end].opname == "SWAP":  # of `x.n += 1`, where x was taken twice
                    end = _place_of_copy(steps, at) - 1
                owner = self._owner(steps, end)
                if owner is not None:
                    return f"{owner}.{step.argval}"
            elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval == "setattr":
                owner = self._first_argument(steps, at + 1)
                if owner is not None:
                    return f"an attribute of {owner}"
            elif step.opname == "STORE_FAST" and self._owner(steps, at - 1) is not None:
                self._classes.add(str(step.argval))
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                found = self.of(constant)
                if found is not None:
                    return found
        return None

    def _first_argument(self, steps: list[dis.Instruction], at: int) -> str | None:
        """Return the owner that the expression beginning at a step is, if it is one."""
        one = steps[at]
        end = at
        if one.argval == "type" and _is_called(one):
            while end < len(steps) - 1 and steps[end].opname != "CALL":
                end += 1
        elif steps[at + 1].opname in ("LOAD_ATTR", "LOAD_METHOD"):
            end = at + 1
        return self._owner(steps, end)

    def _owner(self, steps: list[dis.Instruction], end: int) -> str | None:
        """Return the name of the class or function that the expression ending at a step is."""
        step = steps[end]
        name = step.argval[-1] if isinstance(step.argval, tuple) else step.argval
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            return "its class" if name == "__class__" else None
        if step.opname.startswith(("LOAD_FAST", "STORE_FAST_LOAD_FAST")):
            return "its class" if name in self._classes else None
        if step.opname.startswith("CALL"):
            before = steps[max(end - 4, 0) : end]
            is_type = any(one.opname == "LOAD_GLOBAL" and one.argval == "type" for one in before)
            return "its class" if is_type else None
        value: object = None
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and not _is_called(step):
            value = self._function.__globals__.get(str(name))
        elif step.opname in ("LOAD_DEREF", "LOAD_CLASSDEREF"):
            names = self._function.__code__.co_freevars
            if name in names:
                cell = (self._function.__closure__ or ())[names.index(str(name))]
                value = next(_contents([cell]), None)
        is_shared = isinstance(value, (type, types.FunctionType, types.ModuleType))
        return str(name) if is_shared else None


def _is_called(step: dis.Instruction) -> bool:
    """Whether a global that is loaded is called next."""
    return "NULL" in step.argrepr


def _place_of_copy(steps: list[dis.Instruction], at: int) -> int:
    for place in range(at - 1, 0, -1):
        after = steps[place + 1]
        if steps[place].opname == "COPY" and after.argval == steps[at].argval:
            return place
    return at


def _is_fixed(value: Any) -> bool:
    if isinstance(value, types.BuiltinMethodType) and name_of_hidden(value.__self__) is not None:
        return False  # `from random import random`: a thread's draws cannot be led away from it
    if isinstance(value, types.MethodType) and name_of_hidden(value.__self__) is not None:
        return True
    if isinstance(value, (type, types.FunctionType, *_FIXED)):
        return True
    if isinstance(value, (tuple, frozenset)):
        return all(map(_is_fixed, value))
    kind = type(value)
    if kind.__module__ in ("typing", "types") or getattr(builtins, kind.__name__, None) is kind:
        return kind.__module__ != "builtins"
    parameters = getattr(kind, "__dataclass_params__", None)
    if parameters is not None and parameters.frozen:
        return all(map(_is_fixed, vars(value).values())) if hasattr(value, "__dict__") else True
    # What an installed package made and means to be called: decorated functions and the like.
    if isinstance(value, functools._lru_cache_wrapper):
        return False
    return callable(value) and isinstance(getattr(value, "__wrapped__", None), types.FunctionType)


def _is_users_module(module: object) -> bool:
    return isinstance(module, types.ModuleType) and _is_users(module.__name__)


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _is_users(name: str | None) -> bool:
    """Whether a module is the user's own: a script, or not an installed package."""
    if name == "__main__":
        return True
    if not name or name.partition(".")[0] == "dataplane":
        return False
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if file is None:  # of a namespace package, or built in
        file = next(iter(getattr(module, "__path__", ())), None)
    if file is None:
        return False
    parts = pathlib.PurePath(str(file)).parts
    is_installed = "site-packages" in parts or "dist-packages" in parts
    return not is_installed and not str(file).startswith(_installed_folders())
