import numpy as np
import pytest

from kd_utils import seeds


def philox(*numbers):
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(list(numbers))))


def word(*numbers):
    return np.random.SeedSequence(list(numbers)).generate_state(1)[0]


@pytest.mark.parametrize(
    ("stream", "numbers"),
    [
        (seeds.view(7, 3), (7, 3, 1)),
        (seeds.order(7, 3), (7, 3, 2)),
        (seeds.split(12), (20, 12)),
    ],
)
def test_a_stream_is_philox_over_its_numbers(stream, numbers):
    """The numbers are in every record: with others, no run could be repeated."""
    assert np.array_equal(stream.random(100), philox(*numbers).random(100))


def test_the_seeds_of_torch_are_words_of_their_numbers():
    assert seeds.epoch(7, 3) == word(7, 3, 3)
    assert seeds.initial_weights(7) == word(7, 0, 4)
    assert type(seeds.epoch(0, 0)) is int and 0 <= seeds.epoch(0, 0) < 2**32  # what torch.manual_seed takes


def test_streams_of_a_seed_and_of_other_seeds_differ():
    streams = [seeds.view(0, 0), seeds.view(0, 1), seeds.view(1, 0), seeds.order(0, 0), seeds.order(0, 1)]
    drawn = {tuple(s.integers(2**32, size=4)) for s in [*streams, seeds.split(0), seeds.split(1)]}
    assert len(drawn) == 7
    words = {
        seeds.epoch(0, 0),
        seeds.epoch(0, 1),
        seeds.epoch(1, 0),
        seeds.initial_weights(0),
        seeds.initial_weights(1),
    }
    assert len(words) == 5


def test_the_first_draws_are_those_of_the_records():
    """Pinned once. If NumPy ever draws permutations otherwise, records of before and after are of other orders."""
    assert seeds.order(5, 3).permutation(1000)[:5].tolist() == [352, 596, 561, 281, 464]
