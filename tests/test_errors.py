"""The error classes keep what handlers, logs and scripts rely on."""

from __future__ import annotations

import errno
import importlib
import pickle
import pkgutil
import re
from pathlib import Path

import pytest

import dataplane
import dataplane.errors
from dataplane.errors import (
    BucketNotFound,
    ConfigError,
    DataplaneError,
    Denied,
    MissingPackage,
    NotFound,
    StoreError,
    Timeout,
    Unavailable,
)

_CLASSES = [getattr(dataplane.errors, name) for name in dataplane.errors.__all__]
_DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "errors.md"
_ROW = re.compile(r"\| `(?P<name>\w+)` \| `(?P<kind>\w+)` \| (?P<exit>\d+) \| (?P<again>yes|no) \|")


def _documented() -> dict[str, re.Match[str]]:
    return {match["name"]: match for match in _ROW.finditer(_DOCUMENT.read_text())}


@pytest.mark.parametrize("cls", _CLASSES)
@pytest.mark.parametrize("hint", [None, "do this"])
def test_errors_pickle_whole(cls: type[DataplaneError], hint: str | None) -> None:
    err = cls("what failed", hint=hint)
    copy = pickle.loads(pickle.dumps(err))
    assert type(copy) is cls
    assert (copy.message, copy.hint, str(copy)) == (err.message, err.hint, str(err))


def test_the_message_ends_with_the_hint() -> None:
    assert str(StoreError("it broke", hint="mend it")) == "it broke (mend it)"
    assert str(StoreError("it broke")) == "it broke"


def test_kinds_are_unique() -> None:
    kinds = [cls.kind for cls in _CLASSES]
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize("cls", _CLASSES)
def test_every_class_has_a_exit_code(cls: type[DataplaneError]) -> None:
    assert 1 <= cls.exit_code <= 7
    assert issubclass(cls, DataplaneError)
    assert cls.__doc__


@pytest.mark.parametrize(
    ("cls", "builtin", "number"),
    [
        (ConfigError, ValueError, None),
        (MissingPackage, ImportError, None),
        (NotFound, FileNotFoundError, errno.ENOENT),
        (BucketNotFound, FileNotFoundError, errno.ENOENT),
        (Denied, PermissionError, errno.EACCES),
        (Timeout, TimeoutError, errno.ETIMEDOUT),
    ],
)
def test_code_for_pythons_own_errors_catches_ours(
    cls: type[DataplaneError], builtin: type[Exception], number: int | None
) -> None:
    for hint in (None, "do this"):
        with pytest.raises(builtin) as caught:
            raise cls("what failed", hint=hint)
        copy = pickle.loads(pickle.dumps(caught.value))
        assert isinstance(copy, cls)
        assert (
            str(copy) == str(caught.value) == ("what failed (do this)" if hint else "what failed")
        )
        assert getattr(copy, "errno", None) == number


def test_every_public_error_of_the_module_is_exported() -> None:
    defined = {
        name
        for name, value in vars(dataplane.errors).items()
        if isinstance(value, type) and issubclass(value, DataplaneError)
    }
    assert defined == set(dataplane.errors.__all__)


def test_a_failure_of_the_store_itself_is_a_store_error_to_try_again() -> None:
    assert Unavailable.exit_code == StoreError.exit_code
    assert Unavailable.retryable
    assert not StoreError.retryable


def test_no_error_that_users_see_is_defined_elsewhere() -> None:
    for module in pkgutil.walk_packages(dataplane.__path__, "dataplane."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    everywhere, waiting = set(), [DataplaneError]
    while waiting:
        cls = waiting.pop()
        everywhere.add(cls)
        waiting += cls.__subclasses__()
    ours = {cls for cls in everywhere if cls.__module__.startswith("dataplane.")}
    assert ours == set(_CLASSES)


def test_not_found_is_caught_as_a_store_error() -> None:
    with pytest.raises(StoreError, match="no object"):
        raise NotFound("no object s3://bucket/key")


def test_the_document_lists_exactly_the_classes() -> None:
    assert set(_documented()) == set(dataplane.errors.__all__)


@pytest.mark.parametrize("cls", _CLASSES)
def test_the_document_says_what_the_code_does(cls: type[DataplaneError]) -> None:
    row = _documented()[cls.__name__]
    assert row["kind"] == cls.kind
    assert int(row["exit"]) == cls.exit_code
    assert row["again"] == ("yes" if cls.retryable else "no")


def test_the_document_explains_every_exit_code() -> None:
    text = _DOCUMENT.read_text()
    explained = {int(code) for code in re.findall(r"^\| (\d+) \| ", text, re.MULTILINE)}
    assert {cls.exit_code for cls in _CLASSES} | {0, 130} == explained
