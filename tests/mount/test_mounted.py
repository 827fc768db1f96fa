"""Real mounts: programs open files in place, see the right bytes, and can write nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.mount.conftest import MakeMount, Mounted, checksums, mountinfo

pytestmark = pytest.mark.fuse


def test_every_object_has_the_checksum_of_its_source(source: Path, readonly: Mounted) -> None:
    for _ in ("cold", "warm"):
        listed = readonly.shell("find . -type f -print0 | xargs -0 sha256sum --zero")
        assert listed.status == 0, listed.errors
        found = {
            line[66:].removeprefix("./"): line[:64] for line in listed.output.split("\0") if line
        }
        expected = checksums(source)
        assert {name: found.get(name) for name in expected} == expected
        made_up = [name for name in found if name not in expected]
        assert all(name.startswith("dataset/car") for name in made_up)


def test_stat_through_the_mount(source: Path, readonly: Mounted) -> None:
    program = """
import os, sys
s = os.stat(sys.argv[1] + "/large.bin"); d = os.stat(sys.argv[1] + "/runs")
print(oct(s.st_mode), s.st_size, s.st_uid, s.st_gid, s.st_nlink)
print(s.st_blksize, int(s.st_mtime), s.st_blocks, oct(d.st_mode))
"""
    size, modified = 30_000_001, int((source / "large.bin").stat().st_mtime)
    assert readonly.python(program).split() == [
        "0o100444",
        str(size),
        str(os.getuid()),
        str(os.getgid()),
        "1",
        str(1 << 20),
        str(modified),
        str(-(-size // 512)),
        "0o40555",
    ]


def test_h5py_opens_files_in_place(source: Path, readonly: Mounted) -> None:
    program = """
import sys, h5py, numpy as np
name = "runs/case 1, Re=100/fields.h5"
with h5py.File(f"{sys.argv[1]}/{name}") as ours, h5py.File(f"{sys.argv[2]}/{name}") as theirs:
    for key in theirs:
        assert np.array_equal(ours[key][...], theirs[key][...])
    print(len(theirs))
"""
    assert readonly.python(program, source) == "2\n"


def test_pyvista_reads_meshes_in_place(simulation_files: Path, make_mount: MakeMount) -> None:
    pytest.importorskip("pyvista")
    mount = make_mount(simulation_files)
    assert mount.mount().status == 0
    program = """
import sys, numpy as np, pyvista
for name in ("can.vtu", "cth.vtr", "carotid.vtk"):
    ours, theirs = (pyvista.read(f"{folder}/{name}") for folder in sys.argv[1:3])
    assert ours.n_cells == theirs.n_cells > 0
    for key in theirs.array_names:
        assert ours[key].dtype == theirs[key].dtype
        assert ours[key].tobytes() == theirs[key].tobytes(), (name, key)
    print(name)
"""
    assert mount.python(program, simulation_files).split() == ["can.vtu", "cth.vtr", "carotid.vtk"]


def expected_samples() -> list[np.ndarray]:
    """The points of the packed samples, drawn as `conftest.source` draws them."""
    rng = np.random.default_rng(7)
    rng.bytes(30_000_001)
    for _ in range(20):
        rng.bytes(rng.integers(1, 300_000))
    rng.random((40, 30, 20), dtype=np.float32)
    rng.random((64, 64, 16))
    return [rng.random((20_000, 3), dtype=np.float32) for _ in range(5)]


@pytest.fixture
def expected_file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "expected.npz", *expected_samples())
    return tmp_path / "expected.npz"


def test_zarr_opens_samples_in_place(readonly: Mounted, expected_file: Path) -> None:
    program = """
import sys, numpy as np, zarr
expected = np.load(sys.argv[2])
for i in range(5):
    points = expected[f"arr_{i}"]
    folder = zarr.open_group(f"{sys.argv[1]}/dataset/car{i}", mode="r")
    with zarr.storage.ZipStore(f"{sys.argv[1]}/dataset/car{i}.zarr.zip", mode="r") as store:
        for group in (folder, zarr.open_group(store, mode="r")):
            assert np.array_equal(group["points"][...], points)
            assert np.array_equal(group["point_data/pressure"][...], points[:, 0] * 101_325)
            assert group.attrs["speed"] == i
print("equal")
"""
    assert readonly.python(program, expected_file) == "equal\n"


def test_tensorstore_opens_samples_in_place(readonly: Mounted, expected_file: Path) -> None:
    pytest.importorskip("tensorstore")
    program = """
