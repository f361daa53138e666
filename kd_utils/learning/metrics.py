"""Logits -> metrics. NumPy only, so it loads no torch; all are fractions (0 to 1) or nats, computed in float64."""

import numpy as np

ECE_BINS = 15


def log_softmax(logits: np.ndarray, T: float = 1.0) -> np.ndarray:
    """Log-probabilities at temperature T: (N, C) -> (N, C) float64, in nats."""
    x = np.asarray(logits, np.float64) / T
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def entropy(logits: np.ndarray, T: float = 1.0) -> np.ndarray:
    """Entropy of the softmax at temperature T: (N, C) -> (N,) nats."""
    log_p = log_softmax(logits, T)
    return -(np.exp(log_p) * log_p).sum(axis=1)


def predictions(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The class of the largest logit, (N,) int64, and its probability, the confidence, (N,) float64."""
    logits = np.asarray(logits)
    return logits.argmax(axis=1), np.exp(log_softmax(logits)).max(axis=1)


def top_k(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of images whose label is among the k largest logits (a tie counts for the label).

    logits: (N, C); labels: (N,). With k >= C it is 1.
    """
    logits = np.asarray(logits)
    of_label = logits[np.arange(len(labels)), labels]
    return float(np.mean((logits > of_label[:, None]).sum(axis=1) < k))


def nll(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """The reliability diagram over equal-width bins of confidence: (bins, 3) of count, mean confidence, accuracy.

    Empty bins hold NaN in the last two. Guo et al. 2017, arXiv:1706.04599.
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    in_bin = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(in_bin, minlength=bins).astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(in_bin, confidence, bins) / count
        accuracy = np.bincount(in_bin, correct, bins) / count
    return np.stack([count, mean, accuracy], axis=1)


def ece(confidence: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS) -> float:
    """Expected calibration error: |accuracy - confidence| over equal-width bins, weighted by their counts.

    confidence: (N,) probabilities of the predicted classes; correct: (N,) bool. Guo et al. 2017, arXiv:1706.04599.
    """
    count, mean, accuracy = reliability(confidence, correct, bins).T
    return float(np.nansum(count * np.abs(accuracy - mean)) / count.sum())


def agreement(predicted: np.ndarray, teacher_predicted: np.ndarray) -> float:
    """Share of images on which student and teacher predict the same class (Stanton et al. 2021, arXiv:2106.05945)."""
    return float(np.mean(np.asarray(predicted) == np.asarray(teacher_predicted)))
