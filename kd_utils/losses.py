"""The loss of knowledge distillation (Hinton, Vinyals and Dean 2015, arXiv:1503.02531)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F


class Loss(NamedTuple):
    """Scalars: the loss that is minimised, its two parts, unweighted (nats per image), and how hard each pulls.

    ce_grad, kl_grad: the mean over the batch's images of the L2 norm of the gradient of CE and of T^2 KL, without
    alpha, with respect to an image's logits; NaN where the logits ask for no gradient. Without a teacher kl and
    kl_grad are 0.
    """

    loss: torch.Tensor
    ce: torch.Tensor
    kl: torch.Tensor
    ce_grad: torch.Tensor
    kl_grad: torch.Tensor


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
        pull = _pull(ce, student), T**2 * _pull(kl, student)
        return Loss(alpha * ce + (1 - alpha) * T**2 * kl, ce, kl, *pull)


def ce_loss(logits: torch.Tensor, targets: torch.Tensor) -> Loss:
    """Cross-entropy in fp32: training without distillation. Shapes as in kd_loss."""
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        ce = F.cross_entropy(logits, targets)
        none = torch.zeros_like(ce)
        return Loss(ce, ce, none, _pull(ce, logits), none)


def _pull(part: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Mean over images of the gradient's norm; part is a mean over the batch, so an image has a B-th of it."""
    if not logits.requires_grad:
        return torch.full_like(part, math.nan)
    (gradient,) = torch.autograd.grad(part, logits, retain_graph=True)
    return gradient.norm(dim=1).sum()
