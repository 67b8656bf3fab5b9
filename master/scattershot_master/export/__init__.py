"""Export of a study for other programs: the table of formats, by the suffix of the file written."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scattershot_master.export.csv_format import csv_export
from scattershot_master.export.json_format import json_export
from scattershot_master.state.study_state import StudyState


class ExportFormat(NamedTuple):
    """A format: `write` takes the study, its folder and whether the history is asked for.

    `whole`: a file has everything in it, so there is no file of the history alone.
    """

    write: Callable[[StudyState, Path, bool], bytes]
    whole: bool = False


FORMATS: dict[str, ExportFormat] = {
    ".csv": ExportFormat(csv_export),
    ".json": ExportFormat(json_export, whole=True),
}
