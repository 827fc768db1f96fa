"""What code draws in a worker thread is what it would draw alone, and moves nobody else."""

from __future__ import annotations

import copy
import pickle
import random
import threading
from collections.abc import Callable
from random import gauss, shuffle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.overrides import get_testing_overrides

import dataplane as dp
from dataplane.loader.random_streams import ProcessStreams, ThreadStreams, mix


def shuffled() -> list[int]:
    values = list(range(9))
    shuffle(values)
    return values


X = torch.ones(5, 3)
DRAWS: dict[str, Callable[[], Any]] = {
    "random": lambda: [random.random() for _ in range(3)],
    "randint": lambda: random.randint(0, 10**12),
    "gauss": lambda: [random.gauss(0, 1) for _ in range(3)],
    "bound gauss": lambda: [gauss(0, 1) for _ in range(3)],
    "bound shuffle": shuffled,
    "choice": lambda: random.choice(range(10**9)),
    "sample": lambda: random.sample(range(100), 5),
    "uniform": lambda: random.uniform(2, 3),
    "state": random.getstate,
    "set state": lambda: (random.setstate(random.getstate()), random.random())[1],
    "getrandbits": lambda: random.getrandbits(99),
    "betavariate": lambda: random.betavariate(2, 3),
    "np rand": lambda: list(np.random.rand(3)),
    "np randn": lambda: list(np.random.randn(3)),
    "np randint": lambda: np.random.randint(0, 10**9),
    "np permutation": lambda: np.random.permutation(9).tolist(),
    "np choice": lambda: np.random.choice(100, 5, replace=False).tolist(),
    "np sample": lambda: np.random.sample(2).tolist(),
    "np normal": lambda: np.random.normal(size=2).tolist(),
    "np hidden": lambda: np.random.mtrand._rand.rand() + 0,
    "np state": lambda: list(np.random.get_state()[1]),
    "torch rand": lambda: torch.rand(3),
    "torch randn": lambda: torch.randn(2, 2),
    "torch randint": lambda: (torch.randint(9, (4,)), torch.randint(1, 9, (4,))),
    "torch randperm": lambda: torch.randperm(7),
    "torch normal": lambda: (torch.normal(0.0, 1.0, (3,)), torch.normal(torch.zeros(2), 1.0)),
    "torch bernoulli": lambda: torch.bernoulli(torch.full((9,), 0.5)),
    "torch multinomial": lambda: torch.multinomial(torch.ones(9), 3),
    "torch poisson": lambda: torch.poisson(torch.ones(3) * 4),
    "like": lambda: (torch.rand_like(X), torch.randn_like(X), torch.randint_like(X, 10)),
    "in place": lambda: (torch.empty(3).uniform_(1, 2), torch.empty(3).normal_()),
    "exponential": lambda: torch.empty(3).exponential_(),
    "dropout": lambda: F.dropout(X, 0.3),
    "module": lambda: torch.nn.Dropout(0.4)(X),
    "init": lambda: torch.nn.init.kaiming_uniform_(torch.empty(3, 3)),
    "trunc": lambda: torch.nn.init.trunc_normal_(torch.empty(4)),
    "layer": lambda: torch.nn.Linear(2, 2).weight + 0,
    "categorical": lambda: torch.distributions.Categorical(torch.ones(4)).sample((3,)),
    "gamma": lambda: torch.distributions.Gamma(torch.tensor(2.0), torch.tensor(1.0)).sample((2,)),
    "dirichlet": lambda: torch.distributions.Dirichlet(torch.ones(3)).sample(),
    "initial seed": torch.initial_seed,
    "torch state": torch.get_rng_state,
}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return all(map(_same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def in_thread(work: Callable[[], Any]) -> Any:
    """What some work gives in a thread of its own, with streams of its own."""
    found: list[Any] = []

    def run() -> None:
        streams = ThreadStreams()
        with streams.active():
            streams.seed(12345)
            found.append(work())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def alone(work: Callable[[], Any]) -> Any:
    """What it gives in this thread, seeded alike."""
    streams = ProcessStreams()
    with streams.active():
        streams.seed(12345)
        return work()


def everything() -> Any:
    return (
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        np.random.get_state()[2:],
        random.getstate(),
    )


@pytest.mark.parametrize("name", DRAWS)
def test_a_thread_draws_what_the_process_would(name: str) -> None:
    expected = alone(DRAWS[name])
    before = everything()
    assert _same(in_thread(DRAWS[name]), expected)
    assert everything() == before


def test_the_process_goes_on_with_its_own_numbers() -> None:
    def drawn() -> list[Any]:
        torch.manual_seed(1)
        np.random.seed(2)
        random.seed(3)
        return [
            (torch.rand(1).item(), np.random.rand(), np.random.randn(), random.random())
            for _ in range(200)
        ]

    def work() -> None:
        for _ in range(30):
            for draw in DRAWS.values():
                draw()
            np.random.seed(5)
            random.seed(5)

    expected = drawn()
    threads = [threading.Thread(target=in_thread, args=(work,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert drawn() == expected
    for thread in threads:
        thread.join()
    alone(work)
    assert drawn() == expected


def test_every_function_of_torch_that_takes_a_generator_is_led_to_the_thread_s() -> None:
    """Found by what they take, so that a function of a newer torch is found as well."""
    import inspect

    from dataplane.loader.torch_draws import DRAWS

    takers = set()
    for function, stand_in in get_testing_overrides().items():
        if "generator" in inspect.signature(stand_in).parameters:
            takers.add(function)
    assert len(takers) > 10
    assert {function.__name__ for function in takers - set(DRAWS)} == set()


def test_what_takes_no_generator_is_refused_with_what_to_do() -> None:
    def work() -> str:
        with pytest.raises(dp.LoaderError, match=r"gumbel_softmax.*transform_mode=\"process\""):
            F.gumbel_softmax(torch.ones(3))
        return "refused"

    assert in_thread(work) == "refused"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.ops.aten.rand([3]),
        lambda: torch.ops.aten.rand.default([3]),
        lambda: torch.ops.aten.bernoulli_.float(torch.ones(3)),
        lambda: torch.ops.aten.native_dropout(torch.ones(3), 0.5, True),
    ],
)
def test_operators_that_draw_are_refused_too(draw: Any) -> None:
    def work() -> str:
        with pytest.raises(dp.LoaderError, match=r"draws from torch's default generator"):
            draw()
        torch.ops.aten.add(torch.ones(3), 1)
        return "refused"

    before = everything()
    assert in_thread(work) == "refused"
    assert everything() == before


@pytest.mark.parametrize(
    "idle",
    [
        torch.nn.Dropout2d(0.5).eval(),
        torch.nn.Dropout3d(0.0),
        torch.nn.AlphaDropout(0.5).eval(),
        torch.nn.RReLU().eval(),
        lambda x: torch.nn.LSTM(4, 4, 2, dropout=0.1).eval()(x[0])[0],
        lambda x: torch.nn.MultiheadAttention(4, 2, dropout=0.1).eval()(x[0], x[0], x[0])[0],
        lambda x: torch.nn.TransformerEncoderLayer(4, 2).eval()(x[0]),
        lambda x: F.scaled_dot_product_attention(x, x, x, None, 0.0, True),
        lambda x: torch.ops.aten.dropout(x, 0.5, False),
        lambda x: torch.ops.aten.native_dropout(x, 0.5, False)[0],
        lambda x: torch.dropout(x, 0.5, False),
        lambda x: torch.ops.aten.scaled_dot_product_attention(x, x, x),
    ],
)
def test_what_draws_nothing_is_not_refused(idle: Any) -> None:
    values = torch.ones(2, 3, 4, 4)
    found: list[torch.Tensor] = []
    in_thread(lambda: found.append(idle(values)))
    assert found[0].shape[-1] == 4


@pytest.mark.parametrize(
    "drawing",
    [
        torch.nn.Dropout2d(0.5),
        torch.nn.RReLU(),
        lambda x: torch.nn.LSTM(4, 4, 2, dropout=0.1)(x[0]),
        lambda x: torch.nn.MultiheadAttention(4, 2, dropout=0.1)(x[0], x[0], x[0]),
        lambda x: F.scaled_dot_product_attention(x, x, x, None, 0.5, False),
        lambda x: torch.dropout(x, 0.5, True),
        lambda x: torch.ops.aten.dropout(x, 0.5, True),
    ],
)
def test_what_drops_values_is_refused(drawing: Any) -> None:
    refused: list[str] = []

    def work() -> None:
        with pytest.raises(dp.LoaderError, match=r"draws from torch's default generator"):
            drawing(torch.ones(2, 3, 4, 4))
        refused.append("refused")

    in_thread(work)
    assert refused


def test_the_default_generator_by_name_is_the_thread_s() -> None:
    def draw() -> Any:
        given = torch.default_generator
        return (
            torch.rand(3, generator=given),
            torch.ops.aten.rand.generator([3], generator=given),
            torch.randperm(5, generator=given),
        )

    expected = alone(draw)
    before = everything()
    assert _same(in_thread(draw), expected)
    assert everything() == before


def test_another_bit_generator_is_that_of_the_thread_which_sets_it() -> None:
    in_thread(random.random)  # the stand-ins are in place
    ours = np.random.get_bit_generator()

    def work() -> Any:
        np.random.set_bit_generator(np.random.PCG64(5))
        return np.random.rand(3)

    expected = np.random.RandomState(np.random.PCG64(5)).rand(3)
    assert np.array_equal(in_thread(work), expected)
    assert np.random.get_bit_generator() is ours
    try:
        assert np.array_equal(work(), expected)
    finally:
        np.random.set_bit_generator(ours)
    np.random.seed(3)
    assert np.random.rand() == np.random.RandomState(3).rand()


def test_the_process_keeps_a_bit_generator_of_another_kind() -> None:
    ours = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(7))
    try:
        kept = np.random.get_bit_generator()
        state = np.random.get_state(legacy=False)
        assert alone(np.random.rand) == in_thread(np.random.rand)
        alone(lambda: np.random.set_bit_generator(np.random.PCG64(1)))
        assert np.random.get_bit_generator() is kept
        assert np.random.get_state(legacy=False) == state
    finally:
        np.random.set_bit_generator(ours)


def test_a_generator_of_ones_own_is_left_alone() -> None:
    def drawn() -> torch.Tensor:
        return torch.rand(3, generator=torch.Generator().manual_seed(8))

    assert torch.equal(in_thread(drawn), drawn())


def test_seeds_differ_wherever_a_number_does() -> None:
    seeds = {mix(*numbers) for numbers in ((0, 0), (0, 1), (1, 0), (0, 0, 0), (2**64 - 1, 5))}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_copies_of_the_hidden_generators_are_what_they_were_before() -> None:
    """Also after a thread's stand-ins are in place: libraries pickle and copy what they hold."""
    in_thread(random.random)
    np.random.seed(3)
    random.seed(3)
    for copied in (copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        rand, draw = copied(np.random.rand), copied(random.random)
        expected = np.random.RandomState(3).rand(), random.Random(3).random()
        assert (rand(), draw()) == expected
    assert isinstance(np.random.mtrand._rand, np.random.RandomState)
    assert (np.random.rand(), random.random()) == expected
