"""Names of metrics: what is refused, and what is taken for a loss."""

from __future__ import annotations

import pytest

from scattershot_common.task.metric_names import RESERVED, looks_smaller, name_problem

LOSSES = """
    loss val_loss val_loss_ema val_rmse_ema val_mae_ema val_loss/total loss_val loss_epoch val/loss
    error_rate val_error_rate val_err val_perplexity val_ppl val_nll val_bce val_cross_entropy
    val-cross-entropy val.crossentropy val_wer val_cer val_mape val_rmsle val_l1 fid valLoss RMSE
    mean_squared_error MSELoss loss1 top5_err errors nrmse log_loss huber brier_score kl_divergence
    chamfer_distance val_bpc latency
"""
SCORES = """
    accuracy val_accuracy f1 val_f1 auc r2 val_r2 precision recall bleu iou val_dice terror mirror
    lossless glossary top5 val_accuracy_ema map ndcg psnr ssim images_per_second reward score
    val_percent correlation
"""


@pytest.mark.parametrize("name", LOSSES.split())
def test_losses_under_their_usual_names_look_better_when_smaller(name: str) -> None:
    assert looks_smaller(name)


@pytest.mark.parametrize("name", SCORES.split())
def test_scores_do_not(name: str) -> None:
    assert not looks_smaller(name)


@pytest.mark.parametrize("name", [*RESERVED, "", " ", "a\nb", "a\0", "a\u202eb", "\ud800", 3, None])
def test_these_names_are_refused(name: object) -> None:
    assert name_problem(name)


@pytest.mark.parametrize(
    "name", [*LOSSES.split(), *SCORES.split(), "seconds", "val/loss x", "größe", "Epoch"]
)
def test_other_names_are_not(name: str) -> None:
    assert name_problem(name) == ""
