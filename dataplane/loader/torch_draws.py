"""Draws of torch's functions, led to a thread's own generator.

A function mode, which torch keeps per thread, gives a generator to the functions that take one. The
others are refused, but where their arguments say that they draw nothing: in evaluation, or with a
rate of 0. `dropout` is drawn here, since transforms use it. Operators (`torch.ops.aten.rand`) are
known by torch's own tag.

A mode belongs to its thread.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
import torch.random
from torch.overrides import TorchFunctionMode

from dataplane.errors import LoaderError

__all__ = ["DRAWS", "ThreadDraws"]


class HasGenerator(Protocol):
    """What has the generator that a thread draws from."""

    @property
    def torch(self) -> torch.Generator:
        """The generator, seeded."""
        ...


class ThreadDraws(TorchFunctionMode):
    """Has the torch functions that draw from the default generator draw from a thread's own."""

    def __init__(self, streams: HasGenerator) -> None:
        super().__init__()
        self._streams = streams

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if generator is torch.default_generator:
            return func(*args, **{**kwargs, "generator": self._streams.torch})
        draw = DRAWS.get(func)
        if generator is not None or (draw is None and not _is_drawing_operator(func)):
            return func(*args, **kwargs)
        return (draw or _operator)(func, args, kwargs, self._streams)


def _is_drawing_operator(func: Any) -> bool:
    """Whether something is an operator (`torch.ops.aten.rand`) that may draw random numbers."""
    if isinstance(func, torch._ops.OpOverload):
        return torch.Tag.nondeterministic_seeded in func.tags
    if not isinstance(func, torch._ops.OpOverloadPacket):
        return False
    names = func.overloads()  # type: ignore[no-untyped-call]
    return any(_is_drawing_operator(getattr(func, name)) for name in names)


def _with_generator(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], streams: HasGenerator
) -> Any:
    if args and isinstance(args[0], torch.Tensor):
        device = torch.device(kwargs.get("device") or args[0].device)
    else:
        device = torch.device(kwargs.get("device") or torch.get_default_device())
    if device.type != "cpu":
        return func(*args, **kwargs)
    return func(*args, **{**kwargs, "generator": streams.torch})


def _dropout(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], streams: HasGenerator
) -> Any:
    given = inspect.signature(func).bind(*args, **kwargs)
    given.apply_defaults()
    values, p = given.arguments["input"], given.arguments["p"]
    if not given.arguments["training"] or not 0 < p < 1 or values.device.type != "cpu":
        return func(*args, **kwargs)
    kept = torch.empty_like(values).bernoulli_(1 - p, generator=streams.torch).div_(1 - p)
    return values.mul_(kept) if given.arguments["inplace"] else values * kept


def _refused(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], streams: HasGenerator
) -> Any:
    del args, kwargs, streams
    raise LoaderError(
        f"{getattr(func, '__name__', func)} draws from torch's default generator, which threads "
        "share, so what it gives would differ from run to run",
        hint='pass transform_mode="process", or num_workers=0',
    )


def _operator(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], streams: HasGenerator
) -> Any:
    """Refuse an operator that draws, unless what it draws from is among its arguments."""
    if any(isinstance(value, torch.Generator) for value in args):
        ours = streams.torch
        args = tuple(ours if value is torch.default_generator else value for value in args)
        return func(*args, **kwargs)
    schema = getattr(getattr(func, "default", func), "_schema", None)
    names = [] if schema is None else [one.name for one in schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    defaults = {} if schema is None else {one.name: one.default_value for one in schema.arguments}
    if _is_idle(defaults | given):
        return func(*args, **kwargs)
    return _refused(func, args, kwargs, streams)


_SWITCHES = ("training", "train")
_RATES = ("p", "dropout", "dropout_p")


def _is_idle(given: dict[str, Any]) -> bool:
    """Whether a function with such arguments draws nothing: it evaluates, or drops nothing."""
    if any(given.get(name) is False for name in _SWITCHES):
        return True
    return any(name in given and not given[name] for name in _RATES)


def _refused_in_training(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], streams: HasGenerator
) -> Any:
    """Refuse a function with a switch or a rate, unless these say that it draws nothing."""
    given = inspect.signature(func).bind(*args, **kwargs)
    given.apply_defaults()
    if _is_idle(given.arguments):
        return func(*args, **kwargs)
    return _refused(func, args, kwargs, streams)


def _refused_if_dropping(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], streams: HasGenerator
) -> Any:
    """Refuse a function of C, without names, whose arguments say that it drops values.

    The share that it drops is a float between 0 and 1, and what follows it the switch.
    """
    if _is_idle(kwargs):
        return func(*args, **kwargs)
    for at, value in enumerate(args):
        if isinstance(value, float) and 0 < value < 1:
            if args[at + 1 : at + 2] == (False,):
                return func(*args, **kwargs)
            return _refused(func, args, kwargs, streams)
    if any(0 < kwargs.get(name, 0) < 1 for name in _RATES):
        return _refused(func, args, kwargs, streams)
    return func(*args, **kwargs)


def _attention(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], streams: HasGenerator
) -> Any:
    """Refuse an attention that drops weights; it has no switch."""
    if (args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)) > 0:
        return _refused(func, args, kwargs, streams)
    return func(*args, **kwargs)


def _draws() -> dict[Any, Callable[..., Any]]:
    names = (
        "rand randn randint randperm normal bernoulli multinomial poisson binomial _standard_gamma "
        "_sample_dirichlet"
    )
    likes = "rand_like randn_like randint_like"
    methods = (
        "bernoulli bernoulli_ cauchy_ exponential_ geometric_ log_normal_ multinomial normal_ "
        "random_ uniform_"
    )
    table: dict[Any, Callable[..., Any]] = {}
    for name in f"{names} {likes}".split():
        table[getattr(torch, name)] = _with_generator
    for name in methods.split():
        table[getattr(torch.Tensor, name)] = _with_generator
    for name in ("uniform_", "normal_", "kaiming_uniform_"):
        table[getattr(torch.nn.init, name)] = _with_generator
    table[F.dropout] = _dropout
    trained = (
        "alpha_dropout feature_alpha_dropout dropout1d dropout2d dropout3d rrelu "
        "multi_head_attention_forward"
    )
    for name in trained.split():
        table[getattr(F, name)] = _refused_in_training
    for name in (
        "gumbel_softmax",
        "fractional_max_pool2d_with_indices",
        "fractional_max_pool3d_with_indices",
    ):
        table[getattr(F, name)] = _refused
    table[F.scaled_dot_product_attention] = _attention
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu", "native_dropout"):
        table[getattr(torch, name)] = _refused_if_dropping
    for name in ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"):
        table[getattr(torch, name)] = _refused_if_dropping
        table[getattr(torch, f"{name}_")] = _refused_if_dropping
    for name in ("rrelu", "rrelu_"):
        table[getattr(torch, name)] = _refused
    return table


DRAWS = _draws()
