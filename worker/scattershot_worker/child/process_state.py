"""The settings of a process that a trial may change: recorded before it, put back after it.

A child trains one trial after the other. What a trial leaves behind, such as another default
dtype or working folder, must not reach the next one.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import contextlib
import decimal
import gc
import locale
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as torch_module


@dataclass(frozen=True)
class _Setting:
    """A setting of the process: its name, how it is read, and how it is set."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], object]


def _attribute(name: str, owner: Any, attribute: str) -> _Setting:
    return _Setting(
        name, lambda: getattr(owner, attribute), lambda value: setattr(owner, attribute, value)
    )


def _contents(name: str, items: list[Any]) -> _Setting:
    """Return the contents of a list that stays the same object."""

    def put_back(value: list[Any]) -> None:
        items[:] = value

    return _Setting(name, lambda: [*items], put_back)


def _hooks(name: str) -> _Setting:
    """Return torch's hooks of all modules, by the name of the dict that holds them."""
    hooks: dict[Any, Any] = getattr(torch_module, name)

    def put_back(value: dict[Any, Any]) -> None:
        hooks.clear()
        hooks.update(value)

    return _Setting("torch's global module hooks", lambda: dict(hooks), put_back)


def _set_filters(value: list[Any]) -> None:
    warnings.filters[:] = value  # type: ignore[index]
    with contextlib.suppress(AttributeError):
        warnings._filters_mutated()  # type: ignore[attr-defined]


def _set_environment(value: Mapping[str, str]) -> None:
    zone = os.environ.get("TZ")
    for name in os.environ.keys() - value.keys():
        del os.environ[name]
    os.environ.update(value)
    if value.get("TZ") != zone:
        time.tzset()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


#: The numbers of all signals.
_SIGNALS = sorted(int(number) for number in signal.valid_signals())


def _signals() -> list[Any]:
    # not by `signal.getsignal`, which makes an enum of every answer: a millisecond in all
    return [*map(_signal.getsignal, _SIGNALS)]


def _set_signals(value: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, value, strict=True):
        if _signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _decimal() -> tuple[object, ...]:
    context = decimal.getcontext()
    return context.prec, context.rounding, context.Emin, context.Emax


def _set_decimal(value: Any) -> None:
    context = decimal.getcontext()
    context.prec, context.rounding, context.Emin, context.Emax = value


def _flushes_denormals() -> bool:
    return torch.tensor([5e-324], dtype=torch.float64).mul(1.0).item() == 0.0


def _set_default_device(value: torch.device) -> None:
    # None for the CPU: a device that is set slows every call down
    torch.set_default_device(None if value.type == "cpu" else value)


def _set_autocast(value: list[tuple[str, bool, torch.dtype]]) -> None:
    for kind, on, dtype in value:
        torch.set_autocast_enabled(kind, on)
        torch.set_autocast_dtype(kind, dtype)


