"""Values of the hyperparameters that the built-in tasks and their trainer choose something by.

The tables of the worker decide; they need torch, which whoever reads a study file may not have. A
test holds these to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from scattershot_common.problems import Problem, nearest, show

_IMAGES = ("linear", "mlp", "cnn", "resnet")
#: The networks of each built-in task. Those of other packages may read their own.
MODELS: Mapping[str, tuple[str, ...]] = {
    "digits": _IMAGES,
    "mnist": _IMAGES,
    "fashion_mnist": _IMAGES,
    "cifar10": _IMAGES,
    "unicode_names": ("cnn", "gru", "transformer"),
    "diabetes": ("linear", "mlp"),
}
VALUES: Mapping[str, tuple[str, ...]] = {
    "optimizer": ("sgd", "adagrad", "rmsprop", "adam", "adamw"),
    "schedule": (
        *("constant", "step", "exponential", "inverse", "linear", "cosine"),
        *("snapshots", "one_cycle", "plateau"),
    ),
    "init": ("default", "he", "xavier", "normal"),
    "precision": ("float32", "bf16", "fp16"),
}
#: Hyperparameters that are numbers.
NUMBERS = (
    *("lr", "weight_decay", "momentum", "beta1", "beta2", "alpha", "eps", "batch_size", "warmup"),
    *("drop_every", "drop_factor", "final_factor", "patience", "cycles", "final_momentum"),
    *("label_smoothing", "clip_norm", "clip_value", "ema", "early_stopping", "accumulate"),
)


def value_problems(task: object, space: Mapping[str, object]) -> Iterator[Problem]:
    """Yield the values in [space] with which trials of a built-in task would fail."""
    if not isinstance(task, str) or task not in MODELS:
        return
    known = {**VALUES, "model": MODELS[task]}
    for name, entry in space.items():
        table = entry if isinstance(entry, dict) else {"value": entry}
        key = "choice" if "choice" in table else "value"
        listed = table.get(key)
        path = ("space", name, *([key] if isinstance(entry, dict) else []))
        for value in listed if isinstance(listed, list) else [listed]:
            if not isinstance(value, str):
                continue
            if name in NUMBERS:
                yield Problem(
                    path,
                    f"needs a number (found {show(value)}); for trials without {name} give it a "
                    f"condition: when = {{ use_{name} = true }}, with use_{name} as a choice",
                )
            lowered = value.lower() if name == "optimizer" else value
            if name in known and lowered not in known[name]:
                allowed = ", ".join(known[name])
                yield Problem(
                    path,
                    f"must be one of {allowed} (found {show(value)}){nearest(value, known[name])}",
                )
