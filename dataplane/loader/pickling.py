"""Pickling of what crosses between a loader and its worker processes.

Python's pickle with three additions:

- The values of large arrays and tensors are left out of the pickled bytes, to be written to shared
  memory by the caller, in one copy whatever their layout. Dense layouts (Fortran order, channels
  last) stay; others arrive in C order. Two tensors on one storage arrive as two tensors.
- What pickle refuses because the other process cannot import it (lambdas, closures, classes of
  `__main__`) goes by value, as cloudpickle does.
- A class that went by value once is named the next time. That is faster, and an object that
  returns is of the class that it was of: by value, cloudpickle would write the class anew, with
  functions that see copies of the globals of its module.

Whoever unpickles trusts the other side, which is this user's own process.

Not thread-safe: a `Dialect` belongs to one connection.
"""

from __future__ import annotations

import functools
import io
import pickle
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dataplane.extras import missing_package

try:
    from cloudpickle import cloudpickle
except ModuleNotFoundError as err:
    raise missing_package("running a transform in worker processes", "cloudpickle") from err

__all__ = ["OUT_OF_BAND_BYTES", "Dialect", "Pickled"]

OUT_OF_BAND_BYTES = 16 << 10
"""Arrays from here on are left out of the pickled bytes: below, a page of their own costs more."""
_PROTOCOL = 5
_CLASS_MAKERS = ("_make_skeleton_class", "_make_skeleton_enum")
_WHOLE_NUMBERS = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}
"""What stands for the elements of a tensor while it is an array, by their size: NumPy lacks some
of torch's types."""

_Array: TypeAlias = npt.NDArray[Any]


class Pickled:
    """Pickled object: its bytes, and the arrays that are to be sent beside them, in order."""

    __slots__ = ("arrays", "body", "classes")

    def __init__(self, body: memoryview, arrays: list[_Array], classes: dict[str, type]) -> None:
        self.body = body
        self.arrays = arrays
        self.classes = classes


class Dialect:
    """What the two ends of a connection know of each other."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        # What the other side may name, for as long as there is one: also classes that it knows from
        # code that was pickled for it elsewhere.
        self._kept: list[object] = list(cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS)

    def dumps(self, content: object) -> Pickled:
        """Pickle an object.

        Raises:
            Exception: whatever pickling it raises.
        """
        file = io.BytesIO()
        pickler = _Pickler(file, self._known)
        pickler.dump(content)
        return Pickled(file.getbuffer(), pickler.beside.arrays, pickler.classes)

    def dumps_alone(self, content: object) -> bytes:
        """Pickle an object with all its arrays in the pickled bytes.

        Raises:
            Exception: whatever pickling it raises.
        """
        file = io.BytesIO()
        _Pickler(file, self._known, out_of_band_bytes=sys.maxsize).dump(content)
        return file.getvalue()

    def loads(self, body: bytes | memoryview, arrays: Iterable[_Array] = ()) -> Any:
        """Unpickle an object.

        Args:
            body: pickled bytes.
            arrays: bytes of the arrays that were sent beside them, in order.

        Raises:
            Exception: whatever unpickling it raises.
        """
        return _Unpickler(io.BytesIO(body), self._learn, arrays).load()

    def arrived(self, pickled: Pickled) -> None:
        """Note that the other side has unpickled something: it knows the classes in it."""
        self._known.update(pickled.classes)
        self._kept.extend(pickled.classes.values())

    def _learn(self, name: str, made: type) -> None:
        self._known.add(name)
        self._kept.append(made)


class _Beside:
    """Arrays that are left out of the pickled bytes, in the order of their places there.

    Args:
        least_bytes: size from which arrays are left out.
    """

    def __init__(self, least_bytes: int) -> None:
        self.least_bytes = least_bytes
        self.arrays: list[_Array] = []
        # By the address of the stand-in that pickle leaves out for them.
        self._known: dict[int, tuple[pickle.PickleBuffer, _Array]] = {}

    def stand_in(self, array: _Array) -> pickle.PickleBuffer:
        """Return what is to be pickled instead of an array."""
        stand_in = pickle.PickleBuffer(bytearray())
        self._known[id(stand_in)] = (stand_in, array)
        return stand_in

    def keep_in_band(self, buffer: pickle.PickleBuffer) -> bool:
        """Take the array of a stand-in, or a large buffer of others; pickle asks for each."""
        _, array = self._known.get(id(buffer), (None, None))
        if array is None:
            memory = memoryview(buffer)
            if memory.nbytes < self.least_bytes or not memory.contiguous:
                return True
            array = np.frombuffer(buffer.raw(), np.uint8)
        self.arrays.append(array)
        return False


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickler of one object.

    Nothing that it refers to refers to it, so what it has seen is let go with it: a collector would
    come later, and memory could not be used again until then.
    """

    def __init__(
        self, file: io.BytesIO, known: set[str], *, out_of_band_bytes: int = OUT_OF_BAND_BYTES
    ) -> None:
        self.beside = _Beside(out_of_band_bytes)
        super().__init__(file, protocol=_PROTOCOL, buffer_callback=self.beside.keep_in_band)
        self.classes: dict[str, type] = {}
        self._known = known

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is np.ndarray:
            return self._reduce_array(obj)
        if isinstance(obj, type):
            return self._reduce_class(obj)
        tensor = getattr(sys.modules.get("torch"), "Tensor", None)
        if tensor is not None and isinstance(obj, tensor):
            return _reduce_tensor(obj)
        return super().reducer_override(obj)

    def _reduce_array(self, array: _Array) -> Any:
        if array.nbytes < self.beside.least_bytes or array.dtype.hasobject:
            # One that is read-only would be so at the other side.
            return (
                NotImplemented
                if array.flags.writeable
                else array.copy("K").__reduce_ex__(_PROTOCOL)
            )
        axes = None
        if not array.flags.c_contiguous:
            by_stride = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
            dense = array.transpose(by_stride)
            if dense.flags.c_contiguous:
                axes, array = tuple(by_stride), dense
        return _load_array, (self.beside.stand_in(array), array.dtype, array.shape, axes)

    def _reduce_class(self, kind: type) -> Any:
        try:
            name = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(kind)
        except TypeError:  # its metaclass forbids hashing
            name = None
        if name is not None and name in self._known:
            return _class_of, (name,)
        reduced = super().reducer_override(kind)
        if isinstance(reduced, tuple) and getattr(reduced[0], "__name__", "") in _CLASS_MAKERS:
            self.classes[reduced[1][-2]] = kind
        return reduced


