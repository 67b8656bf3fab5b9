"""The arrows of the house: between the wings, and between the rooms of each."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from support.import_graph import WINGS, circle, floors, graph, rooms, sources, strings, wing

#: What each wing may import besides itself.
ALLOWED = {
    "scattershot": {"scattershot_common"},
    "scattershot_common": set(),
    "scattershot_master": {"scattershot_common"},
    "scattershot_worker": {"scattershot_common"},
}


def test_every_import_goes_from_a_wing_to_one_it_stands_on() -> None:
    wrong = [
        f"{module} -> {target}"
        for module, targets in graph().items()
        for target in targets
        if wing(target) not in {wing(module), *ALLOWED[wing(module)]}
    ]
    assert not wrong


def test_no_string_names_a_module_of_another_wing() -> None:
    """Entry points do that; the public names are found in common, below."""
    name = re.compile(r"\bscattershot_(?:master|worker|common)\b|\bscattershot\.check\b")
    wrong = [
        f"{module}: {text}"
        for module in sources()
        for text in strings(module)
        for named in name.findall(text)
        if wing(named) != wing(module)
        and (wing(module), wing(named)) != ("scattershot", "scattershot_common")
    ]
    assert not wrong


def test_what_never_imports_torch() -> None:
    """In a fresh interpreter; the supervisor, the commands and the master's machine have no use."""
    light = [
        module
        for module in sources()
        if not module.endswith("__main__")
        and (
            wing(module) != "scattershot_worker"
            or module.startswith("scattershot_worker.supervisor")
            or module in ("scattershot_worker.cli", "scattershot_worker.child_settings")
        )
    ]
    assert {wing(module) for module in light} == {*WINGS.values()}
    program = "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    program += "print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, *light], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_the_supervisor_stands_apart_from_what_trains() -> None:
    apart = {"scattershot_worker.supervisor", "scattershot_worker.cli"}
    light = {"scattershot_worker.child_messages", "scattershot_worker.child_settings"}
    wrong = [
        f"{module} -> {target}"
        for module, targets in graph().items()
        for target in targets
        if ".".join(module.split(".")[:2]) in apart
        and target.startswith("scattershot_worker.")
        and ".".join(target.split(".")[:2]) not in apart | light
    ]
    assert not wrong


def test_no_module_imports_itself_in_a_circle() -> None:
    assert not circle(graph())


@pytest.mark.parametrize("package", WINGS.values())
def test_no_room_imports_itself_in_a_circle(package: str) -> None:
    assert not circle(rooms(package))


@pytest.mark.parametrize(
    ("package", "most_rooms", "most_floors"),
    [
        ("scattershot_common", 14, 5),
        ("scattershot_master", 17, 6),
        ("scattershot_worker", 14, 5),
    ],
)
def test_a_wing_has_few_rooms_on_few_floors(
    package: str, most_rooms: int, most_floors: int
) -> None:
    edges = rooms(package)
    assert len(edges) <= most_rooms
    assert len(floors(edges)) <= most_floors
