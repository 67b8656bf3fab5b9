"""The names of everything scattershot keeps in Redis (`ss:…`; RQ's own keys are `rq:…`)."""

from __future__ import annotations

import re
from hashlib import blake2b

#: The one RQ queue all workers take trials from.
QUEUE = "scattershot"
#: Hash: worker name → its last heartbeat (JSON).
WORKERS = "ss:workers"


class Keys:
    """The keys of one study.

    >>> Keys("digits").trial(17)
    'ss:digits:t:17'
    """

    def __init__(self, study: str) -> None:
        self.study = study
        self.info = f"ss:{study}:study"
        self.master = f"ss:{study}:master"
        self.running = f"ss:{study}:running"
        self.events = f"ss:{study}:events"
        self.kinds = f"ss:{study}:kinds"
        self.packs = f"ss:{study}:packs"
        self.prefix = f"ss:{study}:t:"

    def trial(self, number: int) -> str:
        """Return the key of a trial's hash."""
        return f"{self.prefix}{number}"


def job_id(study: str, trial: int, attempt: int) -> str:
    """Return the RQ job id of one attempt; RQ allows letters, digits, `_` and `-` only.

    >>> job_id("digits_v2", 17, 1)
    'digits_v2-17-a1'
    >>> job_id("digits.v2", 17, 1)
    'digits_v2-6d914c81-17-a1'
    """
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", study)
    if safe != study:  # two studies may differ in such a character alone
        safe += "-" + blake2b(study.encode(), digest_size=4).hexdigest()
    return f"{safe}-{trial}-a{attempt}"


def trial_of(job: str, study: str) -> int | None:
    """Return which trial of `study` a job id stands for; None if it is none of its jobs.

    >>> trial_of("digits_v2-17-a1", "digits_v2"), trial_of("digits_v2-17-a1", "digits")
    (17, None)
    """
    number = job.rpartition("-a")[0].rpartition("-")[2]
    if number.isdecimal() and job.startswith(job_id(study, int(number), 0)[:-1]):
        return int(number)
    return None
