import inspect
import itertools
import json
import math

import numpy as np
import pytest
import torch

from kd_utils import methods
from kd_utils.learning import losses
from kd_utils.learning.losses import (
    ce_loss,
    dist_loss,
    dkd_loss,
    kd_loss,
    label_smoothing_loss,
    mse_loss,
    permuted_kd_loss,
    standardised_kd_loss,
)

pytestmark = pytest.mark.numeric


def by_hand(student, targets, teacher, T, alpha):
    """The formula of the study in float64 with Python's own arithmetic."""

    def softmax(row, T):
        shifted = [float(x) / T - max(float(y) for y in row) / T for x in row]
        total = math.fsum(math.exp(x) for x in shifted)
        return [math.exp(x) / total for x in shifted]

    ce = kl = 0.0
    for s, y, t in zip(student, targets, teacher, strict=True):
        ce -= math.log(softmax(s, 1)[int(y)])
        p, q = softmax(t, T), softmax(s, T)
        kl += math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    ce, kl = ce / len(student), kl / len(student)
    return alpha * ce + (1 - alpha) * T**2 * kl, ce, kl


def example(classes=20, batch=7, seed=0):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, 3, (2, batch, classes))
    return torch.tensor(student), torch.tensor(rng.integers(0, classes, batch)), torch.tensor(teacher)


@pytest.mark.parametrize("T", [0.5, 1, 2, 4, 10, 20, 100])
@pytest.mark.parametrize("alpha", [0, 0.1, 0.5, 0.9, 1])
def test_equals_the_formula(T, alpha):
    """But for what fp32 rounds: some 1e-7 of the KL divergence, and T^2 times as much of the loss."""
    student, targets, teacher = example()
    got = kd_loss(student.float(), targets, teacher.float(), T=T, alpha=alpha)
    for g, w, scale in zip(got[:3], by_hand(student, targets, teacher, T, alpha), (1 + T**2, 2, 2), strict=True):
        assert g.item() == pytest.approx(w, rel=1e-6, abs=5e-7 * scale)


