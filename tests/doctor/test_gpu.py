"""Checks of the GPU: the driver, what DALI and torch are built for, nvCOMP, Triton.

No GPU is needed: the driver's library is a small one made by the test, which answers as NVIDIA's
does, so that the program which asks it is run for real.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from dataplane.child_process import Output, output_of
from dataplane.cli.checks import gpu
from dataplane.cli.checks.nvml import Driver, Gpu, ask_driver, gpus_on_bus

H200 = Gpu("NVIDIA H200", 150 << 30)
_NVML = """
#include <string.h>
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned n) { strncpy(text, "580.65.06", n); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *number) { *number = CUDA; return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  *device = (void *)(unsigned long)(index + 1);
  return index < 1 || !LOST ? 0 : 15;
}
int nvmlDeviceGetName(void *device, char *text, unsigned n) {
  strncpy(text, device == (void *)1 ? "NVIDIA H200" : "NVIDIA L4", n);
  return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *memory) {
  memory[0] = (unsigned long)device << 34;
  memory[1] = memory[2] = 0;
  return 0;
}
"""
AskDriver = Callable[..., Driver]


def driver(*gpus: Gpu, cuda: tuple[int, int] = (13, 0)) -> Driver:
    """A driver that works."""
    return Driver(
        has_library=True,
        has_cuda_library=True,
        version="580.65.06",
        cuda=cuda,
        gpus=gpus or (H200,),
    )


NO_GPU = Driver()


def has(**versions: str) -> Callable[[str], str | None]:
    return lambda package: versions.get(package.replace("-", "_"))


@pytest.fixture
def ask_fake(tmp_path: Path) -> AskDriver:
    """Return a function that asks a driver's library made here."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to make a driver's library with")

    def ask(*, init: int = 0, cuda: int = 13_000, lost: int = 0, libcuda: bool = True) -> Driver:
        source = tmp_path / "nvml.c"
        source.write_text(_NVML)
        flags = [f"-DINIT={init}", f"-DCUDA={cuda}", f"-DLOST={lost}", "-shared", "-fPIC"]
        subprocess.run(
            [compiler, *flags, str(source), "-o", str(tmp_path / "libnvidia-ml.so.1")], check=True
        )
        if libcuda:
            (tmp_path / "empty.c").write_text("int cuda;\n")
            subprocess.run(
                [compiler, "-shared", "-fPIC", str(tmp_path / "empty.c"),
                 "-o", str(tmp_path / "libcuda.so.1")],
                check=True,
            )  # fmt: skip
        environ = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
        return ask_driver(lambda command, limit_s: output_of(command, limit_s, environ=environ))

    return ask


def test_the_driver_is_asked_for_versions_names_and_memory(ask_fake: AskDriver) -> None:
    assert ask_fake() == Driver(
        has_library=True,
        has_cuda_library=True,
        version="580.65.06",
        cuda=(13, 0),
        gpus=(Gpu("NVIDIA H200", 1 << 34), Gpu("NVIDIA L4", 2 << 34)),
    )


def test_a_gpu_that_is_lost_is_still_counted(ask_fake: AskDriver) -> None:
    assert ask_fake(lost=1, cuda=12_040).gpus == (Gpu("NVIDIA H200", 1 << 34), Gpu("?", 0))
    assert ask_fake(cuda=12_040).cuda == (12, 4)


def test_a_driver_that_does_not_start_says_why(ask_fake: AskDriver) -> None:
    said = ask_fake(init=18, libcuda=False)
    assert (said.has_library, said.has_cuda_library, said.error) == (True, False, 18)
    assert not said.has_gpu


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (None, Driver(is_late=True)),
        (Output(-11, "", "Segmentation fault"), Driver(has_library=True, error=-11)),
        (Output(0, "no JSON", ""), Driver(has_library=True, error=-1)),
        (Output(0, "{}", ""), Driver(has_library=True, error=-1)),
    ],
)
def test_a_driver_that_hangs_or_crashes_costs_a_child_process(
    output: Output | None, expected: Driver
) -> None:
    assert ask_driver(lambda command, limit_s: output) == expected


def test_this_machine_is_asked_without_an_error() -> None:
    said = ask_driver()
    assert not said.is_late
    found = gpu.driver(said, on_bus=gpus_on_bus(), visible=None)
    assert found.status in {"ok", "warn", "skip"}, found


@pytest.mark.gpu
def test_a_real_gpu_is_named_with_its_driver() -> None:
    said = ask_driver()
    if not said.has_gpu:
        pytest.skip("no NVIDIA GPU answers on this machine")
    found = gpu.driver(said, on_bus=gpus_on_bus(), visible=None)
    assert found.status == "ok", found
    assert said.version
    assert said.version in found.found
    assert said.gpus[0].memory_bytes > 1 << 30


