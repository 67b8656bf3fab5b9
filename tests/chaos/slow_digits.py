"""The task of the chaos run: digits, slowed down, with a count of the epochs it trains."""

from __future__ import annotations

import os
import time

from torch import Tensor

from scattershot_worker.tasks.digits import Digits

#: Examples of the validation part.
_VALIDATED = 360


class SlowDigits(Digits):
    """The built-in task, to the last digit of its numbers.

    Before an epoch's metrics it adds a byte to the file $CHAOS_EPOCHS, for the epoch that is
    trained, and sleeps for $CHAOS_PAUSE seconds. The training itself stays as it is.
    """

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        if len(targets) == _VALIDATED:  # the training part's are told of fewer
            if path := os.environ.get("CHAOS_EPOCHS"):
                with open(path, "ab", buffering=0) as file:
                    file.write(b".")  # appended in one piece, whoever else does
            time.sleep(float(os.environ.get("CHAOS_PAUSE", "0")))
        return super().metrics(outputs, targets)
