"""What copies of the user's code would share is found in what the code is made of."""

from __future__ import annotations

from typing import Any, Protocol

import pytest
import torch

from dataplane.loader.shared_state import find_shared_state


class SetsOfItsType:
    def __call__(self, sample: Any) -> None:
        type(self).latest = sample


class SetsOfItsClass:
    def __call__(self, sample: Any) -> None:
        self.__class__.latest = sample


class SetsByName:
    def __call__(self, sample: Any) -> None:
        SetsByName.latest = sample


class Counts:
    count = 0

    def __call__(self, _: Any) -> None:
        type(self).count += 1


class SetsInAClassMethod:
    @classmethod
    def keep(cls, sample: Any) -> None:
        cls.latest = sample

    def __call__(self, sample: Any) -> None:
        self.keep(sample)


class SetsInAClassMethodOfAnyWord:
    @classmethod
    def keep(klass, sample: Any) -> None:
        klass.latest = sample

    def __call__(self, sample: Any) -> None:
        self.keep(sample)


class SetsByAnotherName:
    def __call__(self, sample: Any) -> None:
        kind = type(self)
        kind.latest = sample


class Numbered:
    count = 0

    def __init__(self) -> None:
        Numbered.count += 1


class MakesNumberedOnes:
    def __call__(self, _: Any) -> Any:
        return Numbered()


class SetsByFunction:
    def __call__(self, sample: Any) -> None:
        setattr(type(self), "latest", sample)  # noqa: B010


def keeps_on_itself(sample: Any) -> None:
    keeps_on_itself.latest = sample  # type: ignore[attr-defined]


def calls_one_that_keeps(sample: Any) -> None:
    keeps_on_itself(sample)


def made_inside() -> Any:
    class Inner:
        latest: Any

    def keep(sample: Any) -> None:
        Inner.latest = sample

    return keep


class SetsInAComprehension:
    def __call__(self, samples: Any) -> Any:
        def one(sample: Any) -> None:
            type(self).latest = sample

        return [one(sample) for sample in samples]


def long_function() -> Any:
    """With so many names that those at its end take two instructions."""
    names = "; ".join(f"sample.n{number}" for number in range(300))
    scope: dict[str, Any] = {"SetsOfItsType": SetsOfItsType, "__name__": __name__}
    exec(f"def keep(sample): {names}; SetsOfItsType.late = sample", scope)
    return scope["keep"]


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (SetsOfItsType, "its class.latest"),
        (SetsOfItsClass, "its class.latest"),
        (SetsByName, "SetsByName.latest"),
        (Counts, "its class.count"),
        (SetsInAClassMethod, "its class.latest"),
        (SetsInAClassMethodOfAnyWord, "its class.latest"),
        (SetsByAnotherName, "its class.latest"),
        (MakesNumberedOnes, "Numbered.count"),
        (long_function(), "SetsOfItsType.late"),
        (SetsByFunction, "an attribute of its class"),
        (keeps_on_itself, "keeps_on_itself.latest"),
        (calls_one_that_keeps, "keeps_on_itself.latest"),
        (made_inside(), "Inner.latest"),
        (SetsInAComprehension, "its class.latest"),
    ],
)
def test_what_is_set_on_a_class_or_function_is_found_before_it_is_there(
    code: Any, named: str
) -> None:
    found = find_shared_state([code])
    assert found is not None
    assert named in found


class OfItsOwn:
    """Sets nothing but its own attributes, though it names its class while it does."""

    registry_size: int

    def __init_subclass__(cls) -> None:
        cls.registry_size = 1

    def __init__(self) -> None:
        self.count = 0
        self.inner: Any = None

    def __call__(self, sample: Any) -> Any:
        self.count += 1
        self.name = type(self).__name__
        self.inner = type(self)()
        setattr(self, "kind", type(sample))  # noqa: B010
        sample.seen = True
        return sample


class SetsManyOfItsOwn(torch.nn.Module):
    def __init__(self, **given: Any) -> None:
        super().__init__()
        for name, value in given.items():
            setattr(self, name, torch.as_tensor(value))

    def change(self, **given: Any) -> None:
        for name, value in given.items():
            setattr(self, name, torch.nn.Linear(value, value))
            setattr(self, f"{name}_kind", OfItsOwn)


class Says(Protocol):
    def __call__(self, sample: Any) -> Any: ...


class IsAsItSays(Says):
    def __call__(self, sample: Any) -> Any:
        return sample


class ConfiguredByTheScript:
    @classmethod
    def configure(cls, size: int) -> None:
        cls.size = size

    def __call__(self, sample: Any) -> Any:
        return sample


class HasAVariableOfThatName:
    def __call__(self, sample: Any) -> Any:
        cls = sample["cls"]
        cls.requires_grad = False
        return cls


@pytest.mark.parametrize(
    "code",
    [
        OfItsOwn,
        SetsManyOfItsOwn,
        IsAsItSays,
        Numbered,
        ConfiguredByTheScript,
        HasAVariableOfThatName,
    ],
)
def test_what_an_object_sets_of_its_own_is_not_shared(code: Any) -> None:
    assert find_shared_state([code]) is None
