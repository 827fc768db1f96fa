"""A worker process calls a function for this one; neither its life nor its end leaves a trace."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from dataplane.errors import LoaderError
from dataplane.loader.worker_process import WorkerProcess
from tests.loader.inside import being_waited_for, connection_of, segments_made
from tests.loader.workers import descriptors, has_ended, is_gone, run, script, wait_until, worker_of


@pytest.fixture(scope="module")
def echo() -> Iterator[WorkerProcess]:
    with worker_of(lambda argument: argument) as worker:
        yield worker


def test_a_lambda_and_a_closure_are_called(echo: WorkerProcess) -> None:
    factor = 3
    with worker_of(lambda number: number * factor) as worker:
        assert [worker.call(number) for number in range(4)] == [0, 3, 6, 9]
        assert worker.pid != os.getpid()
    assert echo.call({"a": [1, (2, None)], "b": "text"}) == {"a": [1, (2, None)], "b": "text"}


def test_the_function_keeps_its_state_from_call_to_call() -> None:
    def counting() -> Any:
        count = 0

        def call(step: int) -> int:
            nonlocal count
            count += step
            return count

        return call

    with worker_of(counting()) as worker:
        assert [worker.call(2) for _ in range(3)] == [2, 4, 6]


def test_a_program_without_a_guard_sends_its_own_classes_and_gets_them_back(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
from dataclasses import dataclass
from enum import Enum

print("started", flush=True)
offset = 10

class Kind(Enum):
    WARM = 1

@dataclass
class Sample:
    value: int
    kind: Kind = Kind.WARM
    made = 0

    def shifted(self):
        return self.value + offset

class Refused(Exception):
    pass

def transform(sample):
    assert type(sample) is Sample or sample is None
    if sample is None:
        raise Refused("nothing", 1)
    print("worker sees", sample.value)
    return [Sample(sample.value + 1, sample.kind), {"given": sample}]

before = dict(vars(Sample))
Sample.made = 5
with WorkerProcess(cloudpickle.dumps(transform), name="w") as worker:
    for value in range(3):
        made, given = worker.call(Sample(value))
        assert type(made) is Sample and type(given["given"]) is Sample
        assert made.kind is Kind.WARM
    offset = 100
    assert made.shifted() == 103, made.shifted()
    assert Sample.made == 5
    assert Sample.shifted is before["shifted"]
    try:
        worker.call(None)
    except Refused as err:
        assert err.args == ("nothing", 1)
""",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n") == ["started", *(f"worker sees {n}" for n in range(3)), ""]


def test_a_class_that_is_made_while_the_program_runs_crosses_again_and_again(
    echo: WorkerProcess,
) -> None:
    for _ in range(3):

        class Local:
            def __init__(self, value: int) -> None:
                self.value = value

        for value in range(3):
            back = echo.call(Local(value))
            assert type(back) is Local
            assert back.value == value


def test_a_class_that_only_the_code_refers_to_comes_back() -> None:
    def code() -> bytes:
        class Local:
            pass

        return cloudpickle.dumps(lambda _: Local())

    with WorkerProcess(code(), name="w") as worker:
        gc.collect()
        first, second = worker.call(0), worker.call(0)
        assert type(first) is type(second)
        assert type(first).__name__ == "Local"


def test_modules_are_found_where_this_process_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here_now.py").write_text("def shout(text):\n    return text.upper()\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here_now  # type: ignore[import-not-found]

    with worker_of(only_here_now.shout) as worker:
        assert worker.call("a") == "A"


def test_a_module_that_the_worker_cannot_import_is_the_error_of_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone_soon.py").write_text("def shout(text):\n    return text.upper()\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        import gone_soon  # type: ignore[import-not-found]

        code = cloudpickle.dumps(gone_soon.shout)
    with WorkerProcess(code, name="w") as worker:
        for _ in range(2):
            with pytest.raises(ModuleNotFoundError, match="gone_soon"):
                worker.call("a")


def test_code_that_is_none_is_the_error_of_the_first_call() -> None:
    with WorkerProcess(b"no pickle", name="w") as worker, pytest.raises(pickle.UnpicklingError):
        worker.call(1)


