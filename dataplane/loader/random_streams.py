"""Random number streams of the user's code: torch, NumPy and `random`, a function of the sample.

What a transform draws must not depend on which worker runs it, nor move what the training loop
draws. `seed` gives all three generators a state that is a function of numbers (seed, epoch,
sample), in one of two ways:

- `ProcessStreams`: the process's own generators, put back afterwards. For code in the training
  thread, and in a worker process.
- `ThreadStreams`: generators of this thread. The module functions of `random` and `numpy.random`
  and torch's default generator belong to the whole process, so draws of a worker thread are led to
  its own: those of `random` and `numpy.random` by stand-ins for the two modules' hidden instances,
  put in place when the first worker thread starts, which pass every other thread on to what was
  there; those of torch by a function mode (`torch_draws.py`). Both draw what `ProcessStreams`
  would.

Out of reach in a thread: a name bound earlier to a function of C (`from random import random`,
`from numpy.random import rand`), generators of a GPU, and generators of the user's own, which are
copied with his code; threads that his code starts; `torch.jit` functions. torch functions and
operators that take no generator are refused in a thread with what to do, apart from `dropout`,
which is drawn here.

A `ThreadStreams` belongs to its thread.
"""

from __future__ import annotations

import functools
import hashlib
import random
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
import torch.random

from dataplane.loader.torch_draws import ThreadDraws

__all__ = [
    "ProcessStreams",
    "Streams",
    "StreamsHere",
    "ThreadStreams",
    "hidden_generator",
    "mix",
    "name_of_hidden",
]

_NUMPY_S_OWN: Any = vars(np.random.mtrand)["_rand"]
"""NumPy's hidden instance, which this module's stand-in passes the process's draws on to."""


def mix(*numbers: int) -> int:
    """Return a seed of 63 bits that depends on all of some numbers, each of at most 64 bits."""
    words = struct.pack(f"<{len(numbers)}Q", *(number & (2**64 - 1) for number in numbers))
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little") >> 1


def name_of_hidden(value: object) -> str | None:
    """Return which module's hidden generator something is, or None.

    A function that was bound by name (`from numpy.random import rand`) is a method of one.
    """
    if value is vars(random)["_inst"]:
        return "random"
    if value is _NUMPY_S_OWN or value is vars(np.random.mtrand)["_rand"]:
        return "numpy"
    return None


def hidden_generator(name: str) -> object:
    """Return the hidden generator of a module in this process, by `name_of_hidden`."""
    return vars(random)["_inst"] if name == "random" else vars(np.random.mtrand)["_rand"]


class Streams(Protocol):
    """The three generators that the user's code draws from."""

    def seed(self, value: int) -> None:
        """Give all three the state that follows from `value`, of 63 bits."""
        ...

    def active(self) -> Any:
        """Return a context in which draws come from here."""
        ...


def set_bit_generator(bits: Any) -> None:
    """Have the process's hidden generator of NumPy draw its bits from another generator."""
    vars(np.random)["set_bit_generator"](bits)


class ProcessStreams:
    """The process's generators, put back at the end of `active`."""

    def seed(self, value: int) -> None:
        """Give all three the state that follows from `value`, of 63 bits."""
        torch.default_generator.manual_seed(value)
        if not isinstance(vars(np.random)["get_bit_generator"](), np.random.MT19937):
            set_bit_generator(np.random.MT19937())  # what a number can seed, and threads have
        np.random.seed(value & 0xFFFF_FFFF)
        random.seed(value)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Put the generators back afterwards as they were."""
        saved = torch.default_generator.get_state(), random.getstate()
        bits: Any = vars(np.random)["get_bit_generator"]()
        state = np.random.get_state(legacy=False)
        try:
            yield
        finally:
            torch.default_generator.set_state(saved[0])
            random.setstate(saved[1])
            if vars(np.random)["get_bit_generator"]() is not bits:
                set_bit_generator(bits)
            np.random.set_state(state)


class ThreadStreams:
    """Generators of one thread; each is seeded when it is first drawn from."""

    def __init__(self) -> None:
        _install()
        self._value = 0
        self._torch: torch.Generator | None = None
        self._numpy: np.random.RandomState | None = None
        self._python: random.Random | None = None

    def seed(self, value: int) -> None:
        """Give all three the state that follows from `value`, of 63 bits."""
        self._value = value
        self._torch = self._numpy = self._python = None

    @property
    def torch(self) -> torch.Generator:
        """torch's, as `torch.manual_seed` would seed the default one."""
        if self._torch is None:
            self._torch = torch.Generator()
            self._torch.manual_seed(self._value)
        return self._torch

    @property
    def numpy(self) -> np.random.RandomState:
        """NumPy's, as `numpy.random.seed` would seed the module's."""
        if self._numpy is None:
            self._numpy = np.random.RandomState(self._value & 0xFFFF_FFFF)
        return self._numpy

    def set_numpy(self, generator: np.random.RandomState) -> None:
        """Draw NumPy's numbers from another generator, until the next `seed`."""
        self._numpy = generator

    @property
    def python(self) -> random.Random:
        """Python's, as `random.seed` would seed the module's."""
        if self._python is None:
            self._python = random.Random(self._value)
        return self._python

    @contextmanager
    def active(self) -> Iterator[None]:
        """Lead this thread's draws here."""
        before = _local.streams
        _local.streams = self
        try:
            with ThreadDraws(self):
                yield
        finally:
            _local.streams = before


