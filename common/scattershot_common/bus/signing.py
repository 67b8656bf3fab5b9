"""The cluster's secret: the master signs what it sends, and workers verify it (HMAC-SHA256).

Whoever can write to Redis can put anything on the queue. With a secret set on the master and the
workers, a worker trains only what the master has signed.
"""

from __future__ import annotations

import hmac
import os

#: The environment variable that holds the secret, on the master and on every worker.
SECRET_VARIABLE = "SCATTERSHOT_SECRET"


def secret() -> str:
    """Return the cluster's secret; "" if none is set."""
    return os.environ.get(SECRET_VARIABLE, "")


def sign(text: str, key: str) -> str:
    """Return the HMAC-SHA256 of `text` in hexadecimal; "" without a key.

    >>> sign("trial", "") == "", len(sign("trial", "secret"))
    (True, 64)
    """
    return hmac.new(key.encode(), text.encode(), "sha256").hexdigest() if key else ""


def verify(text: str, mac: str, key: str) -> bool:
    """Return whether `mac` is the key's HMAC of `text`; any is where no key is set."""
    return not key or hmac.compare_digest(sign(text, key), mac)
