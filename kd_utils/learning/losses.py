"""The loss of knowledge distillation (Hinton, Vinyals and Dean 2015, arXiv:1503.02531), and those set beside it.

All are called alike, loss(student_logits, targets, teacher_logits, T=, alpha=, and its own weights), and leave aside
what they do not need: a loss without a teacher takes None for its logits. Their rows are in methods.py.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .. import methods


class Loss(NamedTuple):
    """Scalars, means over the batch's images: the loss that is minimised, its two parts and their gradients' norms.

    ce: the cross-entropy, nats. distillation: what is learned from the teacher, unweighted and without T^2: in plain
    distillation the KL divergence, nats. ce_grad, distillation_grad: the mean L2 norm of the gradient of the
    cross-entropy and of the distillation part, T^2 included and alpha not, with respect to an image's logits; NaN
    where the logits ask for no gradient. Without distillation both of its scalars are 0.
    """

    loss: torch.Tensor
    ce: torch.Tensor
    distillation: torch.Tensor
    ce_grad: torch.Tensor
    distillation_grad: torch.Tensor


# what a record's history calls these parts: the first records knew plain distillation only
HISTORY_COLUMNS = {"distillation": "kl", "distillation_grad": "kl_grad"}


def of(
    name: str, *, T: float | None, alpha: float, **weights: float
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], Loss]:
    """The loss of a cell: loss(student_logits, targets, teacher_logits or None).

    name: of a row in methods.py. T: temperature, of no effect where the row has none. alpha: weight of the
    cross-entropy. weights: those of the row that differ from their defaults. Raises KeyError for no row's name.
    """
    teaching = methods.TEACHINGS[name]
    return partial(globals()[teaching.loss], T=T, alpha=alpha, **{**teaching.weights, **weights})


def kd_loss(
    student_logits: torch.Tensor, targets: torch.Tensor, teacher_logits: torch.Tensor | None, *, T: float, alpha: float
) -> Loss:
    """alpha * CE(student, y) + (1 - alpha) * T^2 * KL(softmax(teacher / T) || softmax(student / T)).

    student_logits, teacher_logits: (B, C), any floating type; targets: (B,) int64 class indices.
    T: temperature, > 0. alpha: weight of the cross-entropy, 0 to 1.
    Computed in fp32 whatever the inputs are (in half precision T^2 * KL at T = 100 is wrong by up to a factor of
    two). The KL divergence is summed over classes and averaged over the batch. No gradient goes to the teacher.
    Raises ValueError for T, alpha or shapes out of range, and without the teacher's logits.
    """
    return _mixed(student_logits, targets, teacher_logits, T, alpha, T**2, lambda s, t: _kl(s / T, t / T))


def dkd_loss(
    student_logits: torch.Tensor,
    targets: torch.Tensor,
    teacher_logits: torch.Tensor | None,
    *,
    T: float,
    alpha: float,
    target: float,
    nontarget: float,
) -> Loss:
    """Decoupled distillation: alpha * CE + (1 - alpha) * T^2 * (target * TCKD + nontarget * NCKD).

    TCKD: KL divergence between teacher's and student's two probabilities, of the target class and of all others
    together. NCKD: that between their softmax over the other classes alone. KL = TCKD + (1 - p) NCKD, p the teacher's
    probability of the target class: plain distillation weighs what the teacher knows of other classes down where it
    is sure. Shapes, errors and precision as in kd_loss.
    Zhao et al. 2022, arXiv:2203.08679; its weights alpha and beta are called target and nontarget here.
    """

    def decoupled(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        is_target = F.one_hot(targets, student.shape[1]).bool()
        binary = [_target_and_others(x / T, is_target) for x in (student, teacher)]
        others = [(x / T)[~is_target].view(len(x), -1) for x in (student, teacher)]
        return target * _kl(*binary) + nontarget * _kl(*others)

    return _mixed(student_logits, targets, teacher_logits, T, alpha, T**2, decoupled)


def standardised_kd_loss(
    student_logits: torch.Tensor, targets: torch.Tensor, teacher_logits: torch.Tensor | None, *, T: float, alpha: float
) -> Loss:
    """kd_loss with each image's logits brought to mean 0 and standard deviation 1 over classes in the KL part.

    So the student need not match the scale of the teacher's logits; T is the temperature after that.
    Shapes, errors and precision as in kd_loss. Sun et al. 2024, arXiv:2403.01427.
    """

    def standardised(logits: torch.Tensor) -> torch.Tensor:
        centred = logits - logits.mean(dim=1, keepdim=True)
        return centred / (logits.std(dim=1, correction=0, keepdim=True) + 1e-7)

    def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return _kl(standardised(student) / T, standardised(teacher) / T)

    return _mixed(student_logits, targets, teacher_logits, T, alpha, T**2, divergence)


def dist_loss(
    student_logits: torch.Tensor,
    targets: torch.Tensor,
    teacher_logits: torch.Tensor | None,
    *,
    T: float,
    alpha: float,
    inter: float,
    intra: float,
) -> Loss:
    """DIST: alpha * CE + (1 - alpha) * (inter * d(rows) + intra * d(columns)), d = 1 - mean Pearson correlation.

    The correlations are those between teacher's and student's probabilities at temperature T: of each image over the
    classes (rows) and of each class over the batch's images (columns). There is no T^2, as in the paper: a
    correlation does not fade as T grows. Shapes, errors and precision as in kd_loss; the distillation part is the
    weighted sum of both d.
    Huang et al. 2022, arXiv:2205.10536; its weights beta and gamma are called inter and intra here.
    """

    def distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        q, p = F.softmax(student / T, dim=1), F.softmax(teacher / T, dim=1)
        return inter * (1 - _pearson(q, p).mean()) + intra * (1 - _pearson(q.T, p.T).mean())

    return _mixed(student_logits, targets, teacher_logits, T, alpha, 1.0, distance)


def mse_loss(
    student_logits: torch.Tensor,
    targets: torch.Tensor,
    teacher_logits: torch.Tensor | None,
    *,
    T: float | None = None,
    alpha: float,
) -> Loss:
    """alpha * CE + (1 - alpha) * sum over classes of (student - teacher)^2 / (2 C), of the logits as they are.

    With d = student - teacher and m the mean of d over classes, T^2 * KL tends to the sum of (d - m)^2 / (2 C) as T
    grows, and this loss is that limit plus m^2 / 2: softmax knows no shift of all logits of an image, the squared
    difference does. The factor 1 / (2 C) keeps alpha's meaning; the paper has the sum alone, 2 C times as much.
    T is left aside. Shapes, errors and precision as in kd_loss. Kim et al. 2021, arXiv:2105.08919.
    """
    return _mixed(student_logits, targets, teacher_logits, 1.0, alpha, 1.0, lambda s, t: F.mse_loss(s, t) / 2)


def permuted_kd_loss(
    student_logits: torch.Tensor, targets: torch.Tensor, teacher_logits: torch.Tensor | None, *, T: float, alpha: float
) -> Loss:
    """kd_loss with the teacher's logits of all classes but the target's permuted, for each image anew.

    How sure the teacher is, and of what entropy its probabilities are, stays; which classes it takes for alike does
    not. The permutation is drawn for a place in the batch, and batches are shuffled: an image meets another one in each
    epoch. Shapes, errors and precision as in kd_loss. Furlanello et al. 2018, arXiv:1805.04770, there with the
    teacher's first class in place of the target.
    """

    def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return _kl(student / T, _permuted(teacher, targets) / T)

    return _mixed(student_logits, targets, teacher_logits, T, alpha, T**2, divergence)


def label_smoothing_loss(
    student_logits: torch.Tensor,
    targets: torch.Tensor,
    teacher_logits: torch.Tensor | None = None,
    *,
    T: float | None = None,
    alpha: float,
) -> Loss:
    """alpha * CE(y) + (1 - alpha) * CE(uniform): label smoothing by 1 - alpha, teaching without a teacher.

    teacher_logits and T are left aside. The distillation part is KL(uniform || softmax), which is CE(uniform) - log C.
    Shapes, errors and precision as in kd_loss. Szegedy et al. 2016, arXiv:1512.00567.
    """
    uniform = torch.zeros_like(student_logits)
    divergence = _mixed(student_logits, targets, uniform, 1.0, alpha, 1.0, _kl)
    return divergence._replace(loss=divergence.loss + (1 - alpha) * math.log(student_logits.shape[1]))


def ce_loss(
    student_logits: torch.Tensor,
    targets: torch.Tensor,
    teacher_logits: torch.Tensor | None = None,
    *,
    T: float | None = None,
    alpha: float = 1.0,
) -> Loss:
    """Cross-entropy in fp32: training without distillation. The rest is left aside; shapes as in kd_loss."""
    with torch.autocast(student_logits.device.type, enabled=False):
        logits = student_logits.float()
        ce = F.cross_entropy(logits, targets)
        none = torch.zeros_like(ce)
        return Loss(ce, ce, none, _gradient_norm(ce, logits), none)


def _mixed(
    student_logits: torch.Tensor,
    targets: torch.Tensor,
    teacher_logits: torch.Tensor | None,
    T: float,
    alpha: float,
    scale: float,
    part: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Loss:
    """alpha * CE + (1 - alpha) * scale * part(student, teacher), in fp32, inputs checked."""
    if teacher_logits is None:
        raise ValueError("this loss needs the teacher's logits")
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
        ce = F.cross_entropy(student, targets)
        distillation = part(student, teacher_logits.detach().float())
        return Loss(
            loss=alpha * ce + (1 - alpha) * scale * distillation,
            ce=ce,
            distillation=distillation,
            ce_grad=_gradient_norm(ce, student),
            distillation_grad=scale * _gradient_norm(distillation, student),
        )


def _kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(softmax(teacher) || softmax(student)), summed over classes, averaged over the batch."""
    return F.kl_div(
        F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1), reduction="batchmean", log_target=True
    )


