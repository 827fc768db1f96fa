"""Compile the kernel for an H200, on any machine: a few of its kinds, or with `--all` many.

Run by `test_compile.py`. A program of its own: Triton makes functions that run interpreted, or that
are compiled, once for all in a process.
"""

from __future__ import annotations

import itertools
import os
import sys

os.environ.pop("TRITON_INTERPRET", None)

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dataplane.codecs.table import Convert
from dataplane.gpu.elements import Normalise, Rule, rule_of
from dataplane.gpu.kernels import place_tiles
from dataplane.gpu.placement import TILE_ELEMENTS, constants_of
from dataplane.gpu.tables import COLUMNS, Group

_HOPPER = GPUTarget("cuda", 90, 32)


def group(rule: Rule, shuffle: int, *, split: bool, even: bool, fill: bool, swap: int) -> Group:
    rows = np.zeros((1, COLUMNS), np.int64)
    return Group(
        rows, np.zeros(1, np.int64), rule, rule.stored_bytes, shuffle, swap,
        is_fill=fill, is_split=split, is_even=even, ndim=4,
    )  # fmt: skip


def compile_one(of: Group) -> int:
    constants = {"TILE": TILE_ELEMENTS, **constants_of(of)}
    signature = {"inflated": "*u8", "starts": "*i64", "rows": "*i64", "tiles": "*i32"}
    signature |= dict.fromkeys(constants, "constexpr")
    names = place_tiles.arg_names
    options = {"enable_fp_fusion": False}
    source = ASTSource(
        place_tiles, signature, {(names.index(name),): value for name, value in constants.items()}
    )
    return len(triton.compile(source, target=_HOPPER, options=options).asm["cubin"])


def main() -> None:
    plain = [rule_of(Convert.NONE, kind, Normalise()) for kind in (
        torch.uint8, torch.float16, torch.float32, torch.float64, torch.complex128)]  # fmt: skip
    made = 0
    few = "--all" not in sys.argv
    for rule, shuffle in itertools.product(plain[2:3] if few else plain, (0, 1, 2)):
        made += compile_one(group(rule, shuffle, split=False, even=True, fill=False, swap=0)) > 0
    four = plain[2]
    for split, even, swap in [(True, False, 4)] if few else [(True, True, 0), (False, False, 0)]:
        made += compile_one(group(four, 1, split=split, even=even, fill=False, swap=swap)) > 0
    made += compile_one(group(four, 0, split=False, even=True, fill=True, swap=0)) > 0
    made += compile_one(group(plain[4], 0, split=False, even=True, fill=True, swap=0)) > 0
    scaled = Normalise(np.dtype("i2"), 0.5, 1.0)
    for rule in (
        rule_of(Convert.NONE, torch.bfloat16, scaled),
        *(
            ()
            if few
            else (
                rule_of(Convert.NONE, torch.float32, scaled),
                rule_of(Convert.F64_TO_F32, torch.float32, Normalise()),
                rule_of(Convert.BF16_TO_F32, torch.float32, Normalise()),
            )
        ),
    ):
        made += compile_one(group(rule, 1, split=False, even=True, fill=False, swap=0)) > 0
    made += compile_one(
        group(rule_of(Convert.NONE, torch.float16, Normalise(np.dtype("f4"), 2.0)), 0,
              split=False, even=True, fill=True, swap=0)
    ) > 0  # fmt: skip
    print(f"{made} kernels")


if __name__ == "__main__":
    main()
