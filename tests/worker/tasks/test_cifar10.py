from pathlib import Path

import numpy as np
import pytest
import torch

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Part
from scattershot_common.task.task_names import named_tasks
from scattershot_worker.attempt.task_loader import load_task
from scattershot_worker.tasks import cifar10
from scattershot_worker.tasks.cifar10 import Cifar10

NAMES = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]


def write_files(folder: Path, each: int = 12) -> None:
    """Write six files; image i is all i in red, i + 60 in green, i + 120 in blue, label i % 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for at, name in enumerate(NAMES):
        numbers = np.arange(at * each, (at + 1) * each)
        pixels = (numbers[:, None] + [0, 60, 120]).repeat(32 * 32, 1)
        records = np.concatenate([numbers[:, None] % 10, pixels], 1)
        (folder / name).write_bytes(records.astype(np.uint8).tobytes())


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "_VAL", 10)


def tensors(part: Part | None) -> tuple[torch.Tensor, torch.Tensor]:
    assert isinstance(part, tuple)
    return part


@pytest.mark.filterwarnings("error")
def test_the_three_parts_hold_every_image_once_with_its_label(tmp_path: Path) -> None:
    write_files(tmp_path)
    data = Cifar10(tmp_path).data()
    parts = [tensors(part) for part in (data.train, data.val, data.test)]
    assert [x.shape for x, _ in parts] == [(50, 3, 32, 32), (10, 3, 32, 32), (12, 3, 32, 32)]
    assert {(x.dtype, y.dtype) for x, y in parts} == {(torch.float32, torch.int64)}
    test = parts[2][0]
    for channel in range(3):  # pixels were scaled by one line: two known images give its slope
        slope = (test[11, channel, 0, 0] - test[0, channel, 0, 0]) / 11
        numbers = [(x[:, channel] - test[0, channel, 0, 0]) / slope + 60 for x, _ in parts]
        assert all((values - values.round()).abs().max() < 1e-3 for values in numbers)
        images = [values.round().long() for values in numbers]
        assert sorted(torch.cat(images)[:, 0, 0].tolist()) == list(range(72))
        for image, (_, y) in zip(images, parts, strict=True):
            assert torch.equal(image[:, 5, 7] % 10, y)


def test_every_channel_is_scaled_by_the_training_part_alone(tmp_path: Path) -> None:
    write_files(tmp_path)
    x, _ = tensors(Cifar10(tmp_path).data().train)
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(x.std((0, 2, 3)), torch.ones(3), atol=1e-5)


def test_it_is_split_the_same_way_always(tmp_path: Path) -> None:
    write_files(tmp_path)
    first = tensors(Cifar10(tmp_path).data().val)
    torch.manual_seed(12345)
    assert torch.equal(first[0], tensors(Cifar10(tmp_path).data().val)[0])


def test_the_folder_is_found_by_the_environment_and_as_the_archive_unpacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path / "cifar10" / "cifar-10-batches-bin")
    monkeypatch.setenv("SCATTERSHOT_DATA", str(tmp_path))
    task = load_task("cifar10", None)
    assert isinstance(task, Cifar10) and "cifar10" in named_tasks()
    assert len(tensors(task.data().test)[0]) == 12


def test_missing_files_are_named_with_the_folder_they_belong_in(tmp_path: Path) -> None:
    write_files(tmp_path)
    for name in NAMES[1:3]:
        (tmp_path / name).unlink()
    with pytest.raises(TaskError) as caught:
        Cifar10(tmp_path).data()
    assert str(caught.value) == (
        "cifar10 needs the files of its binary version, unpacked; data_batch_2.bin, "
        f"data_batch_3.bin not found in {tmp_path}: put them there, or name their folder in "
        "[study] data"
    )


RECORD = bytes([3]) + bytes(3072)


@pytest.mark.parametrize("content", [b"", RECORD[:-1], RECORD + b"x", bytes([10]) + bytes(3072)])
def test_a_file_that_is_not_whole_is_told_by_name(tmp_path: Path, content: bytes) -> None:
    write_files(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(content)
    with pytest.raises(TaskError, match="is not a whole file of CIFAR-10's binary") as caught:
        Cifar10(tmp_path).data()
    assert str(tmp_path / "test_batch.bin") in str(caught.value)


@pytest.mark.parametrize("model", ["linear", "mlp", "cnn", "resnet"])
def test_colours_are_learned_by_each_model(tmp_path: Path, model: str) -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(60, 196, (10, 3))
    for name in NAMES:
        labels = np.arange(40) % 10
        pixels = colours[labels].repeat(32 * 32, 1) + rng.normal(0, 40, (40, 3 * 32 * 32))
        records = np.concatenate([labels[:, None], pixels.clip(0, 255)], 1)
        (tmp_path / name).write_bytes(records.astype(np.uint8).tobytes())
    task = Cifar10(tmp_path)
    data = task.data()
    (x, y), (test_x, test_y) = tensors(data.train), tensors(data.test)
    torch.manual_seed(0)
    network = task.model({"model": model, "channels": 4, "hidden": 32})
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(8):
        for index in torch.randperm(len(x)).split(16):
            optimizer.zero_grad()
            task.loss(network(x[index]), y[index]).backward()
            optimizer.step()
    with torch.no_grad():
        assert task.metrics(network.eval()(test_x), test_y)["accuracy"] > 0.5
