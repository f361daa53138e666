"""The augmented view of an epoch: a pure function of (seed, view, image index).

The random numbers are drawn on the CPU (seeds.py), one row for each image of the training set, so an image's view
depends neither on the batch that it comes in nor on the device. Teacher and student see the same pixels.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from .. import seeds
from ..schema import Augment


def order(seed: int, epoch: int, n: int) -> torch.Tensor:
    """The order in which an epoch, from 0, visits n images: a permutation, (n,) int64, on the CPU."""
    return torch.from_numpy(seeds.order(seed, epoch).permutation(n))


class View:
    """One view of a training set of n images: view(images, index) gives the augmented images of these indices.

    seed, number: of the view. device: where it works. draws: (n, 5) float32, uniform in [0, 1): the flip, then for
    crop 'shift' the shift down and to the right, for 'resized' area, aspect and place (across, down).
    turn: (n,) float32, uniform in [-1, 1): of the greatest angle; drawn after these.
    """

    def __init__(self, augment: Augment, seed: int, number: int, n: int, device: str | torch.device = "cpu") -> None:
        self.augment = augment
        generator = seeds.view(seed, number)
        self.draws = torch.from_numpy(generator.random((n, 5), dtype=np.float32)).to(device)
        self.turn = (
            torch.from_numpy(2 * generator.random(n, dtype=np.float32) - 1).to(device) if augment.rotate else None
        )

    def __call__(self, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """images: (N, H, W, 3) uint8, the whole training set; index: (B,) int64 into it. Returns (B, H, W, 3) uint8.

        images, index and the view lie on one device.
        """
        seen = self._cropped(images, index)
        if self.turn is None:
            return seen
        return _rotated(seen, self.turn[index] * math.radians(self.augment.rotate))

    def _cropped(self, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        draws = self.draws[index]
        flip = (draws[:, 0] < 0.5) if self.augment.flip else torch.zeros_like(draws[:, 0], dtype=torch.bool)
        if self.augment.crop == "resized":
            return _resized(images[index], flip, draws[:, 1:], self.augment.scale)
        reach = self.augment.shift if self.augment.crop == "shift" else 0
        down = (draws[:, 1] * (2 * reach + 1)).floor().long() - reach
        right = (draws[:, 2] * (2 * reach + 1)).floor().long() - reach
        return _shifted(images, index, flip, down, right)


def _shifted(
    images: torch.Tensor, index: torch.Tensor, flip: torch.Tensor, down: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """Flip, then read (down, right) pixels further on; what lies outside is 0. One gather of whole pixels."""
    _, h, w, c = images.shape
    ys = torch.arange(h, device=images.device) + down[:, None]
    xs = torch.arange(w, device=images.device) + right[:, None]
    inside = ((ys >= 0) & (ys < h))[:, :, None] & ((xs >= 0) & (xs < w))[:, None, :]
    xs = torch.where(flip[:, None], w - 1 - xs, xs)
    rows = (index[:, None] * h + ys.clamp(0, h - 1))[:, :, None] * w + xs.clamp(0, w - 1)[:, None, :]
    pixels = images.view(-1, c).index_select(0, rows.view(-1)).view(len(index), h, w, c)
    return pixels.mul_(inside[..., None])


def _resized(batch: torch.Tensor, flip: torch.Tensor, draws: torch.Tensor, least: float) -> torch.Tensor:
    """A crop of random area (least to 1), aspect (3/4 to 4/3, log-uniform) and place, bilinear back to full size.

    Szegedy et al. 2015, 'Going deeper with convolutions'; a side longer than the image is cut to the image.
    """
    area = least + (1 - least) * draws[:, 0]
    aspect = torch.exp((2 * draws[:, 1] - 1) * float(np.log(4 / 3)))
    wide = (area * aspect).sqrt().clamp(max=1)
    high = (area / aspect).sqrt().clamp(max=1)
    centre_x = (1 - wide) * (2 * draws[:, 2] - 1)
    centre_y = (1 - high) * (2 * draws[:, 3] - 1)
    zero = torch.zeros_like(wide)
    signed = torch.where(flip, -wide, wide)
    theta = torch.stack([signed, zero, centre_x, zero, high, centre_y], dim=1).view(-1, 2, 3)
    pixels = batch.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    out = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return out.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _rotated(batch: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Turned about its centre by so many radians each, (B,), bilinear; what lies outside is 0."""
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    theta = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    pixels = batch.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    out = F.grid_sample(pixels, grid, align_corners=False)
    return out.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
