"""The process that runs the checks for the master, which has no torch.

Run as `python -m scattershot_worker.checks`: it reads a JSON request from standard input and
writes one JSON line to standard output for each result as it comes; what the task prints goes to
standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from scattershot_common.errors import ScattershotError


def _answers(request: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    import torch

    from scattershot_common.space.space import Space
    from scattershot_worker.checks.run_checks import check_task

    sys.path[:0] = request["paths"]  # after the imports: no file of a user's is in their way
    torch.set_num_threads(int(request["threads"]))
    results = check_task(
        request["task"],
        request["params"],
        only=request["only"],
        device=request["device"],
        seed=int(request["seed"]),
        space=Space.parse(request["space"]),
        data=request["data"],
    )
    for result in results:
        yield {"result": result.to_json()}


def main() -> None:
    """Answer one request."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the task's prints must not come between the answers
    request = json.load(sys.stdin)
    try:
        for answer in _answers(request):
            print(json.dumps(answer), file=answers, flush=True)
    except ScattershotError as error:
        print(json.dumps({"error": str(error)}), file=answers, flush=True)


if __name__ == "__main__":
    main()
