import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Data
from scattershot_common.task.task_names import named_tasks
from scattershot_worker.attempt.task_loader import load_task
from scattershot_worker.tasks import mnist
from scattershot_worker.tasks.digits import Digits
from scattershot_worker.tasks.mnist import FashionMnist, Mnist, find_files, read_idx

NAMES = mnist._FILES
REAL = Path(__file__).parents[4] / "shared" / "data" / "mnist"


def parts(data: Data) -> list[tuple[Tensor, Tensor]]:
    """Return the train, validation and test part."""
    all_parts: Any = [data.train, data.val, data.test]
    return list(all_parts)


# ---- digits


def test_digits_come_in_three_parts_of_fixed_size() -> None:
    shapes = [(tuple(x.shape), tuple(y.shape)) for x, y in parts(Digits().data())]
    assert shapes == [((1077, 64), (1077,)), ((360, 64), (360,)), ((360, 64), (360,))]
    for x, y in parts(Digits().data()):
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert set(y.tolist()) == set(range(10))


def test_the_parts_of_digits_share_no_image_and_leave_none_out() -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    data = parts(Digits().data())
    x, y = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    pixels = ((x - x.min(0).values) * 16).round().to(torch.int64)  # every pixel is 0 somewhere
    rows = sorted(zip(pixels.tolist(), y.tolist(), strict=True))
    lowest = images.min(0)
    assert rows == sorted(zip((images - lowest).astype(int).tolist(), labels.tolist(), strict=True))


def test_digits_are_split_the_same_way_always() -> None:
    first = parts(Digits().data())
    torch.manual_seed(12345)
    second = parts(Digits().data())
    for (x, y), (other_x, other_y) in zip(first, second, strict=True):
        assert torch.equal(x, other_x) and torch.equal(y, other_y)
    assert [y[:8].tolist() for _, y in first] == [
        [6, 8, 6, 3, 0, 1, 8, 2],
        [3, 1, 9, 3, 7, 3, 9, 3],
        [5, 5, 4, 4, 8, 6, 9, 7],
    ]


def test_digits_are_centred_by_the_training_part_alone() -> None:
    (train, _), (val, _), _ = parts(Digits().data())
    assert torch.allclose(train.mean(0), torch.zeros(64), atol=1e-5)
    assert val.mean(0).abs().max() > 1e-3


def test_the_digits_model_fits_its_data() -> None:
    (x, _), _, _ = parts(Digits().data())
    assert Digits().model({"hidden": 16, "layers": 2, "dropout": 0.5})(x[:5]).shape == (5, 10)


# ---- mnist


def idx(array: np.ndarray) -> bytes:
    """Return an IDX file of bytes."""
    shape = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes()


Pack = Callable[[str, bytes], tuple[str, bytes]]
PACKINGS: dict[str, Pack] = {
    "plain": lambda name, data: (name, data),
    "gz": lambda name, data: (f"{name}.gz", gzip.compress(data)),
    "with a dot": lambda name, data: (name.replace("-idx", ".idx"), data),
}


def write_files(folder: Path, pack: Pack = PACKINGS["plain"]) -> None:
    """Write 40 training and 12 test images of 2×2 pixels; image i is all i, labelled i % 10."""
    folder.mkdir(parents=True, exist_ok=True)
    for at, (first, count) in enumerate([(0, 40), (100, 12)]):
        numbers = np.arange(first, first + count)
        images = np.broadcast_to(numbers[:, None, None], (count, 2, 2))
        for name, array in zip(NAMES[2 * at :], (images, numbers % 10), strict=False):
            packed_name, packed = pack(name, idx(array))
            (folder / packed_name).write_bytes(packed)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "_VAL", 10)


@pytest.mark.usefixtures("few")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("packing", PACKINGS)
def test_mnist_is_read_from_its_original_files(tmp_path: Path, packing: str) -> None:
    write_files(tmp_path, PACKINGS[packing])
    train, val, test = parts(Mnist(tmp_path).data())
    assert [tuple(x.shape) for x, _ in (train, val, test)] == [(30, 4), (10, 4), (12, 4)]
    # pixels were scaled by one line: two known images give its slope
    slope = (test[0][11, 0] - test[0][0, 0]) / 11
    for x, y in (train, val, test):
        numbers = ((x[:, 0] - test[0][0, 0]) / slope + 100).round().to(torch.int64)
        assert torch.equal(numbers % 10, y)
    images = torch.cat([train[0], val[0]])[:, 0]
    assert len(images.unique()) == 40, "no image is in two parts"
    assert train[0].mean().abs() < 1e-5
    assert train[0].std().item() == pytest.approx(1)