def test_options_environment_and_output_are_inherited(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
import warnings

def look(_):
    print("out of the worker")
    print("also an error", file=sys.stderr)
    return sys.warnoptions, hash("text"), os.environ["SEEN"], sys.argv, os.environ.get("PYTHONPATH")

with WorkerProcess(cloudpickle.dumps(look), name="w") as worker:
    assert worker.call(0) == look(0)
""",
        env={**os.environ, "PYTHONHASHSEED": "7", "SEEN": "yes"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out of the worker\n" * 2
    assert done.stderr == "also an error\n" * 2


def test_torch_uses_one_thread_in_a_worker() -> None:
    def threads(_: object) -> int:
        import torch

        return torch.get_num_threads()

    with worker_of(threads) as worker:
        worker.call(0)  # imports it
        assert worker.call(0) == 1


class TestErrors:
    def test_an_error_comes_back_as_it_is_with_the_workers_traceback(self) -> None:
        def fail(_: object) -> None:
            error = ValueError("odd", 3)
            error.add_note("a note")
            raise error from OSError("behind it")

        with worker_of(fail) as worker:
            for _ in range(2):
                with pytest.raises(ValueError, match="odd") as caught:
                    worker.call(0)
                assert type(caught.value) is ValueError
                assert caught.value.args == ("odd", 3)
                first, last = caught.value.__notes__
                assert first == "a note"
                assert f"pid {worker.pid}" in last
                assert "in fail" in last
                assert "OSError: behind it" in last
                assert "worker_main" not in last

    def test_the_text_of_a_key_error_is_readable(self) -> None:
        with worker_of(lambda key: {}[key]) as worker, pytest.raises(KeyError) as caught:
            worker.call("pressure")
        assert str(caught.value) == "'pressure'"
        assert "\nKeyError: 'pressure'" in caught.value.__notes__[-1]

    def test_errors_of_dataplane_come_back_with_hint_and_notes(self) -> None:
        def fail(_: object) -> None:
            error = LoaderError("message", hint="hint")
            error.add_note("a note")
            raise error

        with worker_of(fail) as worker, pytest.raises(LoaderError) as caught:
            worker.call(0)
        assert (caught.value.message, caught.value.hint) == ("message", "hint")
        assert caught.value.__notes__[0] == "a note"

    @pytest.mark.parametrize("why", ["takes other arguments", "holds a lock", "has no text"])
    def test_an_error_that_cannot_be_pickled_is_described(self, why: str) -> None:
        def fail(_: object) -> None:
            class Odd(Exception):
                def __init__(self, one: int, two: int) -> None:
                    super().__init__(f"{one} and {two}")

            class Dumb(Exception):
                def __str__(self) -> str:
                    raise ValueError

            if why == "takes other arguments":
                raise Odd(1, 2)
            error: Exception = Dumb() if why == "has no text" else ValueError(threading.Lock())
            error.lock = threading.Lock()  # type: ignore[attr-defined]
            raise error

        expected = {
            "takes other arguments": r"Odd: 1 and 2",
            "holds a lock": r"^ValueError: <unlocked _thread.lock",
            "has no text": r"Dumb: <no text: ValueError>",
        }
        with worker_of(fail) as worker:
            with pytest.raises(RuntimeError, match=expected[why]) as caught:
                worker.call(0)
            assert "in fail" in caught.value.__notes__[-1]
            with pytest.raises(RuntimeError):
                worker.call(0)

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
    def test_what_would_end_this_process_is_an_error(self, kind: type[BaseException]) -> None:
        def end(argument: int) -> int:
            if argument:
                raise kind(3)
            return 7

        with worker_of(end) as worker:
            with pytest.raises(RuntimeError, match=f"{kind.__name__}: 3"):
                worker.call(1)
            assert worker.call(0) == 7

    def test_a_result_that_cannot_be_pickled_is_named(self) -> None:
        def make(argument: int) -> object:
            return (number for number in range(3)) if argument else 7

        with worker_of(make) as worker:
            with pytest.raises(TypeError, match="result of type generator cannot be sent"):
                worker.call(1)
            assert worker.call(0) == 7

    def test_an_argument_that_cannot_be_pickled_or_unpickled(self) -> None:
        class Fragile:
            def __reduce__(self) -> Any:
                return int, ("no number",)

        with worker_of(lambda argument: Fragile() if argument == 1 else argument) as worker:
            with pytest.raises(TypeError, match="generator"):
                worker.call(number for number in range(3))
            with pytest.raises(ValueError, match="no number"):
                worker.call(Fragile())
            with pytest.raises(ValueError, match="no number"):
                worker.call(1)
            assert worker.call(2) == 2


def _die(how: str) -> None:
    if how == "exit":
        os._exit(3)
    if how == "abort":
        os.abort()
    if how == "crash":
        import ctypes

        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


class TestDeath:
    @pytest.mark.parametrize(
        ("how", "reason"),
        [
            ("exit", r"exit code 3.*must return"),
            ("kill", r"killed .SIGKILL.*memory was short"),
            ("crash", r"signal .SIGSEGV.*PYTHONFAULTHANDLER"),
            ("abort", r"signal .SIGABRT"),
        ],
    )
    def test_a_worker_that_dies_in_a_call_is_an_error_of_it_and_of_later_calls(
        self, how: str, reason: str
    ) -> None:
        worker = worker_of(_die, name="pool-3")
        for _ in range(2):
            with pytest.raises(LoaderError, match=reason) as caught:
                worker.call(how)
            assert f"pool-3 (pid {worker.pid})" in str(caught.value)
        assert is_gone(worker.pid)
        worker.close()

    @pytest.mark.parametrize("called", [False, True])
    def test_a_worker_that_is_killed_before_a_call(self, called: bool) -> None:
        worker = worker_of(lambda argument: argument)
        if called:
            worker.call(1)
        os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: has_ended(worker.pid))
        for _ in range(2):
            with pytest.raises(LoaderError, match="SIGKILL"):
                worker.call(1)
        assert is_gone(worker.pid)

    def test_a_call_that_waits_notices_the_kill_of_its_worker(self, tmp_path: Path) -> None:
        begun = tmp_path / "begun"

        def stuck(_: object) -> None:
            begun.touch()
            time.sleep(600)

        worker = worker_of(stuck)

        def kill() -> None:
            wait_until(begun.exists)
            os.kill(worker.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(LoaderError, match="SIGKILL"):
            worker.call(0)
        killer.join()

    def test_a_child_of_the_worker_does_not_hide_its_death(self, tmp_path: Path) -> None:
        def leave_a_child(_: object) -> None:
            pid = os.fork()
            if pid == 0:
                time.sleep(600)
            (tmp_path / "pid").write_text(str(pid))
            os._exit(4)

        worker = worker_of(leave_a_child)
        with pytest.raises(LoaderError, match="exit code 4"):
            worker.call(0)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    def test_a_fork_that_returns_from_the_function_says_nothing(self) -> None:
        def fork(argument: int) -> tuple[int, bool]:
            pid = os.fork()
            if pid:
                os.waitpid(pid, 0)
            return argument, pid == 0

        with worker_of(fork) as worker:
            assert [worker.call(number) for number in range(3)] == [(n, False) for n in range(3)]

    @staticmethod
    def _call_for_ever(worker: WorkerProcess, values: Any) -> None:
        while True:
            assert np.array_equal(worker.call(values), values + 1)

    def test_kills_at_random_moments_are_errors_and_leave_nothing(self) -> None:
        chance = random.Random(3)
        values = np.arange(1 << 20)
        # What is made once for a process.
        worker_of(lambda array: array).close()
        before = descriptors()
        for _ in range(25):
            worker = worker_of(lambda array: array + 1)
            moment_s = chance.uniform(0, 0.3)
            killer = threading.Timer(moment_s, os.kill, (worker.pid, signal.SIGKILL))
            killer.start()
            with pytest.raises(LoaderError, match="SIGKILL"):
                self._call_for_ever(worker, values)
            killer.join()
            assert is_gone(worker.pid)
        assert descriptors() == before


class TestClosing:
    def test_closing_is_idempotent_and_final(self) -> None:
        worker = worker_of(lambda argument: argument)
        array = worker.call(np.arange(100_000))
        worker.close()
        worker.close()
        assert is_gone(worker.pid)
        with pytest.raises(LoaderError, match="is closed"):
            worker.call(1)
        assert array[-1] == 99_999  # a result outlives its worker
        array[:] = 0

    def test_exit_functions_of_an_idle_worker_are_called(self, tmp_path: Path) -> None:
        def register(_: object) -> None:
            import atexit

            atexit.register((tmp_path / "ended").touch)

        with worker_of(register) as worker:
            worker.call(0)
        assert (tmp_path / "ended").exists()

    def test_a_worker_that_does_not_want_to_end_is_killed(self) -> None:
        def register(_: object) -> None:
            import atexit

            atexit.register(time.sleep, 600)

        with worker_of(register) as worker:
            worker.call(0)
        assert is_gone(worker.pid)

    def test_closing_in_another_thread_ends_a_call(self, tmp_path: Path) -> None:
        begun = tmp_path / "begun"

        def stuck(_: object) -> None:
            begun.touch()
            while True:
                pass

        worker = worker_of(stuck)

        def close() -> None:
            wait_until(begun.exists)
            with pytest.raises(LoaderError, match="one call at a time"):
                worker.call(1)
            worker.close()

        closer = threading.Thread(target=close)
        closer.start()
        with pytest.raises(LoaderError, match="closed during a call"):
            worker.call(0)
        closer.join()
        assert is_gone(worker.pid)

    def test_many_threads_may_close_at_once(self) -> None:
        before = descriptors()
        for _ in range(5):
            worker = worker_of(lambda argument: argument)

            def call(worker: WorkerProcess = worker) -> None:
                with contextlib.suppress(LoaderError):
                    while True:
                        worker.call(np.zeros(10_000))

            threads = [threading.Thread(target=call)]
            threads += [threading.Thread(target=worker.close) for _ in range(4)]
            threads[0].start()
            worker_is_up = worker.pid
            for thread in threads[1:]:
                thread.start()
            for thread in threads:
                thread.join()
            assert is_gone(worker_is_up)
        assert descriptors() == before

    def test_ctrl_c_ends_a_call_and_its_worker(self, tmp_path: Path) -> None:
        begun = tmp_path / "begun"

        def stuck(_: object) -> None:
            begun.touch()
            time.sleep(600)

        worker = worker_of(stuck)

        def interrupt() -> None:
            wait_until(begun.exists)
            os.kill(worker.pid, signal.SIGINT)  # a terminal sends it to both
            os.kill(os.getpid(), signal.SIGINT)

        other = threading.Thread(target=interrupt)
        other.start()
        with pytest.raises(KeyboardInterrupt):
            worker.call(0)
        other.join()
        assert is_gone(worker.pid)
        with pytest.raises(LoaderError, match="closed"):
            worker.call(0)

    def test_a_worker_does_not_mind_ctrl_c_at_any_moment(self, capfd: Any) -> None:
        for _ in range(3):
            with worker_of(lambda argument: argument) as worker:
                ended = threading.Event()

                def interrupt(pid: int = worker.pid, ended: threading.Event = ended) -> None:
                    while not ended.is_set():
                        os.kill(pid, signal.SIGINT)

                other = threading.Thread(target=interrupt)
                other.start()
                try:
                    for number in range(100):
                        assert worker.call(number) == number
                finally:
                    ended.set()
                    other.join()
        assert capfd.readouterr() == ("", "")

    def test_a_worker_that_is_forgotten_ends_silently(self, capfd: Any) -> None:
        worker = worker_of(lambda argument: argument)
        worker.call(1)
        idle, starting = worker.pid, worker_of(lambda argument: argument).pid
        del worker
        gc.collect()
        wait_until(lambda: is_gone(idle) and is_gone(starting))
        assert capfd.readouterr() == ("", "")

    def test_a_worker_outlives_the_thread_that_made_it(self) -> None:
        workers: list[WorkerProcess] = []
        thread = threading.Thread(target=lambda: workers.append(worker_of(lambda x: x + 1)))
        thread.start()
        thread.join()
        (worker,) = workers
        with worker:
            for number in range(100):
                assert worker.call(number) == number + 1

    def test_a_program_that_ends_with_open_workers_ends_silently(self, tmp_path: Path) -> None:
        done = run(
            tmp_path,
            """
import numpy as np
workers = [WorkerProcess(cloudpickle.dumps(lambda x: x), name=f"w{n}") for n in range(3)]
kept = workers[0].call(np.arange(100_000))
stuck = WorkerProcess(cloudpickle.dumps(lambda path: (open(path, "w"), time.sleep(600))), name="s")
marker = sys.argv[0] + ".begun"
threading.Thread(target=stuck.call, args=(marker,), daemon=True).start()
while not os.path.exists(marker):
    time.sleep(0.01)
print(*(worker.pid for worker in [*workers, stuck]))
""",
        )
        assert (done.returncode, done.stderr) == (0, "")
        pids = [int(pid) for pid in done.stdout.split()]
        assert len(pids) == 4
        assert all(map(is_gone, pids))

    def test_ctrl_c_in_the_terminal_ends_a_program_and_its_workers(self, tmp_path: Path) -> None:
        text = """
code = cloudpickle.dumps(lambda _: time.sleep(600))
workers = [WorkerProcess(code, name=f"w{n}") for n in range(2)]
print(*(worker.pid for worker in workers), flush=True)
workers[0].call(0)
"""
        with subprocess.Popen(
            script(tmp_path, text),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as program:
            assert program.stdout is not None
            pids = [int(pid) for pid in program.stdout.readline().split()]
            os.killpg(program.pid, signal.SIGINT)
            _, said = program.communicate(timeout=60)
        assert program.returncode != 0
        assert said.count("Traceback") == said.count("KeyboardInterrupt") == 1, said
        assert all(map(is_gone, pids))

    @pytest.mark.parametrize("phase", ["starting", "idle", "sleeping", "looping", "exiting"])
    def test_a_worker_ends_with_a_program_that_is_killed(self, tmp_path: Path, phase: str) -> None:
        text = f"""
phase = {phase!r}
def function(_):
    print("called", flush=True)
    while phase == "looping":
        pass
    if phase == "sleeping":
        time.sleep(600)
    if phase == "exiting":
        import atexit
        atexit.register(lambda: (print("exiting", flush=True), time.sleep(600)))
worker = WorkerProcess(cloudpickle.dumps(function), name="w")
print(worker.pid, flush=True)
if phase != "starting":
    worker.call(0)
if phase == "exiting":
    worker.close()
time.sleep(600)
"""
        lines = {"starting": 1, "exiting": 3}.get(phase, 2)
        with subprocess.Popen(script(tmp_path, text), stdout=subprocess.PIPE, text=True) as program:
            assert program.stdout is not None
            said = [program.stdout.readline() for _ in range(lines)]
            program.kill()
        wait_until(lambda: has_ended(int(said[0])))


class TestForks:
    def test_a_fork_cannot_use_the_workers_of_its_parent_and_does_not_end_them(self) -> None:
        with worker_of(lambda argument: argument) as worker:
            worker.call(1)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    worker.close()
                    with pytest.raises(LoaderError, match=f"that of process {os.getppid()}"):
                        worker.call(1)
                    with worker_of(lambda argument: argument + 1) as own:
                        assert own.call(1) == 2
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert worker.call(2) == 2

    def test_a_program_whose_forks_end_in_the_ordinary_way(self, tmp_path: Path) -> None:
        done = run(
            tmp_path,
            """
worker = WorkerProcess(cloudpickle.dumps(lambda x: x), name="w")
worker.call(1)
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert worker.call(2) == 2
    print(worker.pid)
""",
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert is_gone(int(done.stdout))

    def test_a_fork_does_not_keep_a_worker_alive(self) -> None:
        worker = worker_of(lambda argument: argument)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        worker.call(1)
        worker.close()
        assert is_gone(worker.pid)
        os.close(writing)
        os.close(reading)
        os.waitpid(child, 0)


def test_a_process_that_is_gone_is_not_usable_while_somebody_waits_for_it() -> None:
    with worker_of(str) as worker:
        assert worker.is_usable
        os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: has_ended(worker.pid))
        with being_waited_for(worker):
            assert not worker.is_usable
        assert not worker.is_usable


def test_nothing_is_left_of_many_calls_and_many_processes(echo: WorkerProcess) -> None:
    large, chance = np.arange(200_000), random.Random(1)

    def held() -> tuple[int, int]:
        return descriptors(), descriptors(echo.pid)

    for _ in range(20):
        echo.call(large)
    before = held()
    for number in range(1000):
        assert len(echo.call(large[: chance.randrange(len(large))])) < len(large)
        assert echo.call(number) == number
    assert held() == before
    # The memory of an argument comes back with the answer to it.
    assert segments_made(connection_of(echo)) <= 2
    threads, pids = threading.active_count(), []
    for number in range(50):
        worker = worker_of(lambda argument: argument)
        if number % 2:
            worker.call(large)
        pids.append(worker.pid)
        if number % 3:
            worker.close()
        del worker
    gc.collect()
    wait_until(lambda: all(map(is_gone, pids)))
    assert held() == before
    assert threading.active_count() == threads


def test_shared_memory_has_no_name_that_could_be_left(echo: WorkerProcess) -> None:
    def named(pid: object) -> set[str]:
        maps = Path(f"/proc/{pid}/maps").read_text()
        return {line for line in maps.splitlines() if "/dev/shm/" in line}

    before = named("self")  # semaphores of other tests, perhaps
    kept = echo.call(np.arange(200_000))
    for pid in ("self", echo.pid):
        assert "/memfd:dataplane-message (deleted)" in Path(f"/proc/{pid}/maps").read_text()
    assert named("self") <= before
    assert named(echo.pid) == set()
    assert kept[-1] == 199_999


def test_an_interpreter_that_cannot_be_started_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = descriptors()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(
        LoaderError, match=r"worker process test-worker cannot be started.*no-python"
    ):
        worker_of(lambda argument: argument)
    assert descriptors() == before
