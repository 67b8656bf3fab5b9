"""Owns the writing of study files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def written(
    tables: Mapping[str, Any], head: Sequence[str] = (), notes: Mapping[str, str] | None = None
) -> str:
    """Return a study file's text: `head` as comments, `notes` behind the keys of [space].

    >>> space = {"lr": {"loguniform": [1e-05, 1.0]}}
    >>> print(written({"space": space}, ["For you."], {"lr": "was 3"}))
    # For you.
    <BLANKLINE>
    [space]
    lr = { loguniform = [1e-05, 1.0] }    # was 3
    <BLANKLINE>
    """
    lines = [f"# {line}".rstrip() for line in head]
    for name, table in tables.items():
        for one in table if isinstance(table, list) else [table]:
            lines += ["", f"[[{name}]]" if isinstance(table, list) else f"[{name}]"]
            lines += _keys(one, notes or {} if name == "space" else {})
    return "\n".join(lines) + "\n"


def _keys(table: Mapping[str, Any], notes: Mapping[str, str]) -> Iterator[str]:
    for key, value in table.items():
        if value is not None:
            note = f"    # {notes[key]}" if key in notes else ""
            yield f"{_key(key)} = {value_text(value)}{note}"


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "_").isidentifier()
    return key if bare else json.dumps(key)


def value_text(value: Any) -> str:
    """Return a value as a study file writes it."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(k)} = {value_text(v)}' for k, v in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    return json.dumps(value)  # TOML's strings, numbers and truth values are JSON's here