def _permuted(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Logits, (B, C), with those of all classes but the target's in another order, one an image.

    The orders are drawn from torch's generator of the CPU, which training seeds for each epoch.
    """
    batch, classes = logits.shape
    others = ~F.one_hot(targets, classes).bool()
    order = torch.rand(batch, classes - 1, device="cpu").argsort(dim=1).to(logits.device)
    permuted = logits.clone()
    permuted[others] = logits[others].view(batch, -1).gather(1, order).flatten()
    return permuted


def _target_and_others(logits: torch.Tensor, is_target: torch.Tensor) -> torch.Tensor:
    """Two logits an image, (B, 2): of its target class, and of all other classes together; is_target: (B, C) bool."""
    return torch.stack([logits[is_target], logits.masked_fill(is_target, -math.inf).logsumexp(dim=1)], dim=1)


def _pearson(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of each row of a with that row of b: (N, K) and (N, K) -> (N,)."""
    a, b = (x - x.mean(dim=1, keepdim=True) for x in (a, b))
    return F.cosine_similarity(a, b, dim=1, eps=1e-8)


def _gradient_norm(part: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """The L2 norm of the gradient of a part of the loss with respect to an image's logits, mean over the images.

    The part is a mean over the batch, so each of the B images has a B-th of the gradient: their norms are summed.
    """
    if not logits.requires_grad:
        return torch.full_like(part, math.nan)
    (gradient,) = torch.autograd.grad(part, logits, retain_graph=True)
    return gradient.norm(dim=1).sum()
