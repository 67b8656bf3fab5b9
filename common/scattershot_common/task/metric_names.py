"""Names of metrics: which are refused, and which look better when smaller."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

#: Columns of the tables and exports: a metric of such a name would take the place of one.
RESERVED = (
    "epoch",
    "trial",
    "stage",
    "state",
    "reason",
    "params",
    "seed",
    "attempts",
    "worker",
    "epochs",
    "best_value",
    "best_epoch",
    "best_checkpoint",
    "history",
)

#: Words in the names of metrics that are better when smaller, unlike the default goal.
_SMALLER_TEXT = """
    loss losses error errors err errs cost risk regret penalty deviance residual
    mse rmse mae mape smape wape mase msle rmsle mspe rmspe rmsd msd l1 l2 huber hinge pinball crps
    nll nelbo bce ce xent crossentropy kl kld jsd perplexity ppl bpc bpb bpd
    wer cer ter eer fpr fnr misclassification brier ece
    fid kid lpips epe mpjpe chamfer hausdorff distance divergence discrepancy mmd emd wasserstein
    levenshtein latency seconds
"""
_SMALLER = frozenset(_SMALLER_TEXT.split())
#: Endings of such words, as in "valloss" and "nrmse".
_ENDINGS = ("loss", "losses", "error", "err", "mse", "mae")
_NOT_SMALLER = frozenset(("terror", "gloss", "floss"))


@lru_cache(maxsize=4096)
def name_problem(name: object) -> str:
    """Return why nothing may be reported under `name`, or "" if it may.

    >>> name_problem("val/loss"), name_problem("epoch")
    ('', "'epoch' is a column of scattershot's own")
    """
    if not isinstance(name, str):
        return f"{name!r} is not text"
    if not name.strip():
        return f"{name!r} is empty"
    if name in RESERVED:
        return f"{name!r} is a column of scattershot's own"
    if not name.isprintable():
        return f"{name[:60]!r} has characters that are not printable"
    return ""


def looks_smaller(name: str) -> bool:
    """Return whether a metric looks better when smaller, by the words of its name.

    >>> [looks_smaller(name) for name in ("val_loss_ema", "valLoss", "top5_err", "cross-entropy")]
    [True, True, True, True]
    >>> [looks_smaller(name) for name in ("val_accuracy", "val_f1", "terror", "images_per_second")]
    [False, False, False, False]
    """
    separated = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", " ", name).lower()
    words = separated.split()
    if any(pair == ("cross", "entropy") for pair in pairwise(words)):
        return True
    return any(_is_smaller(word) for word in words)


def _is_smaller(word: str) -> bool:
    stem = word.rstrip("0123456789")  # of "loss1", but not of "l1"
    return (
        word in _SMALLER
        or stem in _SMALLER
        or (stem.endswith(_ENDINGS) and stem not in _NOT_SMALLER)
    )