def test_gpus_are_found_on_the_bus(tmp_path: Path) -> None:
    devices = {
        "0000:00:01.0": ("0x10de", "0x030000"),
        "0000:00:02.0": ("0x10de", "0x030200"),
        "0000:00:03.0": ("0x10de", "0x040300"),  # the sound of a GPU
        "0000:00:04.0": ("0x8086", "0x030000"),
    }
    for name, (vendor, kind) in devices.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    (tmp_path / "0000:00:05.0").mkdir()
    assert gpus_on_bus(tmp_path) == 2
    assert gpus_on_bus(tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("said", "on_bus", "status", "words"),
    [
        (NO_GPU, 0, "skip", "no NVIDIA GPU"),
        (NO_GPU, 1, "warn", "no driver for it in reach"),
        (Driver(has_library=True, error=9), 0, "skip", "no NVIDIA GPU"),
        (Driver(has_library=True, error=9), 1, "warn", "no driver for it"),
        (Driver(has_library=True, error=18), 1, "fail", "different versions"),
        (Driver(has_library=True, error=15), 1, "fail", "code 15"),
        (Driver(is_late=True), 1, "fail", "does not answer"),
        (Driver(has_library=True, has_cuda_library=True, cuda=(13, 0)), 1, "warn", "shows no GPU"),
        (Driver(has_library=True, gpus=(H200,), cuda=(13, 0)), 1, "fail", "libcuda.so.1"),
        (driver(H200, H200), 2, "ok", "2 × NVIDIA H200 (150 GiB); driver 580.65.06, CUDA 13.0"),
        (driver(H200, Gpu("L4", 1 << 34)), 2, "ok", "NVIDIA H200 (150 GiB), L4 (16 GiB)"),
    ],
)
def test_the_driver_is_judged(said: Driver, on_bus: int, status: str, words: str) -> None:
    found = gpu.driver(said, on_bus=on_bus, visible=None, has_device=False)
    assert found.status == status
    assert words in found.found
    assert found.advice or status in {"ok", "skip"}


@pytest.mark.parametrize(("visible", "status"), [("", "warn"), ("-1", "warn"), ("0", "ok")])
def test_gpus_that_are_hidden_are_a_warning(visible: str, status: str) -> None:
    assert gpu.driver(driver(), on_bus=1, visible=visible).status == status


@pytest.mark.parametrize(
    ("said", "installed", "status", "words", "advice"),
    [
        (NO_GPU, {}, "skip", "not installed", ""),
        (driver(), {}, "warn", "not installed", "dali-cuda13"),
        (driver(cuda=(12, 4)), {}, "warn", "not installed", "dali-cuda12"),
        (driver(cuda=(11, 8)), {}, "warn", "not installed", "update NVIDIA's driver"),
        (NO_GPU, {"nvidia_dali_cuda130": "2.4.0"}, "ok", "on the CPU", ""),
        (driver(), {"nvidia_dali_cuda130": "2.4.0"}, "ok", "for CUDA 13, on a driver", ""),
        (driver(), {"nvidia_dali_cuda120": "1.50"}, "ok", "for CUDA 12, on a driver", ""),
        (
            *(driver(cuda=(12, 4)), {"nvidia_dali_cuda130": "2.4.0"}, "fail"),
            *("is for CUDA 13, and the driver 580.65.06 runs CUDA 12", "dali-cuda12"),
        ),
        (
            *(driver(), {"nvidia_dali_cuda120": "1.5", "nvidia_dali_cuda130": "2.4"}, "fail"),
            *("overwrite each other", "pip install nvidia-dali-cuda130"),
        ),
        (
            *(driver(cuda=(12, 4)), {"nvidia_dali_cuda120": "1.5", "nvidia_dali_cuda130": "2.4"}),
            *("fail", "overwrite each other", "pip install nvidia-dali-cuda120"),
        ),
    ],
)
def test_dali_must_be_for_a_cuda_that_the_driver_runs(
    said: Driver, installed: dict[str, str], status: str, words: str, advice: str
) -> None:
    found = gpu.dali(said, has(**installed))
    assert found.status == status
    assert words in found.found
    assert advice in found.advice


def requires(**needs: list[str]) -> Callable[[str], Iterable[str] | None]:
    return lambda package: needs.get(package.replace("-", "_"))


DALI_NEEDS = {"nvidia_dali_cuda130": ["numpy", "nvidia-libnvcomp-cu13==5.3.0.16"]}


def test_packages_that_agree_on_nvcomp_are_named() -> None:
    found = gpu.nvcomp(requires(**DALI_NEEDS), has(nvidia_libnvcomp_cu13="5.3.0.16"))
    assert found.status == "ok"
    assert found.found == "nvidia-libnvcomp-cu13 5.3.0.16, as nvidia-dali-cuda130 wants"


