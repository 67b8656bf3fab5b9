"""What this machine has to compute on, by a driver that is made up."""

import subprocess
import sys
from types import ModuleType

import pytest

from scattershot_common.machine import cpu_count, gpu_names


class NVMLError(Exception):
    pass


class Driver(ModuleType):
    """A pynvml of two GPUs, the second of which may not be used; or of none."""

    NVMLError = NVMLError

    def __init__(self, names: list[str | None] | None) -> None:
        super().__init__("pynvml")
        self.names, self.open = names, 0

    def nvmlInit(self) -> None:
        if self.names is None:
            raise NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names or ())

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        name = (self.names or [])[handle]
        if name is None:
            raise NVMLError("Insufficient Permissions")
        return name


@pytest.mark.parametrize(
    ("driver", "names"),
    [
        (Driver(None), []),
        (Driver([]), []),
        (Driver(["NVIDIA H200", None]), ["NVIDIA H200", "GPU 1"]),
    ],
)
def test_gpus_are_those_that_the_driver_lists(
    driver: Driver, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert gpu_names() == names
    assert driver.open == 0


def test_at_least_one_core_is_counted_and_nothing_is_imported_for_it() -> None:
    assert cpu_count() >= 1
    code = "import sys, scattershot_common.machine; print('pynvml' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
