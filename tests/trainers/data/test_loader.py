import pytest
import torch

from hwmodel.errors import DataError
from trainers.data.dataset import ImageSet
from trainers.data.loader import Batches


@pytest.fixture
def images() -> ImageSet:
    """Ten images, each of whose pixels hold ten times the label."""
    labels = torch.arange(10)
    pixels = (labels * 10).byte().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    return ImageSet(name="toy", images=pixels, labels=labels, classes=10)


def labels_of(batches: Batches, epoch: int) -> list[int]:
    return torch.cat([labels for _, labels in batches.epoch(epoch)]).tolist()


def test_evaluation_covers_every_image_once_in_order(images: ImageSet) -> None:
    batches = Batches(images, 4, seed=0, device="cpu", shuffle=False)
    assert len(batches) == len(list(batches)) == 3
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert labels_of(batches, 0) == labels_of(batches, 1) == list(range(10))


def test_training_epoch_covers_every_image_once_where_batches_fit(images: ImageSet) -> None:
    batches = Batches(images, 5, seed=0, device="cpu")
    assert sorted(labels_of(batches, 0)) == list(range(10))


def test_training_drops_the_partial_batch_but_not_always_the_same_images(
    images: ImageSet,
) -> None:
    batches = Batches(images, 4, seed=0, device="cpu")
    assert len(batches) == 2
    assert [len(labels) for _, labels in batches.epoch(0)] == [4, 4]
    assert {label for epoch in range(20) for label in labels_of(batches, epoch)} == set(range(10))


@pytest.mark.parametrize("shuffle", [True, False])
def test_pixels_become_floats_between_0_and_1_and_stay_with_their_labels(
    images: ImageSet, shuffle: bool
) -> None:
    for pixels, labels in Batches(images, 5, seed=0, device="cpu", shuffle=shuffle):
        assert pixels.dtype == torch.float32
        assert pixels.shape == (5, 1, 2, 2)
        assert torch.equal(pixels[:, 0, 1, 1], (labels * 10).float() / 255)
    assert images.images.max() == 90


def test_order_depends_on_seed_and_epoch_alone(images: ImageSet) -> None:
    batches = Batches(images, 5, seed=3, device="cpu")
    torch.manual_seed(1)
    first = labels_of(batches, 2)
    torch.manual_seed(2)
    assert first == labels_of(Batches(images, 2, seed=3, device="cpu"), 2)
    assert first != labels_of(batches, 3)
    assert first != labels_of(Batches(images, 5, seed=2, device="cpu"), 3)


def test_batches_leave_the_global_generator_alone(images: ImageSet) -> None:
    before = torch.random.get_rng_state()
    list(Batches(images, 5, seed=0, device="cpu"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_iterating_counts_epochs_and_resumes_where_told(images: ImageSet) -> None:
    batches = Batches(images, 5, seed=0, device="cpu")
    orders = [torch.cat([labels for _, labels in batches]).tolist() for _ in range(3)]
    assert orders == [labels_of(batches, epoch) for epoch in range(3)]
    resumed = Batches(images, 5, seed=0, device="cpu")
    resumed.next_epoch = 2
    assert torch.cat([labels for _, labels in resumed]).tolist() == orders[2]


def test_impossible_batch_sizes_are_refused(images: ImageSet) -> None:
    with pytest.raises(DataError, match="batch size is 0, expected at least 1"):
        Batches(images, 0, seed=0, device="cpu")
    with pytest.raises(DataError, match="toy: 10 images, expected at least one batch of 11"):
        Batches(images, 11, seed=0, device="cpu")
    assert len(Batches(images, 11, seed=0, device="cpu", shuffle=False)) == 1
