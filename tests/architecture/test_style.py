"""What every module keeps to, beyond what the linters see."""

from __future__ import annotations

import ast

import pytest

from support.import_graph import parsed, sources


@pytest.mark.parametrize("module", sources())
def test_a_module_says_what_it_is_and_stays_short(module: str) -> None:
    first = (ast.get_docstring(parsed(module)) or "").partition("\n")[0]
    assert first and not first.startswith("Owns")
    assert len(sources()[module].read_text().splitlines()) <= 350