import sys, numpy as np, tensorstore as ts
expected = np.load(sys.argv[2])
for i in range(5):
    folder = f"{sys.argv[1]}/dataset/car{i}"
    archive = {"driver": "file", "path": f"{folder}.zarr.zip"}
    stores = [
        {"driver": "file", "path": f"{folder}/points/"},
        {"driver": "zip", "base": archive, "path": "points/"},
    ]
    for store in stores:
        array = ts.open({"driver": "zarr3", "kvstore": store}, open=True, read=True).result()
        assert np.array_equal(array.read().result(), expected[f"arr_{i}"])
print("equal")
"""
    assert readonly.python(program, expected_file) == "equal\n"


@pytest.mark.parametrize(
    "attempt",
    [
        "open(f'{m}/large.bin', 'r+b')",
        "open(f'{m}/large.bin', 'ab')",
        "open(f'{m}/new', 'wb')",
        "os.open(f'{m}/empty', os.O_RDONLY | os.O_TRUNC)",
        "os.truncate(f'{m}/large.bin', 0)",
        "os.unlink(f'{m}/empty')",
        "os.mkdir(f'{m}/d')",
        "os.rmdir(f'{m}/runs')",
        "os.rename(f'{m}/empty', f'{m}/full')",
        "os.symlink('x', f'{m}/link')",
        "os.link(f'{m}/empty', f'{m}/hard')",
        "os.chmod(f'{m}/empty', 0o777)",
        "os.chown(f'{m}/empty', 0, 0)",
        "os.utime(f'{m}/empty')",
        "os.mkfifo(f'{m}/pipe')",
        "os.setxattr(f'{m}/empty', 'user.x', b'1')",
    ],
)
def test_nothing_can_be_written(readonly: Mounted, attempt: str) -> None:
    program = f"""
import os, sys
m = sys.argv[1]
try:
    {attempt}
except OSError as err:
    print(err.errno)
"""
    assert readonly.python(program) == f"{errno.EROFS}\n"


@pytest.fixture(scope="module")
def readonly(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """One mount for many small questions."""
    from tests.mount.conftest import why_no_fuse

    if reason := why_no_fuse():
        pytest.skip(f"this machine cannot mount: {reason}")
    home = tmp_path_factory.mktemp("readonly")
    (home / "point").mkdir()
    mount = Mounted(str(source), home / "point", home)
    done = mount.mount()
    assert done.status == 0, done.errors
    yield mount
    mount.clean()


def test_the_mount_is_read_only_without_setuid_and_devices(source: Path, readonly: Mounted) -> None:
    (line,) = mountinfo(readonly.point)
    before, _, after = line.partition(" - ")
    assert {"ro", "nosuid", "nodev"} <= set(before.split()[5].split(","))
    kind, shown, options = after.split()
    assert kind == "fuse.dataplane"
    assert shown == f"file://{source}"
    assert "default_permissions" in options


def test_extended_attributes_name_the_object(source: Path, readonly: Mounted) -> None:
    program = """
import os, sys
for name in sorted(os.listxattr(sys.argv[1] + "/empty")):
    print(name, os.getxattr(sys.argv[1] + "/empty", name).decode())
"""
    lines = readonly.python(program).splitlines()
    assert f"user.dataplane.url file://{source}/empty" in lines


def test_missing_names_and_odd_arguments(readonly: Mounted) -> None:
    assert "No such file" in readonly.shell("cat nope").errors
    assert "Is a directory" in readonly.shell("cat runs").errors
    assert "Not a directory" in readonly.shell("cat large.bin/x").errors
    assert "File name too long" in readonly.shell(f"cat {'x' * 300}").errors


def test_df_and_statvfs_answer(readonly: Mounted) -> None:
    assert readonly.python("import os, sys; print(os.statvfs(sys.argv[1]).f_namemax)") == "255\n"
    assert readonly.shell("df -a . >/dev/null").status == 0


def test_many_readers_at_once_see_the_right_bytes(source: Path, readonly: Mounted) -> None:
    program = """
import os, random, sys
from concurrent.futures import ThreadPoolExecutor
ours, theirs = (os.open(f"{folder}/large.bin", os.O_RDONLY) for folder in sys.argv[1:3])
size = os.fstat(ours).st_size
def check(seed):
    rng = random.Random(seed)
    for _ in range(100):
        start, count = rng.randrange(size), rng.randrange(1, 300_000)
        assert os.pread(ours, count, start) == os.pread(theirs, count, start), (start, count)
    return 1
with ThreadPoolExecutor(8) as pool:
    print(sum(pool.map(check, range(8))))
