import numpy as np
import pytest
from scipy.stats import binom, kendalltau, norm

from kd_utils.reporting import stats


def answers(n=400, seeds=(0,), accuracy=0.6, seed=0):
    rng = np.random.default_rng(seed)
    return {s: rng.random(n) < accuracy for s in seeds}


def test_with_one_seed_the_interval_is_the_binomial_s():
    hits = {"a": answers(2000)}
    low, high = stats.interval(stats.Bootstrap(hits).mean("a"))
    p = hits["a"][0].mean()
    error = norm.ppf(0.975) * np.sqrt(p * (1 - p) / 2000)
    assert (low, high) == (pytest.approx(p - error, abs=0.003), pytest.approx(p + error, abs=0.003))


def test_with_several_seeds_their_spread_is_in_it():
    """Variance of the mean = that over images + s^2 / S; here the seeds are far apart and images hardly matter."""
    n = 4000
    hits = {"a": {s: np.arange(n) < n * share for s, share in enumerate((0.3, 0.5, 0.7))}}
    samples = stats.Bootstrap(hits).mean("a")
    answered = np.mean([hits["a"][s] for s in range(3)], axis=0)
    want = answered.var() / n + np.var([0.3, 0.5, 0.7], ddof=1) / 3
    assert samples.var() == pytest.approx(want, rel=0.1)
    assert samples.mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("count", [2, 3])
def test_an_interval_over_few_seeds_holds_the_truth_in_nine_cases_of_ten(count):
    """Seeds that differ as much as 250 images do: sd 0.031 of a share of 0.6; many such studies are drawn."""
    rng, held, studies = np.random.default_rng(0), 0, 400
    for _ in range(studies):
        # an image is right where its difficulty, which the seeds share, is below the share of the seed
        difficulty, shares = rng.random(250), 0.6 + rng.normal(0, 0.031 * np.sqrt(count), count)
        boot = stats.Bootstrap({"a": {s: difficulty < share for s, share in enumerate(shares)}}, resamples=400)
        low, high = stats.interval(boot.mean("a"))
        held += low <= 0.6 <= high
    assert held / studies == pytest.approx(0.9, abs=0.04)


def test_differences_are_paired():
    """Two cells that differ on 10 of 1,000 images: the interval is that of the 10, not of two accuracies."""
    right = answers(1000)[0]
    other = right.copy()
    other[:10] = True
    right = right.copy()
    right[:10] = False
    boot = stats.Bootstrap({"a": {0: other}, "b": {0: right}})
    samples = boot.difference("a", "b")
    assert samples.std() == pytest.approx(np.sqrt(0.01 * 0.99 / 1000), rel=0.1)
    assert samples.mean() == pytest.approx(0.01, rel=0.1)


def test_differences_are_over_common_seeds():
    a, b = answers(seeds=(0, 1, 2)), answers(seeds=(1, 5), seed=1)
    boot = stats.Bootstrap({"a": a, "b": b})
    assert boot.seeds("a", "b") == [1]
    assert boot.p_value("a", "b") == stats.mcnemar(a[1], b[1])
    assert np.isnan(stats.Bootstrap({"a": answers(seeds=(0,)), "b": answers(seeds=(1,))}).p_value("a", "b"))


def test_the_bootstrap_s_p_is_that_of_the_normal_distribution():
    a, b = answers(3000, (0, 1), 0.60), answers(3000, (0, 1), 0.58, seed=1)
    d = np.mean([a[s].astype(float) - b[s] for s in (0, 1)], axis=0)
    seeds = [np.mean(a[s].astype(float) - b[s]) for s in (0, 1)]
    error = np.sqrt(d.var() / len(d) + np.var(seeds, ddof=1) / 2)
    boot = stats.Bootstrap({"a": a, "b": b})
    samples = boot.difference("a", "b")
    assert samples.std() == pytest.approx(error, rel=0.1)
    assert boot.p_value("a", "b") == 2 * min(np.mean(samples <= 0), np.mean(samples >= 0))


def test_mcnemar_s_exact_test_is_the_binomial_s():
    a = np.array([1] * 30 + [0] * 10 + [1] * 9 + [0] * 2, bool)
    b = np.array([1] * 30 + [0] * 10 + [0] * 9 + [1] * 2, bool)
    assert stats.mcnemar(a, b) == pytest.approx(2 * binom.cdf(2, 11, 0.5))
    assert stats.mcnemar(a, a) == 1.0


def test_under_the_null_one_p_in_twenty_is_below_a_twentieth():
    rng = np.random.default_rng(3)
    p = [stats.mcnemar(rng.random(500) < 0.6, rng.random(500) < 0.6) for _ in range(400)]
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.08


def test_holm_is_the_step_down_rule():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    assert stats.holm(p) == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)


def test_concordance_within_one_stratum_is_kendall_s_tau():
    rng = np.random.default_rng(0)
    values, x = rng.random(12), rng.permutation(12)
    got = stats.concordance(values, x, np.zeros(12))
    assert got == pytest.approx(kendalltau(x, values).statistic)
    assert stats.concordance(np.stack([values, -values]), x, np.zeros(12)) == pytest.approx([got, -got])


def test_concordance_compares_no_cells_of_different_strata():
    assert stats.concordance([1, 2, 9, 8], [1, 2, 3, 4], ["a", "a", "b", "b"]) == 0
    assert np.isnan(stats.concordance([1, 2], [1, 2], ["a", "b"]))
    assert np.isnan(stats.concordance([1, 2], [1, 1], ["a", "a"]))
    assert stats.concordance([2, 2], [1, 2], ["a", "a"]) == 0


def test_spread_pools_the_groups():
    groups = [np.array([1.0, 3.0]), np.array([5.0, 5.0, 8.0])]
    sd, low, high = stats.spread(groups)
    assert sd == pytest.approx(np.sqrt((2 + 6) / 3)) and low < sd < high
    assert np.isnan(stats.spread([np.array([1.0])])[0])
