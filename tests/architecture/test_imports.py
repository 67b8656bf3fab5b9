"""The arrows of the house: between the wings, and between the rooms of each."""

from __future__ import annotations

import re
import subprocess
import sys

from support.import_graph import WINGS, graph, sources, strings, wing

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
