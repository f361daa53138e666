"""The loss of knowledge distillation (Hinton, Vinyals and Dean 2015, arXiv:1503.02531), and those set beside it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F


class Loss(NamedTuple):
    """Scalars: the loss that is minimised, its two parts, unweighted (nats per image), and how hard each pulls.

    kl: the teacher's part, which is the KL divergence in plain distillation. ce_grad, kl_grad: the mean over the
    batch's images of the L2 norm of the gradient of CE and of the teacher's part, T^2 included and alpha not, with
    respect to an image's logits; NaN where the logits ask for no gradient. Without a teacher kl and kl_grad are 0.
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
    return _mixed(student_logits, targets, teacher_logits, T, alpha, T**2, lambda s, t: _kl(s / T, t / T))


def dkd_loss(
    student_logits: torch.Tensor,
    targets: torch.Tensor,
    teacher_logits: torch.Tensor,
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

    def term(student, teacher):
        own = F.one_hot(targets, student.shape[1]).bool()
        binary = [torch.stack(_own_and_others(x / T, own), dim=1) for x in (student, teacher)]
        rest = [(x / T)[~own].view(len(x), -1) for x in (student, teacher)]
        return target * _kl(*binary) + nontarget * _kl(*rest)

    return _mixed(student_logits, targets, teacher_logits, T, alpha, T**2, term)


def standardised_kd_loss(
    student_logits: torch.Tensor, targets: torch.Tensor, teacher_logits: torch.Tensor, *, T: float, alpha: float
) -> Loss:
    """kd_loss with each image's logits brought to mean 0 and standard deviation 1 over classes in the KL part.

    So the student need not match the scale of the teacher's logits; T is the temperature after that.
    Shapes, errors and precision as in kd_loss. Sun et al. 2024, arXiv:2403.01427.
    """

    def z(x):
        return (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, correction=0, keepdim=True) + 1e-7)

    return _mixed(student_logits, targets, teacher_logits, T, alpha, T**2, lambda s, t: _kl(z(s) / T, z(t) / T))


def dist_loss(
    student_logits: torch.Tensor,
    targets: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    T: float,
    alpha: float,
    inter: float,
    intra: float,
) -> Loss:
    """DIST: alpha * CE + (1 - alpha) * (inter * d(rows) + intra * d(columns)), d = 1 - mean Pearson correlation.

    The correlations are those between teacher's and student's probabilities at temperature T: of each image over the
    classes (rows) and of each class over the batch's images (columns). There is no T^2, as in the paper: a
    correlation does not fade as T grows. Shapes, errors and precision as in kd_loss; `kl` is the weighted sum of d.
    Huang et al. 2022, arXiv:2205.10536; its weights beta and gamma are called inter and intra here.
    """

    def term(student, teacher):
        q, p = F.softmax(student / T, dim=1), F.softmax(teacher / T, dim=1)
        return inter * (1 - _pearson(q, p).mean()) + intra * (1 - _pearson(q.T, p.T).mean())

    return _mixed(student_logits, targets, teacher_logits, T, alpha, 1.0, term)


def label_smoothing_loss(logits: torch.Tensor, targets: torch.Tensor, *, alpha: float) -> Loss:
    """alpha * CE(y) + (1 - alpha) * CE(uniform): label smoothing by 1 - alpha, teaching without a teacher.

    logits: (B, C); targets: (B,) int64. `kl` is KL(uniform || softmax), which is CE(uniform) - log C.
    Precision and errors as in kd_loss. Szegedy et al. 2016, arXiv:1512.00567.
    """
    uniform = torch.zeros_like(logits)
    found = _mixed(logits, targets, uniform, 1.0, alpha, 1.0, _kl)
    return found._replace(loss=found.loss + (1 - alpha) * math.log(logits.shape[1]))


def ce_loss(logits: torch.Tensor, targets: torch.Tensor) -> Loss:
    """Cross-entropy in fp32: training without distillation. Shapes as in kd_loss."""
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        ce = F.cross_entropy(logits, targets)
        none = torch.zeros_like(ce)
        return Loss(ce, ce, none, _pull(ce, logits), none)


def _mixed(
    student_logits: torch.Tensor,
    targets: torch.Tensor,
    teacher_logits: torch.Tensor,
    T: float,
    alpha: float,
    scale: float,
    term: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Loss:
    """alpha * CE + (1 - alpha) * scale * term(student, teacher), in fp32, inputs checked."""
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
        part = term(student, teacher_logits.detach().float())
        pull = _pull(ce, student), scale * _pull(part, student)
        return Loss(alpha * ce + (1 - alpha) * scale * part, ce, part, *pull)


def _kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL(softmax(teacher) || softmax(student)), summed over classes, averaged over the batch."""
    return F.kl_div(
        F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1), reduction="batchmean", log_target=True
    )


def _own_and_others(logits: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two logits an image: of its own class, and of all other classes together."""
    return logits[own], logits.masked_fill(own, -math.inf).logsumexp(dim=1)


def _pearson(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of each row of a with that row of b."""
    a, b = (x - x.mean(dim=1, keepdim=True) for x in (a, b))
    return F.cosine_similarity(a, b, dim=1, eps=1e-8)


def _pull(part: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Mean over images of the gradient's norm; part is a mean over the batch, so an image has a B-th of it."""
    if not logits.requires_grad:
        return torch.full_like(part, math.nan)
    (gradient,) = torch.autograd.grad(part, logits, retain_graph=True)
    return gradient.norm(dim=1).sum()
