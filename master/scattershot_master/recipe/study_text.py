"""Writing of study files: tables as TOML, with comments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tomlkit.items import Item, Table

Tables = Mapping[str, Any]


def study_text(
    tables: Tables, head: Sequence[str] = (), notes: Mapping[str, str] | None = None
) -> str:
    """Return a study file's text: `head` as comments, `notes` behind the keys of [space].

    >>> space = {"lr": {"loguniform": [1e-05, 1.0]}}
    >>> print(study_text({"space": space}, ["For you."], {"lr": "was 3"}))
    # For you.
    <BLANKLINE>
    [space]
    lr = {loguniform = [1e-05, 1.0]}    # was 3
    <BLANKLINE>
    """
    import tomlkit  # no other command needs it

    document = tomlkit.document()
    for comment in head:
        document.add(tomlkit.comment(comment))
    for name, content in tables.items():
        if isinstance(content, list):
            entries = tomlkit.aot()
            for entry in content:
                entries.append(_table(entry))
            document.add(name, entries)
        else:
            document.add(name, _table(content, (notes or {}) if name == "space" else {}))
    return tomlkit.dumps(document)


def value_text(value: Any) -> str:
    """Return a value as a study file writes it.

    >>> value_text({"choice": ["sgd", True]}), value_text("adamw")
    ('{choice = ["sgd", true]}', '"adamw"')
    """
    return _item(value).as_string()


def _table(content: Tables, notes: Mapping[str, str] | None = None) -> Table:
    """Return a table of values, each on a line with its note; None stands for no value."""
    import tomlkit

    table = tomlkit.table()
    table.trivia.indent = "\n"
    for key, value in content.items():
        if value is None:
            continue
        item = _item(value)
        if notes and key in notes:
            item.comment(notes[key])
            item.trivia.comment_ws = "    "
        table.add(key, item)
    return table


def _item(value: Any) -> Item:
    """Return a value as tomlkit writes it on one line: what is nested becomes inline tables."""
    import tomlkit

    if isinstance(value, Mapping):
        inline = tomlkit.inline_table()
        inline.update({key: _item(entry) for key, entry in value.items()})
        return inline
    if isinstance(value, list | tuple):
        array = tomlkit.array()
        array.extend([_item(entry) for entry in value])
        return array
    item: Item = tomlkit.item(value)
    return item
