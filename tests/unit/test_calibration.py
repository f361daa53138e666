"""Intervals of 95 % hold the truth, and verdicts err as seldom as they say, in studies whose truth is known."""

import calibration
import pytest


@pytest.mark.parametrize("design", calibration.DESIGNS)
def test_the_kept_studies_show_it(design):
    """2,000 studies of each design: the table of docs/trust.md."""
    kept = calibration.kept()
    assert kept["studies"] >= 2000 and set(kept["designs"]) == set(calibration.DESIGNS)
    told = kept["designs"][design]
    for name in ("gains", "contrasts", "spreads"):
        assert told[name] is None or 0.93 <= told[name] <= 0.97
    assert told["false_stars"] <= 0.05
    assert told["false_same"] is None or told["false_same"] <= 0.05
    assert told["best_held"] is None or told["best_held"] >= 0.95
    assert (told["spreads"] is None) == (design == "one seed")


@pytest.mark.parametrize("design", calibration.DESIGNS)
def test_they_can_be_drawn_again(design):
    """So few studies that they take seconds; what is kept must be as near as chance lets it be."""
    studies = 60
    told, kept = vars(calibration.tally(design, studies, seed=1)), calibration.kept()["designs"][design]
    for name, share in kept.items():
        if share is None:
            assert told[name] is None
        else:
            error = max(share * (1 - share), 0.01) ** 0.5 / studies**0.5
            assert told[name] == pytest.approx(share, abs=3.5 * error), name