def test_the_gradient_is_the_formula_s():
    """d loss / d logits = (alpha (q1 - y) + (1 - alpha) T (qT - pT)) / B."""
    student, targets, teacher = example()
    T, alpha = 4.0, 0.3
    leaf = student.float().requires_grad_()
    kd_loss(leaf, targets, teacher.float(), T=T, alpha=alpha).loss.backward()
    onehot = torch.nn.functional.one_hot(targets, student.shape[1])
    soft = torch.softmax(student / T, 1) - torch.softmax(teacher / T, 1)
    want = (alpha * (torch.softmax(student, 1) - onehot) + (1 - alpha) * T * soft) / len(targets)
    torch.testing.assert_close(leaf.grad.double(), want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("T", [1, 4, 100])
def test_the_gradient_norm_of_each_part_is_that_of_its_formula(T):
    """d CE / d logits = q1 - y, d T^2 KL / d logits = T (qT - pT), for each image, whatever alpha is."""
    student, targets, teacher = example()
    onehot = torch.nn.functional.one_hot(targets, student.shape[1])
    ce = (torch.softmax(student, 1) - onehot).norm(dim=1).mean()
    kl = (T * (torch.softmax(student / T, 1) - torch.softmax(teacher / T, 1))).norm(dim=1).mean()
    for alpha in (0.0, 0.3):
        got = kd_loss(student.float().requires_grad_(), targets, teacher.float(), T=T, alpha=alpha)
        assert got.ce_grad.item() == pytest.approx(ce.item(), rel=1e-4)
        assert got.distillation_grad.item() == pytest.approx(kl.item(), rel=1e-3)
    alone = ce_loss(student.float().requires_grad_(), targets)
    assert (alone.ce_grad.item(), alone.distillation_grad.item()) == (pytest.approx(ce.item(), rel=1e-4), 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_lose_only_their_own_rounding(dtype):
    student, targets, teacher = (x.to(dtype) if x.is_floating_point() else x for x in example())
    want, *_ = by_hand(student, targets, teacher, 100, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        got = kd_loss(student, targets, teacher, T=100, alpha=0.0)
    assert got.loss.dtype == torch.float32
    assert got.loss.item() == pytest.approx(want, rel=1e-3)


def test_the_square_of_T_stays_at_alpha_0():
    student, targets, teacher = (x.float() if x.is_floating_point() else x for x in example())
    at, near = (kd_loss(student, targets, teacher, T=20, alpha=a).loss.item() for a in (0.0, 1e-6))
    assert at == pytest.approx(near, rel=1e-4)


def test_high_temperatures_tend_to_the_squared_difference_of_centred_logits():
    student, targets, teacher = example()
    d = student - teacher
    d = d - d.mean(1, keepdim=True)
    want = (d**2).sum(1).mean() / (2 * student.shape[1])
    got = kd_loss(student.float(), targets, teacher.float(), T=200, alpha=0).loss
    assert got.item() == pytest.approx(want.item(), rel=0.01)


def test_identical_logits_have_no_divergence():
    student, targets, _ = example()
    got = kd_loss(student.float(), targets, student.float(), T=4, alpha=0.5)
    assert got.distillation.item() == pytest.approx(0, abs=1e-7)
    assert got.loss.item() == pytest.approx(0.5 * got.ce.item())


def test_no_gradient_goes_to_the_teacher():
    student, targets, teacher = (x.float().requires_grad_() if x.is_floating_point() else x for x in example())
    kd_loss(student, targets, teacher, T=4, alpha=0.5).loss.backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


def test_alpha_1_is_the_cross_entropy():
    student, targets, teacher = (x.float() if x.is_floating_point() else x for x in example())
    got = kd_loss(student, targets, teacher, T=4, alpha=1)
    assert got.loss.item() == ce_loss(student, targets).loss.item() == got.ce.item()


@pytest.mark.parametrize("T", [0, -1, math.nan, math.inf])
def test_wrong_T_raises(T):
    student, targets, teacher = example()
    with pytest.raises(ValueError, match="T must be"):
        kd_loss(student, targets, teacher, T=T, alpha=0.5)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_wrong_alpha_raises(alpha):
    student, targets, teacher = example()
    with pytest.raises(ValueError, match="alpha must"):
        kd_loss(student, targets, teacher, T=1, alpha=alpha)


def test_wrong_shapes_raise():
    student, targets, teacher = example()
    with pytest.raises(ValueError, match=r"\(B, C\)"):
        kd_loss(student, targets, teacher[:, :5], T=1, alpha=0.5)


# --- further methods, each against its paper's formula in NumPy's float64


def probabilities(logits, T=1.0):
    x = np.exp(np.asarray(logits) / T - np.max(np.asarray(logits) / T, axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def divergence(p, q):
    return np.sum(p * (np.log(p) - np.log(q)), axis=-1).mean()


def cross_entropy(student, targets):
    return -np.log(probabilities(student)[np.arange(len(targets)), targets]).mean()


def arrays(seed=0):
    student, targets, teacher = example(seed=seed)
    tensors = student.float().requires_grad_(), targets, teacher.float()
    return tensors, (student.numpy(), targets.numpy(), teacher.numpy())


def parts_of_dkd(student, targets, teacher, T):
    rows, classes = np.arange(len(targets)), student.shape[1]
    p, q = probabilities(teacher, T), probabilities(student, T)
    pt, qt = p[rows, targets], q[rows, targets]
    tckd = divergence(np.stack([pt, 1 - pt], 1), np.stack([qt, 1 - qt], 1))
    others = np.array([[c for c in range(classes) if c != y] for y in targets])
    phat, qhat = (np.take_along_axis(x, others, 1) for x in (p, q))
    phat, qhat = (x / x.sum(1, keepdims=True) for x in (phat, qhat))
    return tckd, phat, qhat, pt


@pytest.mark.parametrize("T", [1, 4, 20])
def test_dkd_equals_its_formula(T):
    tensors, (student, targets, teacher) = arrays()
    tckd, phat, qhat, _ = parts_of_dkd(student, targets, teacher, T)
    want = 0.3 * cross_entropy(student, targets) + 0.7 * T**2 * (2 * tckd + 8 * divergence(phat, qhat))
    got = dkd_loss(*tensors, T=T, alpha=0.3, target=2, nontarget=8)
    assert got.loss.item() == pytest.approx(want, rel=2e-4)
    got.loss.backward()
    assert torch.isfinite(tensors[0].grad).all()


def test_dkd_and_kd_are_one_where_the_other_classes_weigh_what_the_teacher_leaves_them():
    """KL = TCKD + (1 - p) NCKD, of a single image."""
    student, targets, teacher = (x[:1] for x in example())
    T = 2.0
    p = torch.softmax(teacher / T, 1)[0, targets[0]].item()
    plain = kd_loss(student, targets, teacher, T=T, alpha=0)
    decoupled = dkd_loss(student, targets, teacher, T=T, alpha=0, target=1, nontarget=1 - p)
    assert decoupled.loss.item() == pytest.approx(plain.loss.item(), rel=1e-4)


@pytest.mark.parametrize("T", [1, 4, 20])
def test_standardised_equals_its_formula_and_knows_no_scale(T):
    tensors, (student, targets, teacher) = arrays()
    z = [(x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (teacher, student)]
    want = 0.3 * cross_entropy(student, targets) + 0.7 * T**2 * divergence(*(probabilities(x, T) for x in z))
    got = standardised_kd_loss(*tensors, T=T, alpha=0.3)
    assert got.loss.item() == pytest.approx(want, rel=1e-3)
    scaled = standardised_kd_loss(tensors[0], tensors[1], 7 * tensors[2] + 3, T=T, alpha=0.3)
    assert scaled.loss.item() == pytest.approx(got.loss.item(), rel=1e-3)
    assert standardised_kd_loss(5 * tensors[2], tensors[1], tensors[2], T=T, alpha=0).loss.item() == pytest.approx(
        0, abs=1e-4
    )


@pytest.mark.parametrize("T", [1, 4, 20])
def test_dist_equals_its_formula(T):
    tensors, (student, targets, teacher) = arrays()
    p, q = probabilities(teacher, T), probabilities(student, T)
    rows = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    want = 0.3 * cross_entropy(student, targets) + 0.7 * (2 * (1 - rows) + 3 * (1 - columns))
    assert dist_loss(*tensors, T=T, alpha=0.3, inter=2, intra=3).loss.item() == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("alpha", [0, 0.3, 1])
def test_mse_equals_its_formula_gradient_included(alpha):
    tensors, (student, targets, teacher) = arrays()
    batch, classes = student.shape
    want = alpha * cross_entropy(student, targets) + (1 - alpha) * np.mean((student - teacher) ** 2) / 2
    got = mse_loss(*tensors, alpha=alpha)
    assert got.loss.item() == pytest.approx(want, rel=1e-5)
    got.loss.backward()
    onehot = np.eye(classes)[targets]
    gradient = alpha * (probabilities(student) - onehot) + (1 - alpha) * (student - teacher) / classes
    np.testing.assert_allclose(tensors[0].grad.numpy(), gradient / batch, rtol=1e-4, atol=1e-6)


def test_mse_of_centred_logits_is_the_limit_of_kd_at_high_temperatures():
    """In float64 to a part in 10,000; the losses, in float32, as near as T^2 * KL can be computed there."""
    _, (student, targets, teacher) = arrays()
    centred = [x - x.mean(1, keepdims=True) for x in (student, teacher)]
    logits = torch.tensor(centred[0]), torch.tensor(targets), torch.tensor(centred[1])
    limit = mse_loss(*logits, alpha=0).loss.item()
    T = 1e5
    assert T**2 * divergence(probabilities(teacher, T), probabilities(student, T)) == pytest.approx(limit, rel=1e-4)
    assert kd_loss(*logits, T=1000, alpha=0).loss.item() == pytest.approx(limit, rel=0.02)


def test_mse_alone_sees_a_shift_of_all_logits():
    """Beyond the limit it has half the square of the mean difference."""
    student, targets, teacher = example()
    at_rest = (student - student.mean(1, keepdim=True), targets, teacher - teacher.mean(1, keepdim=True))
    shifted = (at_rest[0] + 3, *at_rest[1:])
    plain, further = (mse_loss(*x, alpha=0).loss.item() for x in (at_rest, shifted))
    assert further == pytest.approx(plain + 3**2 / 2, rel=1e-5)
    assert kd_loss(*shifted, T=4, alpha=0).loss.item() == pytest.approx(kd_loss(*at_rest, T=4, alpha=0).loss.item())


@pytest.mark.parametrize("T", [1, 4, 20])
def test_permuted_equals_the_formula_for_some_permutation_of_the_other_classes(T):
    """Of three other classes there are six orders: in float64 the loss of each image is that of one of them."""
    student, targets, teacher = example(classes=4, batch=40)
    found = []
    for s, y, t in zip(student, targets, teacher, strict=True):
        got = permuted_kd_loss(s[None].float(), y[None], t[None].float(), T=T, alpha=0.3).loss.item()
        others = [c for c in range(4) if c != y]
        losses_of = {}
        for order in itertools.permutations(others):
            logits = t.clone()
            logits[others] = t[list(order)]
            losses_of[order], *_ = by_hand(s[None], [y], logits[None], T, 0.3)
        nearest = min(losses_of, key=lambda order: abs(losses_of[order] - got))
        assert got == pytest.approx(losses_of[nearest], rel=1e-5, abs=1e-6 * T**2)
        found.append(nearest != tuple(others))
    assert any(found)


def test_permuted_leaves_the_target_and_keeps_what_it_permutes():
    """Each image of a batch has an order of its own, and no class keeps its place more often than by chance."""
    _, targets, teacher = example(classes=5, batch=2000)
    permuted = losses._permuted(teacher, targets)
    rows = torch.arange(len(targets))
    assert torch.equal(permuted[rows, targets], teacher[rows, targets])
    assert torch.equal(permuted.sort(dim=1).values, teacher.sort(dim=1).values)
    kept = (permuted == teacher).double()
    kept[rows, targets] = 0
    assert kept.sum().item() / (4 * len(targets)) == pytest.approx(1 / 4, abs=0.02)


def test_permuted_draws_from_the_generator_that_training_seeds():
    _, targets, teacher = example(classes=5, batch=100)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(losses._permuted(teacher, targets))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("name", ["self", "early_teacher", "random_teacher"])
def test_the_methods_that_change_the_teacher_alone_have_the_formula_of_plain_distillation(name):
    student, targets, teacher = example()
    got = losses.of(name, T=4, alpha=0.3)(student.float(), targets, teacher.float())
    assert got.loss.item() == pytest.approx(by_hand(student, targets, teacher, 4, 0.3)[0], rel=1e-5)


@pytest.mark.parametrize("alpha", [0, 0.5, 0.9, 1])
def test_label_smoothing_equals_its_formula(alpha):
    tensors, (student, targets, _) = arrays()
    smooth = np.full(student.shape, (1 - alpha) / student.shape[1])
    smooth[np.arange(len(targets)), targets] += alpha
    want = -(smooth * np.log(probabilities(student))).sum(1).mean()
    got = label_smoothing_loss(tensors[0], tensors[1], alpha=alpha)
    assert got.loss.item() == pytest.approx(want, rel=1e-5)
    library = torch.nn.functional.cross_entropy(tensors[0], tensors[1], label_smoothing=1 - alpha)
    assert got.loss.item() == pytest.approx(library.item(), rel=1e-5)


def test_the_gradient_norm_of_a_further_method_is_that_of_its_loss():
    tensors, _ = arrays()
    got = dkd_loss(*tensors, T=4, alpha=0.0, target=1, nontarget=8)
    got.loss.backward()  # at alpha 0 the loss is the teacher's part, T^2 included
    assert got.distillation_grad.item() == pytest.approx(tensors[0].grad.norm(dim=1).sum().item(), rel=1e-5)


# --- by their rows in methods.py


@pytest.mark.parametrize("teaching", methods.TEACHINGS.values(), ids=lambda t: t.name)
def test_every_way_to_teach_has_its_loss_which_takes_its_weights(teaching):
    parameters = inspect.signature(getattr(losses, teaching.loss)).parameters
    assert list(parameters)[:3] == ["student_logits", "targets", "teacher_logits"]
    assert set(list(parameters)[3:]) == {"T", "alpha", *teaching.weights}
    student, targets, teacher = example()
    soft = teacher if teaching.taught_by else None
    got = losses.of(teaching.name, T=4, alpha=0.5)(student.float().requires_grad_(), targets, soft)
    assert all(torch.isfinite(x) for x in got)
    if teaching.taught_by:
        with pytest.raises(ValueError, match="needs the teacher's logits"):
            losses.of(teaching.name, T=4, alpha=0.5)(student, targets, None)
    if not teaching.temperature:
        again = losses.of(teaching.name, T=20, alpha=0.5)(student.float(), targets, soft)
        assert again.loss.item() == pytest.approx(got.loss.item())


def test_the_loss_of_a_row_has_its_weights_or_their_defaults():
    _, (student, targets, teacher) = arrays()
    logits = torch.tensor(student), torch.tensor(targets), torch.tensor(teacher)
    default = losses.of("dkd", T=4, alpha=0.3)(*logits).loss
    assert default == dkd_loss(*logits, T=4, alpha=0.3, target=1, nontarget=8).loss
    other = losses.of("dkd", T=4, alpha=0.3, nontarget=2)(*logits).loss
    assert other == dkd_loss(*logits, T=4, alpha=0.3, target=1, nontarget=2).loss != default
    with pytest.raises(TypeError, match="inter"):
        losses.of("dkd", T=4, alpha=0.3, inter=2)(*logits)


def test_alpha_1_by_its_row_is_the_cross_entropy():
    student, targets, teacher = example()
    got = losses.of("baseline", T=None, alpha=1)(student, targets, teacher)
    assert got.loss == ce_loss(student, targets).loss and got.distillation == 0


def test_histories_have_the_columns_of_the_committed_records(checkout):
    """Records of before and after `distillation` had its name are read alike."""
    path = next((checkout / "results" / "tiny-imagenet-20" / "students").glob("*/record.json"))
    recorded = json.loads(path.read_text())["history"][0]
    assert {losses.HISTORY_COLUMNS.get(name, name) for name in losses.Loss._fields} <= set(recorded)
