"""Evaluates the members of an ensemble on the test part, once.

Run as `python -m scattershot_worker.evaluate` by the master, which has no torch: it reads a JSON
request from standard input and answers with one JSON line on standard output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from scattershot_common.errors import ScattershotError, TaskError
from scattershot_common.local_files import write
from scattershot_common.store.checkpoint_header import metadata, seal
from scattershot_common.store.open_store import open_store
from scattershot_common.task.task import Task
from scattershot_worker.attempt.snapshot import read_tensors, rebuild
from scattershot_worker.attempt.task_loader import load_task
from scattershot_worker.training.data import data_on
from scattershot_worker.training.evaluation import evaluate, targets_of
from scattershot_worker.training.hooks import Hooks
from scattershot_worker.training.variables import Variables


def run_members(
    task: Task, store: str, models: list[Mapping[str, Any]], device: torch.device
) -> dict[str, Tensor]:
    """Return `predictions/<trial>` of every member on the test part, and its `targets`.

    `store` is the path or URL of what holds `trials/`; a member of `models` is {"trial", "params",
    "checkpoint": its key}.

    Raises:
        ScattershotError: the task has no test part, or a checkpoint cannot be used.
    """
    data = data_on(task, device)
    if data.test is None:
        raise TaskError(f"{type(task).__name__}.data() gives no test part")
    checkpoints = open_store(store)
    results: dict[str, Tensor] = {}
    variables = Variables(task)
    for member in models:
        variables.restore()  # what model() keeps on the task is not another member's
        key = member["checkpoint"]
        state = cast(Mapping[str, Any], checkpoints.header(key)["state"])
        model = task.model(member["params"])
        model.load_state_dict(rebuild(state["model"], read_tensors(checkpoints.load(key))))
        hooks = Hooks(task, member["params"])
        evaluation = evaluate(hooks, model.to(device), data.test, device)
        results[f"predictions/{member['trial']}"] = evaluation.predictions.contiguous()
        results["targets"] = targets_of(task, evaluation.targets).contiguous()
    return results


def _answer(request: Mapping[str, Any]) -> dict[str, object]:
    sys.path[:0] = request["paths"]
    torch.set_num_threads(int(request["threads"]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task = load_task(request["task"], request["data"])
    if not isinstance(task, Task):
        raise TaskError("a train function has no test part; bring a task class for that")
    results = run_members(task, request["store"], request["models"], device)
    header = {"trials": [member["trial"] for member in request["models"]]}
    data = seal(safetensors.torch.save(results, metadata(header)))
    write(Path(request["out"]), data, sync=True)
    return {"ok": True}


def main() -> None:
    """Answer one request."""
    try:
        answer = _answer(json.load(sys.stdin))
    except ScattershotError as error:
        answer = {"error": str(error)}
    except BaseException as error:  # the user's model or data: say what, without a traceback
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