class _Unpickler(pickle.Unpickler):
    """Unpickler of one object; in no circle either."""

    def __init__(
        self, file: io.BytesIO, learn: Callable[[str, type], None], arrays: Iterable[_Array]
    ) -> None:
        super().__init__(file, buffers=arrays)
        self._learn = learn

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if name in _CLASS_MAKERS and module.startswith("cloudpickle"):
            return functools.partial(_make_class, found, self._learn)
        return found


def _make_class(
    make: Callable[..., type], learn: Callable[[str, type], None], *arguments: Any
) -> type:
    made = make(*arguments)
    learn(arguments[-2], made)
    return made


def _class_of(name: str) -> type:
    made = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(name)
    if made is None:
        raise pickle.UnpicklingError("the class of an object is not there any more")
    found: type = made
    return found


def _load_array(
    memory: _Array, dtype: np.dtype[Any], shape: tuple[int, ...], axes: tuple[int, ...] | None
) -> _Array:
    array: _Array = np.ndarray(shape, dtype, buffer=memory)
    if axes is None:
        return array
    back = sorted(range(len(axes)), key=axes.__getitem__)
    return array.transpose(back)


def _reduce_tensor(tensor: Any) -> Any:
    """Say how to make a tensor from an array; leave unusual kinds to torch."""
    torch = sys.modules["torch"]
    device = tensor.device.type
    if device not in {"cpu", "meta"}:
        raise TypeError(
            f"a tensor on {tensor.device} cannot go to or come from a worker process: "
            "move it to the CPU first, with tensor.cpu()"
        )
    if tensor.requires_grad and not tensor.is_leaf:
        raise TypeError(
            "a tensor that is no leaf and requires grad cannot go to or come from a worker "
            "process, which its graph does not cross: send tensor.detach()"
        )
    kind = type(tensor)
    is_parameter = kind is torch.nn.Parameter
    if (
        not (is_parameter or kind is torch.Tensor)
        or device != "cpu"
        or tensor.layout is not torch.strided
        or tensor.is_quantized
        or tensor.is_nested
    ):
        return NotImplemented
    plain = tensor.detach().resolve_conj().resolve_neg()
    number = _WHOLE_NUMBERS.get(plain.element_size())
    array = (plain if number is None else plain.view(getattr(torch, number))).numpy()
    dtype = str(tensor.dtype).removeprefix("torch.")
    attributes = tensor.__dict__ or None
    return _load_tensor, (array, dtype, is_parameter, tensor.requires_grad, attributes)


def _load_tensor(
    array: _Array,
    dtype: str,
    is_parameter: bool,
    requires_grad: bool,
    attributes: dict[str, Any] | None,
) -> Any:
    import torch

    tensor = torch.from_numpy(array).view(getattr(torch, dtype))
    if is_parameter:
        tensor = torch.nn.Parameter(tensor, requires_grad)
    elif requires_grad:
        tensor.requires_grad_(True)
    if attributes:
        tensor.__dict__.update(attributes)
    return tensor
