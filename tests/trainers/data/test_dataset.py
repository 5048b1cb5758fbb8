import pickle

import pytest
import torch

from hwmodel.errors import DataError
from trainers.data.dataset import Dataset, ImageSet


def image_set(labels: list[int], *, classes: int = 3, size: int = 2) -> ImageSet:
    images = torch.arange(len(labels), dtype=torch.uint8).reshape(-1, 1, 1, 1)
    return ImageSet(
        name="toy",
        images=images.expand(-1, 1, size, size).contiguous(),
        labels=torch.tensor(labels),
        classes=classes,
    )


def test_length_and_shape_are_those_of_the_images() -> None:
    images = image_set([0, 1, 2, 0])
    assert len(images) == 4
    assert images.shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(1, 1, 2, 2), torch.zeros(1).long(), "float32, expected uint8"),
        (torch.zeros(1, 1, 2, 2).byte(), torch.zeros(1).int(), "int32, expected int64"),
        (torch.zeros(1, 2, 2).byte(), torch.zeros(1).long(), r"\(1, 2, 2\), expected 4 dim"),
        (torch.zeros(0, 1, 2, 2).byte(), torch.zeros(0).long(), "at least one image"),
        (torch.zeros(2, 1, 2, 2).byte(), torch.zeros(1).long(), r"\(1,\), expected \(2,\)"),
    ],
)
def test_wrong_tensors_are_refused(
    images: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        ImageSet(name="toy", images=images, labels=labels, classes=3)


@pytest.mark.parametrize("bad", [-1, 3])
def test_first_label_out_of_range_is_named(bad: int) -> None:
    with pytest.raises(DataError, match=rf"^toy: label {bad} in row 2, expected 0\.\.2$"):
        image_set([0, 1, bad, 7])


def test_digest_is_stable_and_covers_shape_pixels_and_labels() -> None:
    first = image_set([0, 1, 2, 0])
    assert first.digest == first.digest == image_set([0, 1, 2, 0]).digest
    brighter = ImageSet(
        name="toy", images=first.images + 1, labels=first.labels, classes=first.classes
    )
    reshaped = ImageSet(
        name="toy", images=first.images.reshape(4, 1, 1, 4), labels=first.labels, classes=3
    )
    relabelled = image_set([0, 1, 2, 1])
    assert len({item.digest for item in (first, brighter, reshaped, relabelled)}) == 4


def test_subset_of_alternating_rows_is_a_view_of_the_prefix() -> None:
    images = image_set([2, 0, 1, 0, 1, 2])
    part = images.subset(4)
    assert part.labels.tolist() == [2, 0, 1, 0]
    assert part.images.data_ptr() == images.images.data_ptr()


def test_subset_of_a_sorted_set_is_balanced_and_nested() -> None:
    images = image_set([0, 0, 0, 0, 1, 1, 2, 2, 2])
    part = images.subset(6)
    assert part.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert part.images[:, 0, 0, 0].tolist() == [0, 4, 6, 1, 5, 7]
    assert part.subset(3).digest == images.subset(3).digest
    assert images.subset(9).labels.bincount().tolist() == [4, 2, 3]


@pytest.mark.parametrize("count", [0, 5])
def test_subset_count_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(DataError, match=rf"{count} images asked, allowed are 1\.\.4"):
        image_set([0, 1, 2, 0]).subset(count)


def test_moving_to_the_same_device_copies_nothing() -> None:
    images = image_set([0, 1])
    assert images.to("cpu").images.data_ptr() == images.images.data_ptr()
    assert images.to(torch.device("cpu")).digest == images.digest


def test_image_set_survives_pickling() -> None:
    images = image_set([0, 1, 2])
    assert pickle.loads(pickle.dumps(images)).digest == images.digest


def test_dataset_has_the_shape_and_classes_of_its_splits() -> None:
    dataset = Dataset(name="toy", train=image_set([0, 1]), test=image_set([2]))
    assert dataset.input_shape == (1, 2, 2)
    assert dataset.classes == 3


def test_dataset_with_differing_splits_is_refused() -> None:
    with pytest.raises(DataError, match=r"image shape \(1, 2, 2\) in train but \(1, 3, 3\)"):
        Dataset(name="toy", train=image_set([0]), test=image_set([0], size=3))
    with pytest.raises(DataError, match="number of classes 3 in train but 4 in test"):
        Dataset(name="toy", train=image_set([0]), test=image_set([0], classes=4))


def test_chosen_classes_are_numbered_in_the_order_given() -> None:
    images = image_set([2, 0, 1, 2, 0])
    part = images.of_classes((2, 0))
    assert part.labels.tolist() == [0, 1, 0, 1]
    assert part.images[:, 0, 0, 0].tolist() == [0, 1, 3, 4]
    assert part.classes == 2


@pytest.mark.parametrize("classes", [(), (1,), (0, 0), (0, 3), (-1, 1)])
def test_impossible_choices_of_classes_are_refused(classes: tuple[int, ...]) -> None:
    with pytest.raises(
        DataError, match=r"toy: classes \[.*\] asked, allowed are two or more of 0..2"
    ):
        image_set([0, 1, 2]).of_classes(classes)
