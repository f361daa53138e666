import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from kd_utils.learning import metrics

pytestmark = pytest.mark.numeric
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, (300, 12)).astype(np.float32)
LABELS = RNG.integers(0, 12, 300)


def softmax(x):
    e = np.exp(x.astype(np.float64))
    return e / e.sum(1, keepdims=True)


def test_top_k_equals_scikit_learn_s():
    for k in (1, 5):
        want = top_k_accuracy_score(LABELS, LOGITS, k=k, labels=np.arange(12))
        assert metrics.top_k(LOGITS, LABELS, k) == pytest.approx(want)
    assert metrics.top_k(LOGITS, LABELS, 12) == 1


def test_nll_equals_scikit_learn_s():
    assert metrics.nll(LOGITS, LABELS) == pytest.approx(log_loss(LABELS, softmax(LOGITS), labels=np.arange(12)))


def test_predictions_are_the_largest_and_its_probability():
    predicted, confidence = metrics.predictions(LOGITS)
    assert accuracy_score(LABELS, predicted) == pytest.approx(metrics.top_k(LOGITS, LABELS, 1))
    np.testing.assert_allclose(confidence, softmax(LOGITS).max(1), rtol=1e-12)


def test_ece_by_hand():
    """Two bins: 0.95 three times with 2 right, 0.55 twice with 1 right."""
    confidence = np.array([0.95, 0.95, 0.95, 0.55, 0.55])
    correct = np.array([True, True, False, True, False])
    want = 3 / 5 * abs(0.95 - 2 / 3) + 2 / 5 * abs(0.55 - 1 / 2)
    assert metrics.ece(confidence, correct) == pytest.approx(want)


def test_ece_of_a_calibrated_model_is_small_and_of_a_confident_guess_is_large():
    confidence = RNG.uniform(0.1, 1, 200_000)
    assert metrics.ece(confidence, RNG.random(200_000) < confidence) < 0.01
    assert metrics.ece(np.ones(100), np.arange(100) < 30) == pytest.approx(0.7)


def test_reliability_counts_every_image_once():
    count, mean, _ = metrics.reliability(np.array([0.0, 0.5, 1.0]), np.array([0, 1, 1]), bins=10).T
    assert count.sum() == 3 and count[0] == count[5] == count[9] == 1
    assert np.isnan(mean[1])


def test_agreement():
    assert metrics.agreement(np.array([1, 2, 3, 4]), np.array([1, 2, 0, 0], np.uint16)) == 0.5


def test_softmax_survives_large_logits():
    assert np.isfinite(metrics.nll(np.array([[1e4, -1e4]]), np.array([1])))
    np.testing.assert_allclose(np.exp(metrics.log_softmax(np.array([[8.0, 0.0]]), T=4)).sum(), 1)


def test_entropy_rises_with_temperature_to_that_of_chance():
    logits = np.array([[3.0, 1.0, 0.0, -2.0]])
    p = np.exp(logits / 2) / np.exp(logits / 2).sum()
    assert metrics.entropy(logits, 2.0)[0] == pytest.approx(-(p * np.log(p)).sum())
    found = [metrics.entropy(logits, T)[0] for T in (0.5, 1, 4, 1000)]
    assert found == sorted(found) and found[-1] == pytest.approx(np.log(4), rel=1e-4)
