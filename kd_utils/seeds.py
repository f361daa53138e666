"""Every random stream of a run: what it is for, and the number that sets it apart from the others of the same seed.

    number  stream            drawn for
    1       view              each view of the training set: flips, crops
    2       order             each epoch: the order of the images
    3       epoch             each epoch: torch's generator, for what a model or a loss draws itself (dropout, say)
    4       initial_weights   each run: torch's generator, for the weights that are not loaded
    20      split             each class: which training images are kept, moved to val, held out (whatever the seed)

A stream is a counter-based generator (Philox; Salmon et al. 2011, 'Parallel random numbers: as easy as 1, 2, 3'),
keyed by NumPy's SeedSequence over its numbers: streams of other numbers are independent, none is the state that
another one left behind. The numbers are part of what records say: another number is another experiment.
Outside of runs, `kd search` draws its points, and `kd new` the images that it looks at, the same way each time.
Loads no torch.
"""

import numpy as np

VIEW, ORDER, EPOCH, INITIAL_WEIGHTS, SPLIT = 1, 2, 3, 4, 20


def view(seed: int, number: int) -> np.random.Generator:
    """What the view of that number does to each image of the training set."""
    return _generator(seed, number, VIEW)


def order(seed: int, epoch: int) -> np.random.Generator:
    """The order in which an epoch, from 0, visits the training images."""
    return _generator(seed, epoch, ORDER)


def epoch(seed: int, epoch: int) -> int:
    """The seed of torch's generator for an epoch, from 0: 32 bits."""
    return _word(seed, epoch, EPOCH)


def initial_weights(seed: int) -> int:
    """The seed of torch's generator for the weights that a run begins with: 32 bits."""
    return _word(seed, 0, INITIAL_WEIGHTS)


def split(of_class: int) -> np.random.Generator:
    """The order in which the training images of a class are dealt to the splits; the same for every seed.

    of_class: the class's index in the whole data set.
    """
    return _generator(SPLIT, of_class)


def _generator(*numbers: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(numbers)))


def _word(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
