"""A garbage collector under every lock: run as a program, it says which finalizer takes a lock.

Whenever dataplane takes a lock, this collects garbage, as the interpreter may do at any allocation
while the lock is held. A lock that is taken meanwhile, in the same thread, is taken by a finalizer:
sooner or later one does so while its own thread holds that very lock, and the process hangs without
a word. It need not come to that here: each case is printed with its stack, and the exit code is 1.

    python -m tests.locking.collector [--seconds S] [--every N] [SCENARIO ...]
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import gc
import random
import sys
import threading
import time
import traceback

from tests.locking import tracked

_FRAMES = 14


class Collector:
    """Collects garbage under locks. An observer of tracked locks.

    Args:
        every: how many locks are taken between two collections, on average.
        seed: of the choice.
    """

    def __init__(self, every: int, seed: int) -> None:
        self._every = every
        self._random = random.Random(seed)
        self._local = threading.local()
        self.collections: collections.Counter[str] = collections.Counter()
        self.found: dict[str, str] = {}

    def before(self, lock: tracked.Tracked, *, blocking: bool) -> None:
        if getattr(self._local, "collecting", False) and blocking:
            stack = traceback.extract_stack(limit=_FRAMES)[:-2]
            self.found.setdefault(lock.name, "".join(traceback.format_list(stack)))
            if lock.holder == threading.get_ident():
                raise RuntimeError("here the process would hang")  # a finalizer's errors are shown

    def acquired(self, lock: tracked.Tracked) -> None:
        lock.holder = threading.get_ident()
        if getattr(self._local, "collecting", False) or self._random.randrange(self._every):
            return
        self._local.collecting = True
        try:
            gc.collect()
        finally:
            self._local.collecting = False
        self.collections[lock.name] += 1

    def released(self, lock: tracked.Tracked) -> None:
        lock.holder = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each scenario")
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("scenarios", nargs="*")
    options = parser.parse_args()
    faulthandler.dump_traceback_later(60 + 20 * options.seconds, exit=True)
    collector = Collector(options.every, options.seed)
    tracked.install(collector)
    from tests.locking import scenarios

    sys.setswitchinterval(1e-6)
    gc.disable()  # only here, so that the stack says under which lock
    chosen = options.scenarios or list(scenarios.ALL)
    with scenarios.Place() as place:
        for name in chosen:
            scenarios.abandon(name, place)
        # What was imported is not garbage: without it a collection takes a millisecond.
        gc.collect()
        gc.freeze()
        for name in chosen:
            until_s = time.monotonic() + options.seconds
            rounds = 0
            while rounds == 0 or time.monotonic() < until_s:
                scenarios.abandon(name, place)
                rounds += 1
            print(f"{name}: {rounds} rounds", flush=True)
    under = ", ".join(sorted(collector.collections))
    print(f"{collector.collections.total()} collections, under {under}")
    for lock, stack in sorted(collector.found.items()):
        print(f"\na finalizer takes {lock}:\n{stack}")
    return 1 if collector.found else 0


if __name__ == "__main__":
    sys.exit(main())
