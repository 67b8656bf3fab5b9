"""The baseline loop that the whole system is compared with: PyTorch and nothing else.

Run as `python bare_loop.py POINTS.json RESULT.json`: two processes train the points, each taking
the next one when it is free. Data and model are those of the task `digits`; the first point of a
process waits for the data to be read, as the first trial of a worker does.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

EPOCHS = 20


@cache
def data() -> Any:
    import torch
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(231))
    x = torch.as_tensor(images, dtype=torch.float32)[order] / 16
    y = torch.as_tensor(labels)[order]
    x -= x[:1077].mean(0)
    return x[:1077], y[:1077], x[1077:1437], y[1077:1437]


def build(point: dict[str, Any]) -> Any:
    from torch import nn

    layers = [nn.Flatten(), nn.Linear(64, point["hidden"]), nn.ReLU()]
    layers += [nn.Dropout(point["dropout"]), nn.Linear(point["hidden"], 10)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def train(
    point: dict[str, Any], seed: int, each: Callable[[int, float], object] = lambda *_: None
) -> float:
    """Train one point; return its best validation accuracy."""
    import torch
    from torch.nn.functional import cross_entropy

    x, y, x_val, y_val = data()
    torch.manual_seed(seed)
    model = build(point)
    common = {"lr": point["lr"], "weight_decay": point["weight_decay"]}
    optimizer: torch.optim.Optimizer
    if point["optimizer"] == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), momentum=point["momentum"], **common)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), **common)
    best = 0.0
    for epoch in range(EPOCHS):
        model.train()
        for batch in torch.randperm(len(x)).split(point["batch_size"]):
            loss = cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            logits = model(x_val)
            accuracy = (logits.argmax(1) == y_val).float().mean().item()
            cross_entropy(logits, y_val).item()
        best = max(best, accuracy)
        each(epoch, accuracy)
    return best


def work(points: list[dict[str, Any]], taken: Any, results: Any) -> None:
    import torch

    torch.set_num_threads(1)
    while True:
        with taken.get_lock():
            index = taken.value
            taken.value += 1
        if index >= len(points):
            return
        start = time.time()
        best = train(points[index], index)
        results.put((index, start, time.time(), best))


def main() -> None:
    points = json.loads(Path(sys.argv[1]).read_text())
    context = multiprocessing.get_context("spawn")
    taken, results = context.Value("i", 0), context.Queue()
    processes = [context.Process(target=work, args=(points, taken, results)) for _ in range(2)]
    for process in processes:
        process.start()
    ended = [results.get() for _ in points]
    for process in processes:
        process.join()
    Path(sys.argv[2]).write_text(json.dumps(sorted(ended)))


if __name__ == "__main__":
    main()
