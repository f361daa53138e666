"""What a notebook shows of text and captions."""

import pandas as pd
import pytest

from kd_utils.reporting import shown


def test_cross_references_are_words_in_a_notebook_and_labels_in_the_report():
    text = shown.Text("See @fig-gain, and (@tbl-summary-resnet18, @eq-loss). By mail: me\\@fig-x.org")
    bundle = text._repr_mimebundle_()
    assert bundle["text/markdown"] == (
        "See Figure *gain*, and (Table *summary-resnet18*, Equation *loss*). By mail: me\\@fig-x.org"
    )
    assert bundle[shown.Text.MIME] == {"markdown": text.markdown}


def test_a_caption_begins_as_the_text_refers_to_it():
    table = shown.Table(pd.DataFrame({"a": [1]}), "* marks what @fig-gain shows", "choice")
    html = table._repr_mimebundle_()["text/html"]
    assert "<b>Table choice</b> <em>* marks what Figure gain shows</em>" in html
    assert "@fig-gain" in table.markdown() and "{#tbl-choice}" in table.markdown()


def test_symbols_are_those_of_the_equations_and_names_stay_as_they_are_typed():
    frame = pd.DataFrame({"T": [4.0], "cell": ["T = 4, α = 0.5"], "name": ["T = α"]})
    columns = {"T": shown.number(str, "T"), "Cell": shown.symbolic("cell"), "Name": shown.words("name")}
    head, _, row = shown.Table(frame, "", "t", columns).markdown().splitlines()[:3]
    assert head == "| *T* | Cell | Name |"
    assert row == r"| 4.0 | $T$ \= 4, $\alpha$ \= 0.5 | T \= α |"


@pytest.mark.parametrize("value", [0.04525, 0.045250000000000005, 0.04524999999999999, 0.1 * 0.4525])
def test_the_last_bits_of_a_number_choose_no_decimal(value):
    """Sums of the same accuracies differ by them, from one version of Python to the next."""
    assert shown.points(value) == "+4.53" and shown.points(-value) == "−4.53" and shown.percent(value) == "4.53"
    assert shown.between(value, value, value) == "+4.53 [+4.53, +4.53]" and shown.half(0, 2 * value) == " ± 4.53"
