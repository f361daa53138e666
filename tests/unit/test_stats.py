"""The model of what varies between runs, against statsmodels' least squares and tests, and against formulas."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy.stats import binom, chi2, norm, spearmanr, t
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from kd_utils.reporting import stats
from kd_utils.reporting.stats import Additive, Effect

# a cell each, and the seeds that it was run with
UNEVEN = {"base": [0, 1, 2], "a": [0, 1, 2], "b": [0, 2], "c": [0], "d": [1]}


def drawn(design=UNEVEN, images=500, seed=0, alike=False):
    """Answers with cells, seeds and runs that differ, on images that differ in difficulty."""
    rng = np.random.default_rng(seed)
    of_cell = {cell: 0.0 if alike else rng.normal(0, 0.2) for cell in design}
    of_seed, of_image = rng.normal(0, 0.1, 9), rng.normal(0, 1, images)
    return {
        cell: {
            s: of_cell[cell] + of_seed[s] + of_image + rng.normal(0, 0.1) + rng.normal(0, 1, images) > 0 for s in seeds
        }
        for cell, seeds in design.items()
    }


def fitted(hits):
    runs = [(cell, f"s{seed}", right.mean()) for cell, seeds in hits.items() for seed, right in seeds.items()]
    frame = pd.DataFrame(runs, columns=["cell", "seed", "accuracy"])
    return smf.ols("accuracy ~ 0 + cell + seed", frame).fit()


def test_it_is_ordinary_least_squares():
    hits = drawn()
    model, library = Additive(hits), fitted(hits)
    assert model.freedom == library.df_resid and model.variance == pytest.approx(library.scale)
    for cell in ("a", "b", "c", "d"):
        gain = library.t_test(f"cell[{cell}] - cell[base] = 0")
        effect = model.effect({cell: 1.0, "base": -1.0})
        assert effect.value == pytest.approx(gain.effect[0])
        seeds = gain.sd[0, 0] ** 2  # what least squares alone would say; images add to it, and are in it in part
        images = effect.error**2 - seeds * model.training / model.variance
        assert images > 0 and effect.freedom == pytest.approx(model.freedom * (effect.error**2 / seeds) ** 2)


def test_what_images_do_is_what_a_paired_bootstrap_over_them_says():
    hits = drawn(images=400)
    model, rng = Additive(hits), np.random.default_rng(1)
    weights, library = {"c": 1.0, "base": -1.0}, fitted(hits)
    answers = np.stack([right for seeds in hits.values() for right in seeds.values()]).astype(float)
    contrast = np.array([{"cell[c]": 1, "cell[base]": -1}.get(name, 0) for name in library.params.index])
    resampled = []
    for _ in range(400):
        means = answers[:, rng.integers(400, size=400)].mean(axis=1)
        resampled.append(contrast @ np.linalg.lstsq(library.model.exog, means, rcond=None)[0])
    effect, summed = model.effect(weights), library.t_test("cell[c] - cell[base] = 0").sd[0, 0] ** 2
    images = effect.error**2 - model.training * summed / model.variance
    assert images == pytest.approx(np.var(resampled), rel=0.2)


def test_noise_of_images_is_not_counted_twice():
    """Runs that differ by chance on each image alone: all of the residual's variance is the images'."""
    rng, ratios = np.random.default_rng(0), []
    for _ in range(200):
        hits = {cell: {s: rng.random(200) < 0.5 for s in range(3)} for cell in range(8)}
        model = Additive(hits)
        ratios.append(model.variance / model.of_images)
        assert model.of_images == pytest.approx(0.25 / 200, rel=0.1)
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


def test_with_the_same_seeds_a_gain_is_the_difference_of_means():
    hits = drawn({"a": [0, 1, 2], "base": [0, 1, 2]})
    effect = Additive(hits).effect({"a": 1.0, "base": -1.0})
    means = {cell: np.mean([right.mean() for right in seeds.values()]) for cell, seeds in hits.items()}
    assert effect.value == pytest.approx(means["a"] - means["base"])
    model = Additive(hits)
    new = np.sqrt(model.variance * (2 / 3 + 2))  # both means are of three runs, and a new run of each
    assert effect.ahead == pytest.approx(t.cdf(effect.value / new, model.freedom))


def test_with_one_run_a_cell_there_is_the_images_interval_and_no_verdict():
    hits = drawn({"a": [0], "base": [0]}, images=2000)
    effect = Additive(hits).effect({"a": 1.0, "base": -1.0})
    difference = hits["a"][0].astype(float) - hits["base"][0]
    error = norm.ppf(0.975) * difference.std(ddof=1) / np.sqrt(2000)
    assert effect.interval() == pytest.approx((difference.mean() - error, difference.mean() + error))
    assert np.isnan([effect.p, effect.p_same(0.5), effect.ahead]).all()
    assert stats.verdicts([effect], 0.5) == ["undecided"]
    assert np.isnan(Additive(hits).alike(["a", "base"])) and np.isnan(Additive(hits).spread()).all()
    assert Additive(hits).among_best(["a", "base"]) == {"a", "base"}


def test_cells_without_a_common_seed_are_compared_by_way_of_others_or_not_at_all():
    apart = Additive(drawn({"a": [0, 1], "b": [2, 3]}))
    assert np.isnan(apart.effect({"a": 1.0, "b": -1.0}).value) and np.isnan(apart.alike(["a", "b"]))
    assert stats.verdicts([stats.UNKNOWN], 0.01) == ["undecided"]
    joined = Additive(drawn({"a": [0, 1], "b": [2, 3], "c": [1, 2]}))
    assert np.isfinite(joined.effect({"a": 1.0, "b": -1.0}).value)


def test_runs_that_answer_alike_do_not_differ():
    same = np.arange(100) < 40
    model = Additive({"a": {0: same, 1: same}, "base": {0: same, 1: same}})
    effect = model.effect({"a": 1.0, "base": -1.0})
    assert (effect.value, effect.error, effect.p, effect.p_same(0.01)) == (0, 0, 1, 0) and effect.ahead == 0.5
    assert stats.verdicts([effect], 0.01) == ["same"]


def test_the_f_test_of_two_cells_is_their_t_test():
    model = Additive(drawn())
    effect = model.effect({"a": 1.0, "base": -1.0})
    assert model.alike(["a", "base"]) == pytest.approx(2 * t.sf(abs(effect.value) / effect.error, model.freedom))
    assert np.isnan(model.alike(["a"]))


def test_under_the_null_the_f_test_is_uniform():
    p = [Additive(drawn({c: [0, 1, 2] for c in "abcde"}, 200, s, alike=True)).alike(list("abcde")) for s in range(300)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.03)
    assert np.mean(p) == pytest.approx(0.5, abs=0.06)


def test_the_best_is_among_those_that_none_is_clearly_above():
    hits = {"low": 0.2, "high": 0.8, "as high": 0.8}
    rng = np.random.default_rng(0)
    model = Additive({cell: {s: rng.random(500) < share for s in range(3)} for cell, share in hits.items()})
    assert model.among_best(list(hits)) == {"high", "as high"}


def test_the_spread_of_runs_is_that_of_all_cells_together_and_knows_how_few_seeds_there_are():
    hits = drawn({"a": [0, 1, 2], "b": [0, 1, 2], "c": [0, 1], "d": [1]})
    sd, low, high = Additive(hits).spread()
    runs = [np.array([right.mean() for right in seeds.values()]) for seeds in hits.values()]
    squares, pairs = sum(((r - r.mean()) ** 2).sum() for r in runs), sum(len(r) - 1 for r in runs)
    assert sd == pytest.approx(np.sqrt(squares / pairs)) and low < sd < high
    # one cell alone: nothing tells seeds from the residual, and the interval is chi-squared's
    sd, low, high = Additive({"a": hits["a"]}).spread()
    assert sd == pytest.approx(runs[0].std(ddof=1))
    assert (low, high) == pytest.approx((sd * np.sqrt(2 / chi2.ppf(0.975, 2)), sd * np.sqrt(2 / chi2.ppf(0.025, 2))))


def test_printed_runs_vary_as_others_do():
    like = Additive(drawn())
    printed = stats.Printed({"a": [0.6], "base": [0.5, 0.52]}, 1000, like)
    effect = printed.effect({"a": 1.0, "base": -1.0})
    images = 0.24 / 1000 + (0.25 + 0.52 * 0.48) / 4 / 1000
    assert effect.value == pytest.approx(0.6 - 0.51)
    assert effect.error**2 == pytest.approx(images + like.training * 1.5)
    assert effect.freedom >= like.freedom * (like.training / like.variance) ** 2
    for unknown in (None, Additive(drawn({"a": [0], "base": [0]}))):
        alone = stats.Printed(printed.accuracies, 1000, unknown).effect({"a": 1.0, "base": -1.0})
        assert alone.error**2 == pytest.approx(images) and np.isnan(alone.p)


def test_printed_runs_beside_ones_that_never_vary():
    same = np.arange(100) < 40
    like = Additive({"a": {0: same, 1: same}, "base": {0: same, 1: same}})
    effect = stats.Printed({"a": [0.6], "base": [0.5]}, 1000, like).effect({"a": 1.0, "base": -1.0})
    assert effect.error**2 == pytest.approx((0.24 + 0.25) / 1000) and effect.p == pytest.approx(
        2 * norm.sf(0.1 / effect.error)
    )


def test_verdicts_are_holm_s_on_differences_and_two_one_sided_tests_on_sameness():
    def effect(value, error=0.01, freedom=20.0):
        return Effect(value, error, freedom, 0.5)

    told = stats.verdicts([effect(0.05), effect(-0.06), effect(0.001, 0.003), effect(0.004)], margin=0.01)
    assert told == ["better", "worse", "same", "undecided"]
    barely = effect(0.0215)  # p = 0.044
    assert stats.verdicts([barely], 0.01) == ["better"]
    assert stats.verdicts([barely, effect(0.0)], 0.01)[0] == "undecided"  # twice that
    assert stats.verdicts([effect(0.005, 0.001)], 0.01) == ["better"]  # within the margin, and yet a difference


def test_sameness_is_tested_as_statsmodels_does():
    x = np.random.default_rng(0).normal(0.3, 1, 12)
    effect = Effect(float(x.mean()), float(x.std(ddof=1) / np.sqrt(12)), 11.0, 0.5)
    assert effect.p_same(0.8) == pytest.approx(ttost_paired(x, np.zeros(12), -0.8, 0.8)[0])
    assert effect.p == pytest.approx(2 * t.sf(abs(x.mean()) / effect.error, 11))


def test_holm_is_statsmodels():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    known = ~np.isnan(p)
    assert stats.holm(p)[known] == pytest.approx(multipletests(p[known], method="holm")[1])
    assert stats.holm(p) == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)


def test_adjusted_means_are_as_if_each_cell_had_been_run_with_every_seed():
    whole = {("a", 0): 1.0, ("a", 1): 2.0, ("b", 0): 5.0, ("b", 1): 8.0}
    assert stats.adjusted(whole) == pytest.approx({"a": 1.5, "b": 6.5})
    lacking = {("a", 0): 1.0, ("a", 1): 2.0, ("b", 0): 5.0}
    assert stats.adjusted(lacking) == pytest.approx({"a": 1.5, "b": 5.5})  # seed 1 adds 1 to a, and so to b
    apart = {("a", 0): 1.0, ("b", 1): 5.0, ("b", 2): 6.0}
    assert stats.adjusted(apart) == pytest.approx({"a": 1.0, "b": 5.5})


def test_the_adjusted_mean_less_the_baseline_s_is_the_gain():
    hits = drawn()
    model = Additive(hits)
    means = stats.adjusted(dict(zip(model.runs, model.accuracy.tolist(), strict=True)))
    for cell in "abcd":
        assert means[cell] - means["base"] == pytest.approx(model.effect({cell: 1.0, "base": -1.0}).value)


def test_a_winner_is_chosen_on_some_seeds_and_reported_on_another():
    values = {"base": [0, 0, 0], "a": [9, 1, 1], "b": [2, 2, 2]}
    accuracies = {(cell, s): float(v) for cell, of_seeds in values.items() for s, v in enumerate(of_seeds)}
    chosen = stats.leave_a_seed_out(accuracies, "base")
    # without seed 0 b wins (2, and 2 there); without seed 1 or 2 a does (5, and 1 there)
    assert chosen == stats.Chosen(
        before=pytest.approx((2 + 5 + 5) / 3), after=pytest.approx((2 + 1 + 1) / 3), rounds=3, cells=2
    )
    one_seed = {run: value for run, value in accuracies.items() if run[1] == 0}
    assert stats.leave_a_seed_out(one_seed, "base") is None
    assert stats.leave_a_seed_out(accuracies, "another") is None


def test_choosing_among_equals_costs_all_that_it_promised():
    rng, promised, kept = np.random.default_rng(0), [], []
    for _ in range(200):
        chosen = stats.leave_a_seed_out({(c, s): rng.normal() for c in range(10) for s in range(3)}, 0)
        promised.append(chosen.before)
        kept.append(chosen.after)
    assert np.mean(promised) > 0.8 and np.mean(kept) == pytest.approx(0, abs=0.2)


def test_the_rank_correlation_is_spearman_s():
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    rho, low, high = stats.rank_correlation(x, y)
    assert rho == pytest.approx(spearmanr(x, y).statistic) and -1 < low < rho < high < 1
    assert np.isnan(stats.rank_correlation([1, 2, 3, 4], [1, 2, 3, 4])[0])
    assert np.isnan(stats.rank_correlation([1] * 8, range(8))[0])


def test_mcnemar_s_exact_test_is_the_binomial_s():
    a = np.array([1] * 30 + [0] * 10 + [1] * 9 + [0] * 2, bool)
    b = np.array([1] * 30 + [0] * 10 + [0] * 9 + [1] * 2, bool)
    assert stats.mcnemar(a, b) == pytest.approx(2 * binom.cdf(2, 11, 0.5))
    assert stats.mcnemar(a, a) == 1.0
