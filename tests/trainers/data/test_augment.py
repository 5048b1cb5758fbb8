import pytest
import torch

from trainers.data.augment import AUGMENTATIONS, crop_flip, cutout, flip


def ramps(count: int = 64) -> torch.Tensor:
    """Images whose every pixel differs, `[count, 2, 5, 6]`."""
    one = torch.arange(1.0, 61.0).reshape(1, 2, 5, 6)
    return one.repeat(count, 1, 1, 1)


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_rest() -> None:
    torch.manual_seed(0)
    images = ramps(400)
    flipped = flip(images)
    mirrored = (flipped == images.flip(3)).flatten(1).all(dim=1)
    same = (flipped == images).flatten(1).all(dim=1)
    assert bool((mirrored ^ same).all())
    assert 150 < int(mirrored.sum()) < 250


def test_crop_flip_cuts_a_window_out_of_the_padded_image() -> None:
    torch.manual_seed(0)
    images = ramps(32)
    found = crop_flip(images)
    assert found.shape == images.shape
    padded = torch.nn.functional.pad(images[:1], (4, 4, 4, 4))
    windows = {
        tuple(window.flatten().tolist())
        for top in range(9)
        for left in range(9)
        for window in (
            padded[0, :, top : top + 5, left : left + 6],
            padded[0, :, top : top + 5, left : left + 6].flip(2),
        )
    }
    assert all(tuple(image.flatten().tolist()) in windows for image in found)
    assert len({tuple(image.flatten().tolist()) for image in found}) > 20


def test_cutout_blanks_one_square_with_the_mean_wherever_its_centre_falls() -> None:
    torch.manual_seed(0)
    images = torch.rand(300, 3, 8, 12)
    found = cutout(images)
    hidden = found != images
    assert torch.equal(hidden.all(dim=1), hidden.any(dim=1))
    means = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    assert torch.equal(found[hidden], means[hidden])
    heights, widths = hidden[:, 0].any(dim=2).sum(dim=1), hidden[:, 0].any(dim=1).sum(dim=1)
    assert torch.equal(hidden[:, 0].sum(dim=(1, 2)), heights * widths)
    # Squares of 4, cut off at the border by up to half.
    assert set(heights.tolist()) == set(widths.tolist()) == {2, 3, 4}
    assert bool(hidden[:, 0].any(dim=0).all())


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_augmentation_repeats_under_a_seed_and_leaves_its_input(name: str) -> None:
    images = ramps()
    torch.manual_seed(3)
    first = AUGMENTATIONS[name](images)
    torch.manual_seed(3)
    assert torch.equal(AUGMENTATIONS[name](images), first)
    assert torch.equal(images, ramps())
