"""What each finalizer of the source can call, followed to the end, without running it.

Finalizers are `__del__` methods, callbacks of weak references, and the clean-up of generators: what
stands in `finally`, in a handler of every exception, or in the exit of a `with` around a `yield`.
Python runs that when a generator is dropped halfway.

From each of them every call is followed through the project. It ends well at what is known to take
no lock and to wait for nothing (`_TRUSTED`, `_TRUSTED_METHODS`); whatever else it meets is an
objection: a `with` over a lock, a method of an object whose type is not known, somebody else's
function. So what this walk cannot understand is refused, and never passed over.

A generator whose clean-up does take a lock must not be dropped: it passes if all who make it hand
it to `contextlib.closing` in the same `with` statement, in a plain function or in a generator that
is closed in the same way. A frame that runs is never finalized.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

from tests.locking.sources import Class, Function, Module, Project

_TRUSTED = {
    "contextlib.suppress",
    "dataplane._native.BlockMap.release",  # one atomic operation on the map
    "heapq.heappush",
    "int.from_bytes",
    "os.close",
    "os.getpid",
    "shutil.rmtree",
    "time.monotonic",
    *(name for name in dir(builtins) if name not in ("open", "input", "exec", "eval", "print")),
}
_TRUSTED_METHODS = {
    "SimpleQueue": {"put", "empty", "get_nowait"},  # documented as reentrant
    "socket.socket": {"close"},
    "ctypes.CDLL": {"munmap"},  # a system call
    "Generator": {"close"},  # a generator of ours is looked at on its own
    "Iterator": {"close"},
    **{
        name: {"append", "popleft", "pop", "clear", "items", "get", "remove", "discard", "add"}
        for name in ("list", "deque", "set", "dict", "OrderedDict")
    },
}


_FINALIZE = "dataplane.finalizers.finalize"  # of ours: it stands for that of `weakref`


class Finalizers:
    """What runs in the finalizers of a project, and what speaks against it."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._calls: dict[str, list[tuple[Function, ast.Call, bool]]] = {}

    def all(self) -> Iterator[tuple[str, Function, list[ast.AST]]]:
        """Yield what runs in finalizers: a label, the function it stands in, the code."""
        for function in self._project.all_functions:
            if function.node.name == "__del__":
                yield function.label, function, list(function.node.body)
            if not function.is_context_manager:
                cleanup = list(cleanup_of(function.node))
                if cleanup:
                    yield f"{function.label}, dropped", function, cleanup
            for node in ast.walk(function.node):
                if isinstance(node, ast.Call):
                    for callback in self._callbacks(node, function):
                        label = f"{function.label}: {ast.unparse(callback)}, called by weakref"
                        body = (
                            callback.body
                            if isinstance(callback, ast.Lambda)
                            else ast.Call(callback, [], [])
                        )
                        yield label, function, [body]

    def _callbacks(self, call: ast.Call, function: Function) -> list[ast.expr]:
        last = getattr(call.func, "attr", getattr(call.func, "id", None))
        if last not in ("finalize", "ref", "WeakMethod", "proxy"):
            return []
        if function.label == _FINALIZE:
            return []  # what it is given to call is looked at where it is given
        called = self._project.resolve(call.func, function)
        name = called.label if isinstance(called, Function) else called
        if isinstance(name, str) and (name == _FINALIZE or name.startswith("weakref.")):
            return call.args[1:2]
        return []

    def objections(self, code: list[ast.AST], function: Function) -> list[str]:
        """Follow code to its ends; say what it does that a finalizer must not."""
        found: list[str] = []
        self._follow(code, function, [], found)
        return found

    def _follow(
        self, code: list[ast.AST], function: Function, path: list[str], found: list[str]
    ) -> None:
        for top in code:
            # Of a `with`, only leaving it runs now; what it was entered with is evaluated already.
            is_exit = isinstance(top, ast.Call) and not hasattr(top, "lineno")
            for node in [top] if is_exit else _own(top):
                if isinstance(node, ast.With):
                    for item in node.items:
                        if not isinstance(item.context_expr, ast.Call):
                            text = ast.unparse(item.context_expr)
                            found.append(" > ".join([*path, f"with {text}"]))
                if isinstance(node, ast.Call):
                    self._follow_call(node, function, path, found)

    def _follow_call(
        self, call: ast.Call, function: Function, path: list[str], found: list[str]
    ) -> None:
        text = ast.unparse(call.func)
        called = self._project.resolve(call.func, function)
        if text.endswith(".__exit__") and isinstance(call.func, ast.Attribute):
            entered = call.func.value
            manager = (
                self._project.resolve(entered.func, function)
                if isinstance(entered, ast.Call)
                else None
            )
            if isinstance(manager, Function) and manager.is_context_manager:
                self._follow(list(cleanup_of(manager.node)), manager, [*path, manager.label], found)
                return
        here = [*path, text]
        if isinstance(called, Class):
            called = called.methods.get("__init__", "dataclass")
        if isinstance(called, Function):
            if called.label in path:
                return
            if _is_generator(called.node):
                return  # calling it runs nothing; its clean-up is looked at on its own
            self._follow(list(called.node.body), called, [*path, called.label], found)
        elif (
            called in _TRUSTED
            or called == "dataclass"
            or (called is not None and self._is_trusted_method(called))
            or (called == "contextlib.ExitStack.__exit__" and _keeps_files_only(function.module))
        ):
            return
        else:
            found.append(" > ".join([*here, f"({called or 'of no known type'})"]))

    def _is_trusted_method(self, name: str) -> bool:
        kind, _, method = name.rpartition(".")
        return any(
            (kind == known or kind.endswith(f".{known}")) and method in methods
            for known, methods in _TRUSTED_METHODS.items()
        )

    def calls_of(self, function: Function) -> list[tuple[Function, ast.Call, bool]]:
        """All calls by a function's name, and whether each is handed to `closing` in a `with`."""
        if not self._calls:
            for caller in self._project.all_functions:
                self._index_calls(caller)
        found = []
        # Also by the name of a private attribute that keeps it, as a callback.
        for name in (function.node.name, f"_{function.node.name}"):
            for caller, call, closed in self._calls.get(name, ()):
                called = self._project.resolve(call.func, caller)
                if not isinstance(called, Function) or called.label == function.label:
                    found.append((caller, call, closed))
        return found

    def _index_calls(self, caller: Function) -> None:
        closed: set[int] = set()
        for node in _own_body(caller.node):
            if isinstance(node, ast.With):
                closed |= {
                    id(item.context_expr.args[0])
                    for item in node.items
                    if isinstance(item.context_expr, ast.Call)
                    and ast.unparse(item.context_expr.func) in ("closing", "contextlib.closing")
                }
            elif isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                self._calls.setdefault(name, []).append((caller, node, id(node) in closed))

    def is_always_closed(self, function: Function, above: tuple[str, ...] = ()) -> bool:
        """Whether everyone who makes a generator closes it in the same statement."""
        if function.label in above:
            return False
        calls = self.calls_of(function)
        above = (*above, function.label)
        return bool(calls) and all(
            closed or (_delegates(caller, call) and self.is_always_closed(caller, above))
            for caller, call, closed in calls
        )