def test_another_nvcomp_than_dalis_is_a_clash_that_says_what_to_remove() -> None:
    needs = DALI_NEEDS | {"nvidia_nvcomp_cu13": ["nvidia-libnvcomp-cu13==6.0.0.12"]}
    found = gpu.nvcomp(requires(**needs), has(nvidia_libnvcomp_cu13="6.0.0.12"))
    assert found.status == "fail"
    assert "nvidia-dali-cuda130 needs nvidia-libnvcomp-cu13==5.3.0.16, and 6.0.0.12" in found.found
    assert "pip uninstall nvidia-nvcomp-cu13;" in found.advice


def test_an_nvcomp_that_is_missing_is_named() -> None:
    found = gpu.nvcomp(requires(**DALI_NEEDS), has())
    assert found.status == "fail"
    assert "which is not installed" in found.found
    assert gpu.nvcomp(requires(), has()).status == "skip"
    optional = ['nvidia-libnvcomp-cu13<6; extra == "all"']
    assert gpu.nvcomp(requires(nvidia_dali_cuda130=optional), has()).status == "skip"


def test_the_nvcomp_of_this_environment_is_the_one_that_dali_wants() -> None:
    found = gpu.nvcomp()
    assert found.status in {"ok", "skip"}, found


def test_dali_is_imported_by_a_child_that_sees_no_gpu() -> None:
    asked: list[dict[str, str]] = []

    def ask(command: list[str], limit_s: float, *, environ: dict[str, str]) -> Output:
        asked.append(environ)
        return Output(0, "some noise\ndali 2.4.0\n", "")

    found = gpu.dali_import(has(nvidia_dali_cuda130="2.4.0"), ask, {"A": "b"})
    assert (found.status, found.values) == ("ok", {"version": "2.4.0"})
    assert asked == [{"A": "b", "CUDA_VISIBLE_DEVICES": ""}]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (None, "did not end within"),
        (Output(1, "", "Traceback\nImportError: libnvcomp.so.5: no such file"), "libnvcomp.so.5"),
        (Output(-11, "", ""), "it ended with -11"),
    ],
)
def test_a_dali_that_cannot_be_imported_says_why(output: Output | None, words: str) -> None:
    found = gpu.dali_import(has(nvidia_dali_cuda130="2"), lambda *_, **__: output, {})
    assert found.status == "fail"
    assert words in found.found


def test_the_dali_of_this_environment_is_really_imported() -> None:
    before = set(sys.modules)  # where other tests may have imported it
    found = gpu.dali_import()
    assert found.status in {"ok", "skip"}, found
    assert not {name for name in set(sys.modules) - before if name.startswith("nvidia")}


@pytest.mark.parametrize(
    ("said", "line", "status", "words"),
    [
        (NO_GPU, "cuda: Optional[str] = None", "skip", ""),
        (driver(), "cuda: Optional[str] = None", "warn", "without CUDA"),
        (driver(), "cuda: Optional[str] = '13.0'", "ok", "CUDA 13.0"),
        (driver(cuda=(12, 4)), "cuda = '12.6'", "ok", "CUDA 12.6"),
        (driver(cuda=(12, 4)), "cuda: Optional[str] = '13.0'", "fail", "runs CUDA 12"),
    ],
)
def test_torch_must_be_built_for_a_cuda_that_the_driver_runs(
    said: Driver, line: str, status: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\ndebug = False\n{line}\n")
    found = gpu.torch_build(said, tmp_path / "version.py")
    assert found.status == status
    assert words in found.found


def test_torchs_build_is_found_without_importing_it(tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text("cuda = '13.0'\n")
    assert gpu.torch_build(driver(), find=lambda _: str(tmp_path)).status == "ok"
    assert gpu.torch_build(driver(), find=lambda _: None).status == "skip"
    assert gpu.torch_build(driver(), tmp_path / "none.py").status == "warn"


def test_triton_needs_a_compiler_and_a_folder_that_may_hold_programs(tmp_path: Path) -> None:
    environ = {"TRITON_CACHE_DIR": str(tmp_path / "not" / "yet")}
    there = has(triton="3.9")
    gcc: Callable[[str], str | None] = lambda name: "/bin/gcc" if name == "gcc" else None  # noqa: E731
    assert gpu.triton(driver(), environ, has(), gcc).status == "skip"
    assert gpu.triton(NO_GPU, environ, there, gcc).status == "skip"
    fine = gpu.triton(driver(), environ, there, gcc)
    assert (fine.status, "/bin/gcc" in fine.found) == ("ok", True)
    assert gpu.triton(driver(), environ | {"CC": "clang"}, there, lambda _: None).status == "ok"
    bare = gpu.triton(driver(), environ, there, lambda _: None)
    assert (bare.status, "no C compiler" in bare.found) == ("fail", True)
    locked = gpu.triton(driver(), environ, there, gcc, lambda _: os.ST_NOEXEC)
    assert (locked.status, "noexec" in locked.found) == ("fail", True)
