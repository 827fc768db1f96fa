"""What the NVIDIA driver says of itself and its GPUs, without a CUDA context.

NVML, the driver's management library, is asked through ctypes in a child process: no context is
made on any GPU, nothing stays loaded here, and a driver that hangs costs a deadline. Whether the
CUDA library can be loaded is tried there as well; it is not initialised. Where there is no NVML,
the buses and devices of the system say whether there is a GPU all the same.

Source: NVIDIA NVML API reference, nvmlReturn_t and the functions named below.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dataplane.child_process import Output, output_of

__all__ = ["Driver", "Gpu", "ask_driver", "gpus_on_bus"]

NOT_LOADED = 9
VERSIONS_DIFFER = 18
_TIMEOUT_S = 20.0
_NVIDIA = "0x10de"
_DISPLAY_CLASS = "0x03"
_PROGRAM = """
import ctypes, json
said = {"library": False, "cuda_library": False, "error": 0, "gpus": []}
try:
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    said["library"] = True
except OSError:
    nvml = None
try:
    ctypes.CDLL("libcuda.so.1")
    said["cuda_library"] = True
except OSError:
    pass
class Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]
if nvml is not None:
    said["error"] = nvml.nvmlInit_v2()
if nvml is not None and said["error"] == 0:
    text, number = ctypes.create_string_buffer(96), ctypes.c_uint()
    if nvml.nvmlSystemGetDriverVersion(text, 96) == 0:
        said["driver"] = text.value.decode(errors="replace")
    if nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(number)) == 0:
        said["cuda"] = number.value
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(number))
    for index in range(number.value):
        device, memory = ctypes.c_void_p(), Memory()
        if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) != 0:
            said["gpus"].append({"name": "?", "memory_bytes": 0})
            continue
        nvml.nvmlDeviceGetName(device, text, 96)
        nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
        name = text.value.decode(errors="replace")
        said["gpus"].append({"name": name, "memory_bytes": memory.total})
    nvml.nvmlShutdown()
print(json.dumps(said))
"""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        name: name of the product.
        memory_bytes: size of its memory.
    """

    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Driver:
    """Answer of the driver.

    Attributes:
        has_library: whether NVML is there.
        has_cuda_library: whether the CUDA library of the driver is there.
        error: nvmlReturn_t of its initialisation; 0 is success.
        version: version of the driver, or empty.
        cuda: newest CUDA version that it runs, as (13, 0), or None.
        gpus: GPUs that it shows.
        is_late: whether it did not answer in time.
    """

    has_library: bool = False
    has_cuda_library: bool = False
    error: int = 0
    version: str = ""
    cuda: tuple[int, int] | None = None
    gpus: tuple[Gpu, ...] = ()
    is_late: bool = False

    @property
    def has_gpu(self) -> bool:
        """Whether there is a GPU that answers."""
        return self.has_library and self.error == 0 and bool(self.gpus)


def ask_driver(
    ask: Callable[[list[str], float], Output | None] = output_of,
) -> Driver:
    """Ask the driver of this machine.

    Args:
        ask: function that runs a command within a time.
    """
    output = ask([sys.executable, "-I", "-S", "-c", _PROGRAM], _TIMEOUT_S)
    if output is None:
        return Driver(is_late=True)
    try:
        said = json.loads(output.text)
        cuda = said.get("cuda")
        gpus = tuple(Gpu(str(it["name"]), int(it["memory_bytes"])) for it in said["gpus"])
        return Driver(
            has_library=bool(said["library"]),
            has_cuda_library=bool(said["cuda_library"]),
            error=int(said["error"]),
            version=str(said.get("driver", "")),
            # Source: CUDA encodes a version as 1000 * major + 10 * minor.
            cuda=(cuda // 1000, cuda % 1000 // 10) if cuda else None,
            gpus=gpus,
        )
    except (ValueError, KeyError, TypeError):
        # The library ended the child, or wrote what is no answer: it is there, and does not work.
        return Driver(has_library=True, error=output.code or -1)


def gpus_on_bus(devices: Path = Path("/sys/bus/pci/devices")) -> int:
    """Count the NVIDIA GPUs that the PCI bus shows, with or without a driver."""
    try:
        found = list(devices.iterdir())
    except OSError:
        return 0
    return sum(
        _text(device / "vendor") == _NVIDIA and _text(device / "class").startswith(_DISPLAY_CLASS)
        for device in found
    )


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
