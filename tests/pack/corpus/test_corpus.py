"""Readers of pack on generated files: exact or refused, never anything else."""

import numpy as np
import pytest

from tests.pack.corpus.law import write
from tests.pack.corpus.runs import FAMILIES, check_oracle


@pytest.mark.parametrize("family", FAMILIES)
def test_the_independent_readers_read_what_the_generators_wrote(tmp_path, family):
    # The two share no code for values, so this is what makes the corpus worth believing.
    for number in range(30):
        case = FAMILIES[family](np.random.default_rng([7, number]))
        folder = tmp_path / str(number)
        write(case.files, folder)
        check_oracle(case, folder)