def cleanup_of(node: ast.FunctionDef) -> Iterator[ast.AST]:
    """Yield what a generator runs when it is dropped at one of its yields."""

    def visit(parent: ast.AST, around: list[ast.AST]) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(parent):
            if isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef):
                continue
            if isinstance(child, ast.Yield | ast.YieldFrom):
                yield from around
            inner = around
            if isinstance(child, ast.With):
                inner = [*around, *(_exit_of(item.context_expr) for item in child.items)]
            elif isinstance(child, ast.Try):
                inner = [*around, *child.finalbody]
                for handler in child.handlers:
                    kind = ast.unparse(handler.type) if handler.type else "BaseException"
                    if kind in ("GeneratorExit", "BaseException"):
                        inner += handler.body
                        break  # those after it do not see what this one catches
            yield from visit(child, inner)

    seen: set[str] = set()
    for code in visit(node, []):
        text = ast.dump(code)
        if text not in seen:
            seen.add(text)
            yield code


def _exit_of(expression: ast.expr) -> ast.AST:
    """Code that stands for leaving a `with`: the `close` of what is closed, or its `__exit__`."""
    if isinstance(expression, ast.Call):
        name = ast.unparse(expression.func)
        if name in ("contextlib.suppress", "suppress"):
            return ast.Pass()
        if name in ("contextlib.closing", "closing"):
            return ast.Call(ast.Attribute(expression.args[0], "close"), [], [])
    return ast.Call(ast.Attribute(expression, "__exit__"), [], [])


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """Walk code without the functions that it only defines."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            yield from _own(child)


def _keeps_files_only(module: Module) -> bool:
    """Whether all that a module gives to an `ExitStack` is files that it opens."""
    given = [
        ast.unparse(node.args[0])
        if node.func.attr == "enter_context" and _is_open(node.args[0])
        else None
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("enter_context", "callback", "push")
    ]
    return bool(given) and all(given)


def _is_open(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "open"
    )


def _delegates(caller: Function, call: ast.Call) -> bool:
    return any(
        isinstance(node, ast.YieldFrom) and node.value is call for node in ast.walk(caller.node)
    )


def _is_generator(node: ast.FunctionDef) -> bool:
    return any(isinstance(child, ast.Yield | ast.YieldFrom) for child in _own_body(node))


def _own_body(node: ast.FunctionDef) -> Iterator[ast.AST]:
    for statement in node.body:
        yield from _own(statement)
