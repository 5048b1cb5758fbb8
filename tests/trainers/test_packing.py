import torch

from hwmodel.geometry import crossbar_count, whole_crossbars
from tests.trainers.toys import SPEC
from trainers.packing import strongest_layout


def test_nothing_to_remove_leaves_the_dense_layout() -> None:
    layout = strongest_layout(torch.randn(4, 2, 3, 3), 2)
    assert layout.kept_rows is None
    assert layout.kept_outputs is None
    assert (layout.groups, layout.outputs, layout.rows) == (2, 2, 18)
    generous = strongest_layout(torch.randn(4, 6), 1, rows=6, outputs=9)
    assert generous.kept_rows is None
    assert generous.kept_outputs is None


def test_strongest_outputs_stay_in_ascending_order() -> None:
    weight = torch.tensor([[2.0, 2.0], [0.1, 0.1], [-3.0, 0.0], [1.0, 0.0]])
    layout = strongest_layout(weight, 1, outputs=2)
    assert layout.kept_outputs is not None
    assert layout.kept_outputs.tolist() == [[0, 2]]


def test_rows_are_ranked_over_the_outputs_that_stay() -> None:
    weight = torch.tensor([[3.0, 0.0, 1.0], [0.0, 2.5, 0.0]])
    layout = strongest_layout(weight, 1, rows=2, outputs=1)
    assert layout.kept_outputs is not None
    assert layout.kept_rows is not None
    assert layout.kept_outputs.tolist() == [[0]]
    # Row 1 is the second strongest of all, but lives on the output that goes.
    assert layout.kept_rows.tolist() == [[0, 2]]


def test_each_group_keeps_its_own() -> None:
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [8.0, 7.0], [6.0, 5.0]])
    layout = strongest_layout(weight, 2, rows=1, outputs=1)
    assert layout.kept_outputs is not None
    assert layout.kept_rows is not None
    assert layout.kept_outputs.tolist() == [[1], [0]]
    assert layout.kept_rows.tolist() == [[1], [0]]


def test_ranking_keeps_no_graph() -> None:
    layout = strongest_layout(torch.randn(4, 6, requires_grad=True), 1, rows=3, outputs=2)
    assert layout.kept_rows is not None
    assert not layout.kept_rows.requires_grad


def test_kept_counts_that_fill_whole_crossbars_save_crossbars() -> None:
    weight = torch.randn(4, 20)
    rows = whole_crossbars(0.5, 20, SPEC.wordlines)
    layout = strongest_layout(weight, 1, rows=rows)
    assert layout.packed_rows == 16
    before = crossbar_count(1, 20, 4, SPEC)
    assert crossbar_count(1, layout.packed_rows, 4, SPEC) == before * 2 // 3