class StreamsHere:
    """The process's generators in its main thread; in any other the thread's own.

    For code that runs wherever the iterator is asked for a batch: another thread that draws from
    the process's generators meanwhile must not see them moved and put back.
    """

    def __init__(self) -> None:
        self._of_process = ProcessStreams()
        self._of_thread: ThreadStreams | None = None

    def seed(self, value: int) -> None:
        """Give all three the state that follows from `value`, of 63 bits."""
        self._here().seed(value)

    def active(self) -> Any:
        """Return a context in which draws come from here."""
        return self._here().active()

    def _here(self) -> Streams:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and _local.streams is None:
            return self._of_process
        if self._of_thread is None:
            self._of_thread = ThreadStreams()
        return self._of_thread


class _Local(threading.local):
    streams: ThreadStreams | None = None


_local = _Local()
_install_lock = threading.Lock()
_PLACE = "_dataplane_generator"
"""Name in `torch.random` under which its functions find the thread's generator."""


def _install() -> None:
    """Put the stand-ins in place of what `random`, `numpy.random` and torch draw from. Once."""
    with _install_lock:
        if not hasattr(torch.random, _PLACE):
            _stand_in_for_random()
            _stand_in_for_numpy()
            _stand_in_for_torch()


def _led(original: Any, name: str, of_thread: Callable[[ThreadStreams], Any]) -> Any:
    """Return a method that calls that of this thread's generator, or of the original one."""

    def call(self: object, *args: Any, **kwargs: Any) -> Any:
        if type(self) is plain:  # a copy of a bound method, which has a copy of the generator
            return getattr(self, name)(*args, **kwargs)
        streams = _local.streams
        target = original if streams is None else of_thread(streams)
        return getattr(target, name)(*args, **kwargs)

    plain = type(original)
    call.__name__ = name
    return call


def _stand_in_for_random() -> None:
    """Make the module's functions those of an instance that passes each thread on to its own.

    Functions that were bound before are methods of the old instance; its class becomes one whose
    two sources of bits ask for the thread as well, so that those follow where they are Python.
    """
    instance: random.Random = vars(random)["_inst"]
    inner = random.Random()
    inner.setstate(instance.getstate())
    names = [
        name
        for name in dir(random.Random)
        if not name.startswith("_") and callable(getattr(random.Random, name))
    ]
    methods: dict[str, Any] = {
        name: _led(inner, name, lambda streams: streams.python) for name in names
    }
    methods["__reduce__"] = lambda _: inner.__reduce__()  # a copy is what it was a copy of
    methods["gauss_next"] = property(  # what a bound `gauss` keeps between two calls
        lambda _: _of_thread(inner).gauss_next,
        lambda _, value: setattr(_of_thread(inner), "gauss_next", value),
    )
    # It keeps its place in memory, and so whoever holds it; its own state is not used any more.
    instance.__class__ = type("Random", (random.Random,), methods)
    for name in names:
        bound = getattr(random, name, None)
        if getattr(bound, "__self__", None) is instance:
            setattr(random, name, getattr(instance, name))


def _of_thread(original: random.Random) -> Any:
    streams = _local.streams
    return original if streams is None else streams.python


def _stand_in_for_numpy() -> None:
    module: Any = np.random.mtrand
    instance = _NUMPY_S_OWN
    own = [name for name in dir(np.random.RandomState) if not name.startswith("__")]
    methods: dict[str, Any] = {}
    for name in own:
        if callable(getattr(np.random.RandomState, name)):
            methods[name] = _led(instance, name, lambda streams: streams.numpy)
        else:
            methods[name] = _led_attribute(instance, name)
    methods["__reduce__"] = lambda _: instance.__reduce__()
    stand_in = type("RandomState", (np.random.RandomState,), methods)(0)
    for holder in (module, np.random):
        for name in own:
            if getattr(getattr(holder, name, None), "__self__", None) is instance:
                setattr(holder, name, getattr(stand_in, name))
    module._rand = stand_in
    original = module.set_bit_generator

    @functools.wraps(original)
    def set_for_this_thread(bitgen: Any) -> None:
        streams = _local.streams
        if streams is None:
            np.random.RandomState.__init__(instance, bitgen)
        else:
            streams.set_numpy(np.random.RandomState(bitgen))

    for holder in (module, np.random):
        if hasattr(holder, "set_bit_generator"):
            vars(holder)["set_bit_generator"] = set_for_this_thread


def _led_attribute(original: Any, name: str) -> Any:
    def read(self: object) -> Any:
        del self
        streams = _local.streams
        return getattr(original if streams is None else streams.numpy, name)

    return property(read)


def _stand_in_for_torch() -> None:
    """Have `torch.manual_seed`, `initial_seed`, `get_rng_state` … speak to the thread's generator.

    The functions stay the same ones, whoever holds them; a name in their code becomes another. To
    seed in a thread seeds nothing of the process: not the generators of its GPUs either.
    """
    module: Any = torch.random
    setattr(module, _PLACE, _DefaultGenerator(module.default_generator))
    for function in vars(module).values():
        code = getattr(function, "__code__", None)
        if code is not None and "default_generator" in code.co_names:
            names = tuple(_PLACE if name == "default_generator" else name for name in code.co_names)
            function.__code__ = code.replace(co_names=names)
    original = getattr(module, "_manual_seed_impl", None)
    if original is not None:

        def seed_of_thread(seed: Any) -> Any:
            streams = _local.streams
            return original(seed) if streams is None else streams.torch.manual_seed(int(seed))

        module._manual_seed_impl = seed_of_thread


class _DefaultGenerator:
    """What torch's functions of the default generator speak to."""

    def __init__(self, original: torch.Generator) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        streams = _local.streams
        return getattr(self._original if streams is None else streams.torch, name)