@pytest.mark.usefixtures("few")
def test_mnist_is_split_the_same_way_always(tmp_path: Path) -> None:
    write_files(tmp_path)
    first = parts(Mnist(tmp_path).data())
    torch.manual_seed(12345)
    second = parts(FashionMnist(tmp_path).data())
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("task", [Mnist, FashionMnist])
def test_without_a_folder_the_environment_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: type[Mnist]
) -> None:
    write_files(tmp_path / task.name)
    monkeypatch.setenv("SCATTERSHOT_DATA", str(tmp_path))
    assert len(parts(task().data())[2][0]) == 12
    assert named_tasks()[task.name].endswith(task.__name__)


@pytest.mark.parametrize("task", [Mnist, FashionMnist])
def test_missing_files_are_named_with_the_folder_they_belong_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: type[Mnist]
) -> None:
    monkeypatch.delenv("SCATTERSHOT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError) as caught:
        task().data()
    message = str(caught.value)
    assert message.startswith(f"{task.name} needs its original IDX files; ")
    assert all(f"{name}[.gz]" in message for name in NAMES)
    assert f"not found in {tmp_path / 'data' / task.name}: " in message
    assert "[study] data" in message


def test_only_the_missing_files_are_named(tmp_path: Path) -> None:
    write_files(tmp_path)
    (tmp_path / NAMES[3]).unlink()
    with pytest.raises(TaskError) as caught:
        find_files("mnist", tmp_path)
    assert [name in str(caught.value) for name in NAMES] == [False, False, False, True]


GOOD = idx(np.arange(24).reshape(6, 2, 2))
PACKED = gzip.compress(GOOD)


BAD = {
    "empty": b"",
    "truncated": GOOD[:-1],
    "cut in its header": GOOD[:9],
    "too long": GOOD + b"x",
    "of another type": GOOD[:2] + b"\x0d" + GOOD[3:],
    "a web page": b"<html>404</html>",
    "truncated.gz": PACKED[:-9],
    "altered.gz": PACKED[:14] + bytes([PACKED[14] ^ 255]) + PACKED[15:],
    "not packed.gz": GOOD,
    "empty.gz": b"",
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_not_whole_is_told_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BAD[name])
    with pytest.raises(TaskError, match=r"is not a whole IDX file .*; fetch it again") as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_a_whole_file_is_read_as_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(PACKED if name.endswith("gz") else GOOD)
    assert read_idx(path).tolist() == np.arange(24).reshape(6, 2, 2).tolist()


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no MNIST in {REAL}")
def test_the_real_mnist_is_whole_and_well_split() -> None:
    task = load_task("mnist", str(REAL))
    assert isinstance(task, Mnist)
    (x, y), (val_x, val_y), (test_x, test_y) = parts(task.data())
    assert [inputs.shape for inputs in (x, val_x, test_x)] == [
        (50000, 784),
        (10000, 784),
        (10000, 784),
    ]
    assert x[:5000].mean().abs() < 0.02 and abs(x[:5000].std() - 1) < 0.02
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert (y.bincount() + val_y.bincount()).tolist() == counts
    assert test_y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (val_y.bincount() - 1000).abs().max() < 200, "every class is in the validation part"
    model = task.model({"layers": 0})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for index in torch.arange(20_000).split(250):
        optimizer.zero_grad()
        task.loss(model(x[index]), y[index]).backward()
        optimizer.step()
    with torch.no_grad():
        assert task.metrics(model(val_x), val_y)["accuracy"] > 0.85


def test_digits_are_those_of_scikit_learn_though_it_is_not_imported() -> None:
    from sklearn.datasets import load_digits

    from scattershot_worker.tasks import digits

    images, labels = load_digits(return_X_y=True)
    read = digits._digits()
    assert (read[0] == images).all() and (read[1] == labels).all()
    code = "import sys; from scattershot_worker.tasks import digits; digits._digits(); "
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit('sklearn' in sys.modules)"], check=False
    )
    assert done.returncode == 0
