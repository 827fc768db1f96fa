"""`python -m tests.pack.corpus --minutes 30 --seed 1`: the corpus at length.

Prints a line of progress a minute and a report; files over which the law was broken are kept, with
the line that makes them again, under `--keep`. `--again FAMILY SEED NUMBER COPY` runs one of them.
"""

from __future__ import annotations

import argparse
import logging
import resource
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from tests.pack.corpus.runs import FAMILIES, Finding, Tally, run_case

_PROGRESS_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.pack.corpus", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--copies", type=int, default=12, help="damaged copies of each case")
    parser.add_argument("--families", nargs="+", default=[*FAMILIES], choices=[*FAMILIES])
    parser.add_argument("--keep", type=Path, default=Path("build/corpus"))
    parser.add_argument("--again", nargs=4, metavar=("FAMILY", "SEED", "NUMBER", "COPY"))
    options = parser.parse_args()
    logging.getLogger("dataplane").setLevel(logging.ERROR)  # notes about what is left out
    options.keep = options.keep.resolve()  # it becomes part of a URL
    if options.again:
        return _again(options.again, options.keep)
    tally = _run(options)
    _report(tally)
    return 1 if tally.findings else 0


def _run(options: argparse.Namespace) -> Tally:
    tally = Tally()
    stop = time.monotonic() + 60 * options.minutes
    progress = time.monotonic() + _PROGRESS_S
    number = options.first
    while time.monotonic() < stop:
        family = options.families[number % len(options.families)]
        folder = options.keep / "current"
        start = time.monotonic()
        for outcome in run_case(family, options.seed, number, options.copies, folder):
            tally.slowest_s = max(tally.slowest_s, time.monotonic() - start)
            _count(tally, family, outcome, folder, options.keep)
            start = time.monotonic()
        number += 1
        if time.monotonic() > progress:
            progress += _PROGRESS_S
            print(f"{_summary(tally)}, case {number}", flush=True)
    return tally


def _count(tally: Tally, family: str, outcome, folder: Path, keep: Path) -> None:
    tally.files[family] += 1
    if isinstance(outcome, Finding):
        tally.findings.append(outcome)
        place = f"{outcome.family}-{outcome.seed}-{outcome.number}-{outcome.copy}"
        shutil.copytree(folder, keep / place, dirs_exist_ok=True)
        (keep / place / "FINDING.txt").write_text(f"{outcome}\n")
        print(outcome, flush=True)
    elif outcome.exact:
        tally.exact[family] += 1
    else:
        tally.refused[family, outcome.reason] += 1


def _summary(tally: Tally) -> str:
    return (
        f"{tally.files.total()} files: {tally.exact.total()} exact, "
        f"{tally.refused.total()} refused, {len(tally.findings)} wrong"
    )


def _report(tally: Tally) -> None:
    print(f"\n{_summary(tally)}; the slowest took {tally.slowest_s:.1f} s; at most "
          f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")  # fmt: skip
    for family, files in tally.files.items():
        reasons = Counter({why: n for (of, why), n in tally.refused.items() if of == family})
        print(f"{family}: {files} files, {tally.exact[family]} exact, {reasons.total()} refused")
        for reason, times in reasons.most_common():
            print(f"  {times:7} {reason}")
    kinds = Counter((one.family, one.what[:60]) for one in tally.findings)
    for (family, what), times in kinds.most_common():
        print(f"WRONG {times:5} {family}: {what}")


def _again(place: list[str], keep: Path) -> int:
    family, seed, number, copy = place[0], *map(int, place[1:])
    folder = keep / "again"
    for at, outcome in enumerate(run_case(family, seed, number, copy, folder)):
        if at == copy:
            print(outcome)
            print(f"its files are in {folder}")
            return 1 if isinstance(outcome, Finding) else 0
    return 2


if __name__ == "__main__":
    sys.exit(main())