def _autocast() -> list[tuple[str, bool, torch.dtype]]:
    kinds = ("cpu", "cuda")
    return [(k, torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in kinds]


#: The kinds of limits of a process.
_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


def _limits() -> list[tuple[int, int]]:
    return [*map(resource.getrlimit, _LIMITS)]


def _set_limits(value: list[tuple[int, int]]) -> None:
    for kind, limits in zip(_LIMITS, value, strict=True):
        if resource.getrlimit(kind) != limits:
            resource.setrlimit(kind, limits)


_BACKENDS = [
    (torch.backends.cudnn, ("enabled", "benchmark", "deterministic", "allow_tf32")),
    (
        torch.backends.cuda.matmul,
        (
            "allow_tf32",
            "allow_fp16_reduced_precision_reduction",
            "allow_bf16_reduced_precision_reduction",
        ),
    ),
]
_SDP = ("flash_sdp", "mem_efficient_sdp", "math_sdp", "cudnn_sdp")

_SETTINGS = [
    _Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Setting("torch's default device", torch.get_default_device, _set_default_device),
    _Setting("torch's grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    _Setting(
        "torch's deterministic mode",
        torch.get_deterministic_debug_mode,
        torch.set_deterministic_debug_mode,
    ),
    _attribute("fill_uninitialized_memory", torch.utils.deterministic, "fill_uninitialized_memory"),
    _Setting(
        "torch's matmul precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    _Setting("torch's threads", torch.get_num_threads, torch.set_num_threads),
    _Setting(
        "torch's anomaly detection",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.set_anomaly_enabled(*value),
    ),
    _Setting("torch's flushing of denormals", _flushes_denormals, torch.set_flush_denormal),
    _Setting("torch's autocast", _autocast, _set_autocast),
    _Setting(
        "torch's sharing strategy",
        torch.multiprocessing.get_sharing_strategy,
        torch.multiprocessing.set_sharing_strategy,
    ),
    *(
        _attribute(f"{owner.__name__}.{name}", owner, name)
        if hasattr(owner, "__name__")
        else _attribute(f"torch.backends.cuda.matmul.{name}", owner, name)
        for owner, names in _BACKENDS
        for name in names
    ),
    *(
        _Setting(
            f"torch's {name}",
            getattr(torch.backends.cuda, f"{name}_enabled"),
            getattr(torch.backends.cuda, f"enable_{name}"),
        )
        for name in _SDP
        if hasattr(torch.backends.cuda, f"enable_{name}")
    ),
    *map(
        _hooks,
        (
            "_global_forward_hooks",
            "_global_forward_pre_hooks",
            "_global_backward_hooks",
            "_global_backward_pre_hooks",
            "_global_module_registration_hooks",
            "_global_parameter_registration_hooks",
            "_global_buffer_registration_hooks",
        ),
    ),
    _Setting("numpy's error handling", np.geterr, lambda value: np.seterr(**value)),
    _Setting("the working folder", os.getcwd, os.chdir),
    _Setting("the environment", lambda: dict(os.environ), _set_environment),
    _Setting("the umask", _umask, os.umask),
    _Setting("the warnings filters", lambda: [*warnings.filters], _set_filters),
    _attribute("warnings.showwarning", warnings, "showwarning"),
    _contents("sys.path", sys.path),
    _contents("sys.argv", sys.argv),
    _attribute("sys.stdout", sys, "stdout"),
    _attribute("sys.stderr", sys, "stderr"),
    _attribute("sys.excepthook", sys, "excepthook"),
    _Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    _Setting("the switch interval", sys.getswitchinterval, sys.setswitchinterval),
    _attribute("threading.excepthook", threading, "excepthook"),
    _Setting(
        "the locale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda value: locale.setlocale(locale.LC_ALL, value),
    ),
    _Setting("the signal handlers", _signals, _set_signals),
    _Setting(
        "the timer",
        lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        lambda value: value or signal.setitimer(signal.ITIMER_REAL, 0),
    ),
    _Setting("the decimal context", _decimal, _set_decimal),
    _Setting("the garbage collector", gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    _Setting(
        "the garbage collector's thresholds", gc.get_threshold, lambda v: gc.set_threshold(*v)
    ),
    _attribute("logging's level", logging.root, "level"),
    _attribute("logging.disable", logging.root.manager, "disable"),
    _contents("logging's handlers", logging.root.handlers),
    _Setting("the socket timeout", socket.getdefaulttimeout, socket.setdefaulttimeout),
    _Setting(
        "multiprocessing's start method",
        lambda: multiprocessing.get_start_method(allow_none=True),
        lambda value: multiprocessing.set_start_method(value, force=True),
    ),
    _Setting(
        "the process's CPUs",
        lambda: os.sched_getaffinity(0),
        lambda value: os.sched_setaffinity(0, value),
    ),
    _Setting("the process's limits", _limits, _set_limits),
    _Setting("the process's priority", lambda: os.nice(0), lambda value: os.nice(value)),
]


def _read() -> dict[int, Any]:
    """Return all settings that can be read, by their place in the table."""
    values: dict[int, Any] = {}
    for index, setting in enumerate(_SETTINGS):
        with contextlib.suppress(Exception):  # not on this system, or a folder that is gone
            values[index] = setting.get()
    return values


class ProcessState:
    """The settings of the process at one moment."""

    def __init__(self) -> None:
        """Record the settings as they are now."""
        self._values = _read()

    def changes(self) -> list[str]:
        """Return the names of the settings that are no longer as recorded."""
        now = _read()
        return [
            _SETTINGS[index].name
            for index, value in self._values.items()
            if index not in now or now[index] != value
        ]

    def restore(self) -> list[str]:
        """Put the settings back; return the names of those for which that is not possible."""
        failed = []
        for index, value in self._values.items():
            setting = _SETTINGS[index]
            try:
                if setting.get() != value:
                    setting.set(value)
                    if setting.get() != value:
                        failed.append(setting.name)
            except Exception:
                try:  # what could not be read may still be set, as a working folder that is gone
                    setting.set(value)
                except Exception:
                    failed.append(setting.name)
        return failed
