"""The loss of knowledge distillation (Hinton, Vinyals and Dean 2015, arXiv:1503.02531)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F


class Loss(NamedTuple):
    """Scalars: the loss that is minimised and its two parts, unweighted (nats per image).

    Without a teacher kl is 0.
    """

    loss: torch.Tensor
    ce: torch.Tensor
    kl: torch.Tensor


def kd_loss(
    student_logits: torch.Tensor, targets: torch.Tensor, teacher_logits: torch.Tensor, *, T: float, alpha: float
) -> Loss:
    """alpha * CE(student, y) + (1 - alpha) * T^2 * KL(softmax(teacher / T) || softmax(student / T)).

    student_logits, teacher_logits: (B, C), any floating type; targets: (B,) int64 class indices.
    T: temperature, > 0. alpha: weight of the cross-entropy, 0 to 1.
    Computed in fp32 whatever the inputs are (in half precision T^2 * KL at T = 100 is wrong by up to a factor of
    two). The KL divergence is summed over classes and averaged over the batch. No gradient goes to the teacher.
    Raises ValueError for T, alpha or shapes out of range.
    """
    if not (math.isfinite(T) and T > 0):
        raise ValueError(f"T must be a finite number above 0, not {T!r}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha!r}")
    if student_logits.shape != teacher_logits.shape or student_logits.ndim != 2:
        raise ValueError(
            "student and teacher logits must both be (B, C), "
            f"not {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    with torch.autocast(student_logits.device.type, enabled=False):
        student = student_logits.float()
        teacher = teacher_logits.detach().float()
        ce = F.cross_entropy(student, targets)
        kl = F.kl_div(
            F.log_softmax(student / T, dim=1),
            F.log_softmax(teacher / T, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return Loss(alpha * ce + (1 - alpha) * T**2 * kl, ce, kl)


def ce_loss(logits: torch.Tensor, targets: torch.Tensor) -> Loss:
    """Cross-entropy in fp32: training without distillation. Shapes as in kd_loss."""
    with torch.autocast(logits.device.type, enabled=False):
        ce = F.cross_entropy(logits.float(), targets)
    return Loss(ce, ce, torch.zeros_like(ce))
