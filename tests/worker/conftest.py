from pathlib import Path

import pytest
import torch

from workbench import Workbench


@pytest.fixture
def workbench(redis_url: str, tmp_path: Path) -> Workbench:
    torch.set_num_threads(1)  # as a worker does
    return Workbench(redis_url, tmp_path)
