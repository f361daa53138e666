"""What docs/conventions.md says of other losses, in float64: each is (c + k) times ours at the converted alpha."""

import generate
import pytest
import torch
import torch.nn.functional as F

from kd_utils.learning.losses import kd_loss

BATCH, N, T = 8, 13, 4.0


@pytest.fixture
def batch():
    torch.manual_seed(0)
    student = (3 * torch.randn(BATCH, N, dtype=torch.float64)).requires_grad_()
    return student, 3 * torch.randn(BATCH, N, dtype=torch.float64), torch.randint(0, N, (BATCH,))


def ours(student, teacher, y, alpha, T=T):
    p, q = (teacher / T).softmax(dim=1), (student / T).softmax(dim=1)
    kl = (p * (p.log() - q.log())).sum(dim=1).mean()
    return alpha * F.cross_entropy(student, y) + (1 - alpha) * T**2 * kl


def theirs(reduction, power, c, b):
    """c CE + b T^power KL, KL by PyTorch's own function; reduction: over 'images' alone, or over 'classes' too."""

    def loss(student, teacher, y):
        kl = F.kl_div((student / T).log_softmax(dim=1), (teacher / T).softmax(dim=1), reduction="none")
        kl = kl.mean() if reduction == "classes" else kl.sum() / len(kl)
        return c * F.cross_entropy(student, y) + b * T**power * kl

    return loss


def soft_cross_entropy(power, h, s):
    """Hinton, Vinyals and Dean: two cross-entropies, of which the soft one has the teacher's entropy in it."""

    def loss(student, teacher, y):
        soft = -((teacher / T).softmax(dim=1) * (student / T).log_softmax(dim=1)).sum(dim=1).mean()
        return h * F.cross_entropy(student, y) + s * T**power * soft

    return loss


def gradient(loss, student):
    return torch.autograd.grad(loss, student)[0]


def test_ours_is_the_project_s_loss(batch):
    student, teacher, y = batch
    assert kd_loss(student, y, teacher, T=T, alpha=0.3).loss.item() == pytest.approx(
        ours(student, teacher, y, 0.3).item(), rel=1e-5
    )


@pytest.mark.parametrize(("c", "b"), [(0.1, 0.9), (1.0, 0.9), (0.5, 0.5), (1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize(
    ("kind", "reduction", "power"),
    [
        ("sum", "images", 2),
        ("no T^2", "images", 0),
        ("mean over classes", "classes", 2),
        ("mean over classes, no T^2", "classes", 0),
    ],
)
def test_a_loss_is_ours_but_for_a_factor(batch, kind, reduction, power, c, b):
    student, teacher, y = batch
    weights = generate.WEIGHTS[kind](c, b, N, T)
    other, own = theirs(reduction, power, c, b)(*batch), ours(*batch, generate.converted(*weights))
    torch.testing.assert_close(other, sum(weights) * own, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(other, student), sum(weights) * gradient(own, student), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("a", [0.1, 0.5, 0.9])
def test_the_example_of_a_mean_over_classes(batch, a):
    alpha = (1 - a) / ((1 - a) + a / N)
    assert alpha == pytest.approx(generate.converted(*generate.WEIGHTS["mean over classes"](1 - a, a, N, T)), rel=1e-12)


@pytest.mark.parametrize(("kind", "power"), [("sum", 2), ("no T^2", 0)])
def test_soft_cross_entropy_has_the_gradient_of_the_kl(batch, kind, power):
    student = batch[0]
    weights = generate.WEIGHTS[kind](0.2, 0.8, N, T)
    other, own = soft_cross_entropy(power, 0.2, 0.8)(*batch), ours(*batch, generate.converted(*weights))
    torch.testing.assert_close(gradient(other, student), sum(weights) * gradient(own, student), rtol=1e-9, atol=1e-14)


def test_squared_error_of_probabilities_is_ours_at_a_large_temperature(batch):
    student, teacher, y = batch
    w = 0.6

    def off(T):
        c, k = generate.WEIGHTS["squared error of probabilities, large T"](1 - w, w, N, T)
        error = F.mse_loss((teacher / T).softmax(dim=1), (student / T).softmax(dim=1))
        other = gradient(T**2 * w * error, student)
        own = gradient((c + k) * (ours(*batch, c / (c + k), T) - c / (c + k) * F.cross_entropy(student, y)), student)
        return ((other - own).norm() / own.norm()).item()

    assert off(1e4) < 1e-3 < 0.05 < off(4.0)
    assert off(1e4) == pytest.approx(off(1e3) / 10, rel=0.05)  # it vanishes as 1 / T


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_factor_is_undone_by_learning_rate_and_weight_decay(batch, optimizer):
    """SGD: lr times the factor, weight decay over it. Adam: weight decay over it. AdamW: as it is."""
    start, teacher, y = batch
    c, k, lr, decay = 0.3, 1.8, 0.01, 0.1

    def trained(scale, lr, decay):
        x = start.detach().clone().requires_grad_()
        kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        more = {"momentum": 0.9} if optimizer == "sgd" else {"eps": 1e-30}
        steps = kinds[optimizer]([x], lr=lr, weight_decay=decay, **more)
        for _ in range(5):
            steps.zero_grad()
            (scale * ours(x, teacher, y, c / (c + k))).backward()
            steps.step()
        return x.detach()

    factor = c + k
    changed = {"sgd": (lr * factor, decay / factor), "adam": (lr, decay / factor), "adamw": (lr, decay)}[optimizer]
    torch.testing.assert_close(trained(1.0, *changed), trained(factor, lr, decay), rtol=1e-9, atol=1e-12)
