from pathlib import Path

import pytest
import torch

from support.workbench import Workbench

torch.set_num_threads(1)  # as a worker does; more would fight for the cores


@pytest.fixture
def workbench(redis_url: str, tmp_path: Path) -> Workbench:
    return Workbench(redis_url, tmp_path)
