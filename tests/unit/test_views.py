import numpy as np
import pytest
import torch

from kd_utils.learning.views import View, order
from kd_utils.schema import Augment

pytestmark = pytest.mark.numeric
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (40, 12, 12, 3), dtype=np.uint8))
AUGMENTS = [
    Augment(flip=True, crop="shift", shift=3),
    Augment(flip=True, crop="resized", scale=0.4),
    Augment(flip=False, crop="none", rotate=20),
    Augment(flip=False, crop="none"),
]


@pytest.mark.parametrize("augment", AUGMENTS)
def test_a_view_is_a_function_of_seed_view_and_index(augment):
    whole = View(augment, 3, 7, 40)(IMAGES, torch.arange(40))
    shuffled = torch.randperm(40)
    again = View(augment, 3, 7, 40)(IMAGES, shuffled)
    assert torch.equal(again, whole[shuffled])
    one = View(augment, 3, 7, 40)(IMAGES, torch.tensor([17]))
    assert torch.equal(one[0], whole[17])


@pytest.mark.parametrize("augment", AUGMENTS[:3])
def test_other_seeds_and_views_are_others(augment):
    index = torch.arange(40)
    views = [View(augment, s, v, 40)(IMAGES, index) for s, v in ((0, 0), (0, 1), (1, 0))]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        same = (views[a] == views[b]).flatten(1).all(1).float().mean()
        assert same < 0.2


def test_shift_and_flip_equal_slicing():
    """Every view is one of the 2 x 7 x 7 flips and shifts of its image, found by slicing a padded copy."""
    reach = 3
    got = View(Augment(flip=True, crop="shift", shift=reach), 1, 2, 40)(IMAGES, torch.arange(40)).numpy()
    found = set()
    for k in range(40):
        matches = []
        for flip in (False, True):
            source = IMAGES[k].numpy()[:, ::-1] if flip else IMAGES[k].numpy()
            padded = np.pad(source, ((reach, reach), (reach, reach), (0, 0)))
            for dy in range(2 * reach + 1):
                for dx in range(2 * reach + 1):
                    if np.array_equal(padded[dy : dy + 12, dx : dx + 12], got[k]):
                        matches.append((flip, dy, dx))
        assert len(matches) == 1
        found.add(matches[0])
    assert {f for f, _, _ in found} == {False, True}
    assert {d for _, d, _ in found} == {d for _, _, d in found} == set(range(7))


def test_no_augmentation_keeps_the_bits():
    got = View(Augment(flip=False, crop="none"), 1, 2, 40)(IMAGES, torch.arange(40))
    assert torch.equal(got, IMAGES)


def test_a_resized_crop_of_the_whole_image_is_the_image_or_its_mirror():
    """scale 1 leaves only the aspect: of a constant-per-column image, a crop of all columns keeps the columns."""
    flat = torch.full((5, 12, 12, 3), 77, dtype=torch.uint8)
    assert torch.equal(View(Augment(crop="resized", scale=1.0), 0, 0, 5)(flat, torch.arange(5)), flat)


def test_resized_crops_are_inside_and_as_large_as_asked():
    """On an image whose pixels hold their own column, a crop's range of columns is its width and place."""
    ramp = (torch.arange(240, dtype=torch.uint8).view(1, 1, 240, 1)).expand(400, 240, 240, 3).contiguous()
    got = View(Augment(flip=True, crop="resized", scale=0.25), 0, 0, 400)(ramp, torch.arange(400)).float()
    row = got[:, 120, :, 0]
    width = (row[:, -1] - row[:, 0]).abs() / 239
    assert row.min() >= 0 and row.max() <= 239
    assert width.min() > 0.4 and width.max() <= 1.0
    flipped = (row[:, -1] < row[:, 0]).float().mean()
    assert 0.4 < flipped < 0.6


def test_flips_and_shifts_are_uniform():
    ones = torch.ones(4000, 4, 4, 3, dtype=torch.uint8)
    got = View(Augment(flip=False, crop="shift", shift=1), 0, 0, 4000)(ones, torch.arange(4000))
    rows_lost = (got[:, :, 1:3, 0].amax(2) == 0).sum(1).float()
    assert abs(rows_lost.mean().item() - 2 / 3) < 0.04


def test_the_order_is_a_permutation_of_its_own_each_epoch():
    a, b = order(0, 0, 1000), order(0, 1, 1000)
    assert sorted(a.tolist()) == list(range(1000)) and not torch.equal(a, b)
    assert torch.equal(a, order(0, 0, 1000))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("augment", [AUGMENTS[0], AUGMENTS[2]])
def test_the_device_does_not_matter(augment):
    there = View(augment, 3, 7, 40, "cuda")(IMAGES.cuda(), torch.arange(40).cuda())
    assert torch.equal(there.cpu(), View(augment, 3, 7, 40)(IMAGES, torch.arange(40)))


def test_a_turn_is_scipy_s():
    from scipy.ndimage import rotate

    view = View(Augment(flip=True, crop="shift", shift=2, rotate=30), 1, 2, 40)
    before = View(Augment(flip=True, crop="shift", shift=2), 1, 2, 40)(IMAGES, torch.arange(40))
    turned = view(IMAGES, torch.arange(40))
    angles = 30 * view.turn
    assert angles.min() < -20 and angles.max() > 20
    for image, angle, got in zip(before, angles.tolist(), turned, strict=True):
        want = rotate(image.double().numpy(), angle, reshape=False, order=1, mode="grid-constant")
        assert np.abs(want - got.double().numpy()).max() <= 0.51
