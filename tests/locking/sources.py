"""The sources of a project as they are written: functions, classes, types where they are clear.

Nothing is run or imported. The type of an expression is the text of an annotation, or the full name
of a class of the project; None where the source does not say.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Function:
    """A function or method of the project."""

    module: Module
    node: ast.FunctionDef
    owner: str | None = None
    outer: Function | None = None

    @property
    def label(self) -> str:
        owner = f"{self.owner}." if self.owner else ""
        return f"{self.module.name}.{owner}{self.node.name}"

    @property
    def is_context_manager(self) -> bool:
        return any("contextmanager" in ast.unparse(d) for d in self.node.decorator_list)


@dataclass
class Module:
    """A source file, and what its names stand for."""

    name: str
    tree: ast.Module
    names: dict[str, str] = field(default_factory=dict)  # imported: local -> full name
    variables: dict[str, str] = field(default_factory=dict)  # module level: name -> type


@dataclass
class Class:
    """A class of the project: its methods, and the types of its attributes where they are clear."""

    module: Module
    node: ast.ClassDef
    methods: dict[str, Function] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)


class Project:
    """All sources of some packages, by folder."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.modules: dict[str, Module] = {}
        self.classes: dict[str, Class] = {}
        self.functions: dict[str, Function] = {}
        self.all_functions: list[Function] = []
        self._typed: dict[tuple[str, int], str | None] = {}
        for package, folder in folders.items():
            for path in sorted(folder.rglob("*.py")):
                parts = [package, *path.relative_to(folder).with_suffix("").parts]
                name = ".".join(parts).removesuffix(".__init__")
                self._add(Module(name, ast.parse(path.read_text())))
        for found in self.classes.values():
            self._type_attributes(found)
        self._typed.clear()  # some looked at attributes that were not known yet

    def _add(self, module: Module) -> None:
        self.modules[module.name] = module
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    module.names[alias.asname or alias.name.split(".")[0]] = (
                        alias.name if alias.asname else alias.name.split(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    module.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        self._add_functions(module, module.tree, None, None)
        for node in module.tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                module.variables[node.target.id] = ast.unparse(node.annotation)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        module.variables[target.id] = ast.unparse(node.value.func)

    def _add_functions(
        self, module: Module, node: ast.AST, owner: Class | None, outer: Function | None
    ) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                found = Class(module, child)
                self.classes[f"{module.name}.{child.name}"] = found
                self._add_functions(module, child, found, None)
            elif isinstance(child, ast.FunctionDef):
                function = Function(module, child, owner.node.name if owner else None, outer)
                self.all_functions.append(function)
                if owner is not None:
                    owner.methods[child.name] = function
                elif outer is None:
                    self.functions[f"{module.name}.{child.name}"] = function
                self._add_functions(module, child, None, function)
            else:
                self._add_functions(module, child, owner, outer)

    def _type_attributes(self, found: Class) -> None:
        for node in found.node.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.attributes[node.target.id] = self._written(node.annotation, found.module)
        for method in found.methods.values():
            if (
                any(
                    ast.unparse(d) in ("property", "cached_property")
                    for d in method.node.decorator_list
                )
                and method.node.returns
            ):
                found.attributes[method.node.name] = self._written(
                    method.node.returns, found.module
                )
            for node in ast.walk(method.node):
                targets: list[ast.expr] = []
                value: ast.expr | None = None
                annotation = None
                if isinstance(node, ast.AnnAssign):
                    targets, value, annotation = [node.target], node.value, node.annotation
                elif isinstance(node, ast.Assign):
                    targets, value = node.targets, node.value
                for target in targets:
                    pairs = [(target, value)]
                    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                        pairs = list(zip(target.elts, value.elts, strict=False))
                    for left, right in pairs:
                        if not (
                            isinstance(left, ast.Attribute)
                            and isinstance(left.value, ast.Name)
                            and left.value.id == "self"
                        ):
                            continue
                        kind = self._written(annotation, found.module) or (
                            self.type_of(right, method) if right is not None else None
                        )
                        if kind and kind not in ("None", "NoneType"):
                            found.attributes.setdefault(left.attr, kind)

    def type_of(self, node: ast.expr, function: Function | None) -> str | None:
        """The type of an expression as it is written somewhere, or None."""
        match node:
            case ast.Call(func=func):
                called = self.resolve(func, function)
                if isinstance(called, Function):
                    return self._written(called.node.returns, called.module)
                if isinstance(called, Class):
                    return f"{called.module.name}.{called.node.name}"
                if isinstance(func, ast.Attribute) and func.attr in ("pop", "popleft"):
                    return _element(self.type_of(func.value, function))
                return called
            case ast.Name(id=name):
                return self._type_of_name(name, function)
            case ast.Attribute(value=value, attr=attr):
                owner = self.class_of(self.type_of(value, function), function)
                kinds = [found.attributes.get(attr) for found in self._with_bases(owner)]
                return next(filter(None, kinds), None)
            case ast.List() | ast.ListComp():
                return "list"
            case ast.Dict() | ast.DictComp():
                return "dict"
            case ast.Set() | ast.SetComp():
                return "set"
            case ast.Subscript(value=value, slice=ast.Constant(value=int(index))):
                kind = self.type_of(value, function)
                return _member(kind, index) or _element(kind)
            case ast.Subscript(value=value):
                return _element(self.type_of(value, function))
            case ast.BoolOp(values=values):
                kinds = {self.type_of(value, function) for value in values}
                return kinds.pop() if len(kinds) == 1 else None
        return None

    def _written(self, annotation: ast.expr | None, module: Module) -> str | None:
        """A type as it is written, with the full name where it is a class of the project."""
        if annotation is None:
            return None
        kind = ast.unparse(annotation).strip("'\"")
        name = bare(kind)
        full = self.canonical(module.names.get(name, f"{module.name}.{name}"))
        return full if full in self.classes else kind

    def canonical(self, name: str) -> str:
        """Where a name is defined that packages hand on."""
        for _ in range(5):
            package, _, last = name.rpartition(".")
            module = self.modules.get(package)
            if name in self.classes or module is None or last not in module.names:
                return name
            name = module.names[last]
        return name

    def _type_of_name(self, name: str, function: Function | None) -> str | None:
        key = (name, id(function.node) if function else 0)
        if key not in self._typed:
            self._typed[key] = None  # while it is looked for: it may be made from itself
            self._typed[key] = self._look_for_type(name, function)
        return self._typed[key]

    def _look_for_type(self, name: str, function: Function | None) -> str | None:
        scope = function
        while scope is not None:
            if name == "self" and scope.owner is not None:
                return f"{scope.module.name}.{scope.owner}"
            arguments = scope.node.args
            for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
                if argument.arg == name and argument.annotation is not None:
                    return self._written(argument.annotation, scope.module)
            for node in ast.walk(scope.node):
                found = self._type_by(node, name, scope)
                if found is not None:
                    return found
            scope = scope.outer
        return function.module.variables.get(name) if function else None

    def _type_by(self, node: ast.AST, name: str, scope: Function) -> str | None:
        """The type that a statement gives to a local name."""
        if isinstance(node, ast.AnnAssign) and _is_name(node.target, name):
            return self._written(node.annotation, scope.module)
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if _is_name(target, name):
                    return self.type_of(node.value, scope)
                if isinstance(target, ast.Tuple):
                    for index, element in enumerate(target.elts):
                        if not _is_name(element, name):
                            continue
                        if isinstance(node.value, ast.Tuple):
                            return self.type_of(node.value.elts[index], scope)
                        return _member(self.type_of(node.value, scope), index)
        if isinstance(node, ast.For | ast.comprehension) and _is_name(node.target, name):
            return _element(self.type_of(node.iter, scope))
        if isinstance(node, ast.With):
            for item in node.items:
                if item.optional_vars is not None and _is_name(item.optional_vars, name):
                    return self.type_of(item.context_expr, scope)
        return None

    def class_of(self, kind: str | None, function: Function | None) -> Class | None:
        """The class of the project that a type's text names."""
        if kind is None:
            return None
        short = bare(kind)
        names = [short]
        if function is not None:
            module = function.module
            names += [f"{module.name}.{short}", module.names.get(short, short)]
        found = [self.classes[name] for name in map(self.canonical, names) if name in self.classes]
        return found[0] if found else None

    def _with_bases(self, found: Class | None) -> Iterator[Class]:
        if found is None:
            return
        yield found
        for base in found.node.bases:
            full = self.canonical(
                found.module.names.get(
                    ast.unparse(base).split("[")[0], f"{found.module.name}.{ast.unparse(base)}"
                )
            )
            yield from self._with_bases(self.classes.get(full))

    def resolve(self, func: ast.expr, function: Function | None) -> Function | Class | str | None:
        """What a call's function is: of the project, or a full name, or None."""
        module = function.module if function else None
        if isinstance(func, ast.Name) and module is not None:
            scope = function
            while scope is not None:
                for node in ast.walk(scope.node):
                    if isinstance(node, ast.FunctionDef) and node.name == func.id:
                        return Function(module, node, None, scope)
                scope = scope.outer
            name = module.names.get(func.id, f"{module.name}.{func.id}")
            found = self.functions.get(name) or self.classes.get(name)
            if found is None and hasattr(builtins, func.id):
                return func.id
            return found or name
        if isinstance(func, ast.Attribute):
            if isinstance(func.value, ast.Name) and module is not None:
                imported = module.names.get(func.value.id)
                if imported is not None and self.class_of(imported, function) is None:
                    name = f"{imported}.{func.attr}"
                    return self.functions.get(name) or self.classes.get(name) or name
            kind = self.type_of(func.value, function)
            for owner in self._with_bases(self.class_of(kind, function)):
                if func.attr in owner.methods:
                    return owner.methods[func.attr]
            if kind is not None:
                return f"{bare(kind)}.{func.attr}"
        return None


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def bare(kind: str) -> str:
    """A type without its parameters and without None."""
    parts = [part.strip() for part in kind.split(" | ")] if "[" not in kind else [kind]
    parts = [part for part in parts if part != "None"]
    return parts[0].split("[")[0].strip("'\"") if parts else kind


def _element(kind: str | None) -> str | None:
    """The type of what a container of a type holds, where that is written."""
    if kind is None or "[" not in kind:
        return None
    inside = kind[kind.index("[") + 1 : kind.rindex("]")]
    return inside.split(", ")[-1] if kind.startswith(("dict", "OrderedDict")) else inside


def _member(kind: str | None, index: int) -> str | None:
    """The type of one member of a tuple type."""
    if kind is None or not kind.startswith("tuple["):
        return None
    members = ast.parse(kind, mode="eval").body
    if not isinstance(members, ast.Subscript):
        return None
    elements = members.slice.elts if isinstance(members.slice, ast.Tuple) else [members.slice]
    return ast.unparse(elements[index]) if index < len(elements) else None
