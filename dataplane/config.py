"""Assembly of every configuration dataclass: defaults < TOML < environment < arguments.

A configuration is a frozen dataclass beside the code that uses it, its fields made by `setting()`.
`assemble()` merges the four sources, converts text, rejects names it does not know, and remembers
where each value came from so that a command can print it. This module knows no particular setting.

The TOML file is `$DATAPLANE_CONFIG`, else `~/.config/dataplane/config.toml`; each dataclass reads
its own table (`[cache]`, `[store]`, …). Pure functions; the environment is read at the call.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import textwrap
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from dataplane.errors import ConfigError

__all__ = [
    "SECTIONS",
    "Resolved",
    "absolute_path",
    "assemble",
    "load_toml",
    "parse_flag",
    "setting",
    "with_attributes",
]

ConfigT = TypeVar("ConfigT")

SECTIONS = frozenset({"cache", "store"})
"""The tables of the user's file; the dataclass of each is beside the code that uses it."""

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclasses.dataclass(frozen=True, slots=True)
class Resolved(Generic[ConfigT]):
    """A configuration and, per field, where its value came from (`default`, a file, a variable)."""

    value: ConfigT
    origins: Mapping[str, str]


def setting(
    default: Any = dataclasses.MISSING,
    *,
    default_factory: Any = dataclasses.MISSING,
    env: str | tuple[str, ...] = (),
    parse: Callable[[str], object] | None = None,
    doc: str = "",
    is_path: bool = False,
    repr: bool = True,  # noqa: A002 - the name that dataclasses give it
) -> Any:
    """Declare a configuration field.

    Args:
        default: value when nothing else is given.
        default_factory: function that makes the default at the call.
        env: environment variable that sets it; of several, the first that is set.
        parse: function from text (of the environment or TOML) to the value.
        doc: one line for help texts and printed configurations.
        is_path: whether it names a path. A relative one means something where a command is typed,
            so arguments and the environment may hold it; in a file it would be another path for
            every program that reads the file, and is refused.
        repr: whether the value may be shown.
    """
    variables = (env,) if isinstance(env, str) else env
    metadata = {"env": variables, "parse": parse, "doc": doc, "is_path": is_path}
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, repr=repr, metadata=metadata)
    return dataclasses.field(default=default, repr=repr, metadata=metadata)


def with_attributes(config: type[ConfigT]) -> type[ConfigT]:
    """Add the fields of a configuration, and the variables that set them, to its docstring."""
    lines = []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # it is a dataclass
        variables = " or ".join(field.metadata["env"])
        told = f"{field.name}: {field.metadata['doc']}" + (f" ({variables})" if variables else "")
        lines += textwrap.wrap(
            told, 100, initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False
        )
    attributes = "\n".join(("Attributes:", *lines))
    text, raises, errors = (config.__doc__ or "").partition("Raises:")
    config.__doc__ = f"{text.rstrip()}\n\n    {attributes}\n\n    {raises}{errors}".rstrip() + "\n"
    return config


def parse_flag(text: str) -> bool:
    """Read a yes or no from text.

    Raises:
        ConfigError: the text is neither.
    """
    lowered = text.strip().lower()
    if lowered in _TRUE or lowered in _FALSE:
        return lowered in _TRUE
    raise ConfigError(f"not a yes or no: {text!r}", hint="write true or false")


def absolute_path(path: str | os.PathLike[str]) -> Path:
    """Tie a path to where it was given: programs and daemons change their working directory.

    Raises:
        ConfigError: it begins with `~` and there is no such user.
    """
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as err:
        raise ConfigError(f"{os.fspath(path)!r}: {err}", hint="write the whole path") from err


def load_toml(environ: Mapping[str, str] | None = None) -> tuple[dict[str, Any], str]:
    """Read the user's configuration file.

    Returns:
        The parsed document (empty when there is no file) and the path for messages.

    Raises:
        ConfigError: the file named by `DATAPLANE_CONFIG` is missing, or a file is not valid TOML.
    """
    environ = os.environ if environ is None else environ
    named = environ.get("DATAPLANE_CONFIG")
    path = Path(named) if named else Path("~/.config/dataplane/config.toml").expanduser()
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream), str(path)
    except FileNotFoundError as err:
        if named:
            raise ConfigError(f"DATAPLANE_CONFIG names a missing file: {path}") from err
        return {}, str(path)
    except OSError as err:
        if named:
            raise ConfigError(f"cannot read the configuration file {path}: {err.strerror}") from err
        return {}, str(path)
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"{path} is not valid TOML: {err}") from err


def assemble(
    cls: type[ConfigT],
    section: str,
    arguments: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Resolved[ConfigT]:
    """Merge defaults, the TOML table `section`, the environment and `arguments` into a `cls`.

    An argument whose value is None counts as not given.

    Raises:
        ConfigError: an unknown name, a value of the wrong kind, or one that `cls` rejects.
    """
    environ = os.environ if environ is None else environ
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls)) if field.init}
    values: dict[str, object] = {}
    origins = dict.fromkeys(fields, "default")
    document, path = load_toml(environ)
    _refuse_unknown_tables(document, path, {*SECTIONS, section})
    table = document.get(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [{section}] must be a table")
    for name, value in table.items():
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            guess = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(
                f"{path}: unknown setting {section}.{name}",
                hint=f"{guess}Known settings: {', '.join(sorted(fields))}",
            )
        where = f"{path}: {section}.{name}"
        if fields[name].metadata.get("is_path"):
            _refuse_relative(value, where)
        values[name] = _parsed(fields[name], value, where)
        origins[name] = path
    for name, field in fields.items():
        given = [it for it in field.metadata.get("env", ()) if environ.get(it, "") != ""]
        if given:
            values[name] = _parsed(field, environ[given[0]], given[0])
            origins[name] = given[0]
    for name, value in (arguments or {}).items():
        if name not in fields:
            raise ConfigError(f"unknown setting {section}.{name}")
        if value is not None:
            values[name] = value
            origins[name] = "argument"
    return Resolved(cls(**values), origins)


def _refuse_unknown_tables(document: Mapping[str, Any], path: str, known: set[str]) -> None:
    """Refuse tables that are not read: a typing error must not pass as a default."""
    for name, value in document.items():
        if name in known:
            continue
        what = f"[{name}]" if isinstance(value, dict) else f"{name!r} outside of a table"
        close = difflib.get_close_matches(name, known, n=1)
        guess = f"did you mean [{close[0]}]? " if close else ""
        tables = ", ".join(f"[{one}]" for one in sorted(known))
        raise ConfigError(f"{path}: nothing reads {what}", hint=f"{guess}Its tables are {tables}")


def _refuse_relative(value: object, where: str) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{where} must be text that holds a path, got {value!r}")
    if not value.startswith(("/", "~")):
        raise ConfigError(
            f"{where} must be an absolute path, got {value!r}",
            hint="a file is read from any working directory: begin with / or ~",
        )


def _parsed(field: dataclasses.Field[Any], value: object, where: str) -> object:
    parse = field.metadata.get("parse")
    if parse is None or not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ConfigError as err:
        raise ConfigError(f"{where}: {err.message}", hint=err.hint) from err
    except ValueError as err:
        raise ConfigError(f"{where}: {err}") from err