"""
    assert readonly.python(program, source) == "8\n"


MAP = """
import mmap, os, sys, numpy as np
with open(f"{sys.argv[1]}/field.npy", "rb") as file:
    private = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    assert bytes(private) == open(f"{sys.argv[2]}/field.npy", "rb").read()
try:
    shared = np.load(f"{sys.argv[1]}/field.npy", mmap_mode="r")
except OSError as err:
    print("refused", err.errno)
else:
    assert np.array_equal(shared, np.load(f"{sys.argv[2]}/field.npy"))
    print("mapped")
"""


def test_private_maps_work_and_shared_ones_work_or_are_refused(
    source: Path, readonly: Mounted
) -> None:
    assert readonly.python(MAP, source) in {"mapped\n", f"refused {errno.ENODEV}\n"}


def test_shared_maps_work_with_mmap(source: Path, make_mount: MakeMount) -> None:
    mount = make_mount(source, "--mmap")
    assert mount.mount().status == 0
    for _ in ("first open", "pages kept"):
        assert mount.python(MAP, source) == "mapped\n"


@pytest.mark.parametrize("options", [(), ("--mmap",)])
def test_an_object_replaced_under_an_open_file(
    tmp_path: Path, make_mount: MakeMount, options: tuple[str, ...]
) -> None:
    folder = tmp_path / "objects"
    folder.mkdir()
    old, new = os.urandom(12 << 20), os.urandom(12 << 20)
    (folder / "x").write_bytes(old)
    mount = make_mount(folder, *options)
    assert mount.mount().status == 0
    program = """
import os, sys
point, folder = sys.argv[1:3]
file = os.open(f"{point}/x", os.O_RDONLY)
first = os.pread(file, 4096, 0)
os.replace(f"{folder}/new", f"{folder}/x")
try:
    os.pread(file, 4096, 9 << 20)
except OSError as err:
    print(err.errno)
again = os.open(f"{point}/x", os.O_RDONLY)
new = open(f"{folder}/x", "rb").read()
print(os.pread(again, len(new), 0) == new, os.pread(file, 4096, 0) == first)
"""
    (folder / "new").write_bytes(new)
    lines = mount.python(program, folder).splitlines()
    # The kernel reports a failed page-cache read as EIO; direct I/O passes the errno on.
    assert lines[0] in {str(errno.ESTALE), str(errno.EIO)} if options else {str(errno.ESTALE)}
    assert lines[1] == "True True"


def test_twenty_thousand_entries_are_listed_with_attributes_in_one_pass(
    tmp_path: Path, make_mount: MakeMount
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(20_000):
        (folder / f"f{i:05}").touch()
    mount = make_mount(folder)
    assert mount.mount().status == 0
    program = """
import os, sys, time
for _ in range(2):
    started = time.perf_counter()
    total = sum(1 for entry in os.scandir(sys.argv[1]) if entry.stat().st_size == 0)
    print(total, time.perf_counter() - started)
"""
    lines = [line.split() for line in mount.python(program).splitlines()]
    assert [total for total, _ in lines] == ["20000", "20000"]
    # 0.4 s where this was written; one look-up per entry would be 20,000 requests and far more.
    assert all(float(seconds) < 10 for _, seconds in lines)
    mount.umount()
    assert "'mount_listings': 1" in mount.log.read_text()


def test_names_that_are_not_utf_8_are_shown_as_the_bytes_they_are(
    tmp_path: Path, make_mount: MakeMount
) -> None:
    folder = os.fsencode(tmp_path / "source")
    os.makedirs(folder + b"/d\xff/e")
    names = [b"caf\xe9.bin", "caf\u00e9.bin".encode(), b"d\xff/e/\xfe" + b"x" * 254]
    try:
        for name in names:
            with open(folder + b"/" + name, "wb") as file:
                file.write(name)
    except OSError as err:
        pytest.skip(f"this file system takes UTF-8 names alone: {err.strerror}")
    mount = make_mount(tmp_path / "source")
    done = mount.mount()
    assert done.status == 0, done.errors
    seen = mount.python(
        "import os, sys\n"
        "top = os.fsencode(sys.argv[1])\n"
        "for folder, _, files in os.walk(top):\n"
        "    for name in files:\n"
        "        path = os.path.join(folder, name)\n"
        "        assert open(path, 'rb').read() == path[len(top) + 1:], path\n"
        "        print(path[len(top) + 1:].hex())\n"
    )
    assert sorted(map(bytes.fromhex, seen.split())) == sorted(names)
    assert "hidden" not in mount.log.read_text()
