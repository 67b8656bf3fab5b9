"""Owns the cluster's secret: what the master signs, and how a worker tells that it did.

Whoever can write to Redis can put anything on the queue. With a secret set on the master and the
workers, a worker trains only what carries the master's signature.
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


def fits(text: str, signature: str, key: str) -> bool:
    """Return whether `signature` is the key's on `text`; anything fits where no key is set."""
    return not key or hmac.compare_digest(sign(text, key), signature)
