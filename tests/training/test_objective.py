import math

import pytest
import torch

from rectify.training.objective import Objective, auxiliary_weight


@pytest.mark.parametrize(
    ("first", "floor", "mean"),
    [(0.15, 100, 0.108), (0.25, 180, 0.145), (0.35, 214.3, 0.190), (0.45, 233.3, 0.237)],
)
def test_lambda_falls_linearly_to_its_floor(first, floor, mean):
    values = [auxiliary_weight(first, epoch, 300) for epoch in range(300)]
    assert values[0] == first
    assert values[150] == pytest.approx(max(0.1, first / 2))
    assert sum(values) / 300 == pytest.approx(mean, abs=6e-4)
    reached = next(epoch for epoch, value in enumerate(values) if value == 0.1)
    assert reached == math.ceil(round(floor, 6))
    assert set(values[reached:]) == {0.1}
    assert floor == pytest.approx(300 * (1 - 0.1 / first), abs=0.05)


def test_another_floor_is_kept_and_none_lets_lambda_fall_to_one_last_step():
    values = [auxiliary_weight(0.8, epoch, 4, 0.5) for epoch in range(4)]
    assert values == pytest.approx([0.8, 0.6, 0.5, 0.5])
    assert auxiliary_weight(0.8, 3, 4, 0.0) == pytest.approx(0.2)


def test_no_first_lambda_means_no_second_loss_in_any_epoch():
    assert [auxiliary_weight(0.0, epoch, 10) for epoch in range(10)] == [0.0] * 10


def test_the_total_loss_is_the_weighted_sum():
    main, second = torch.tensor(2.0), torch.tensor(5.0)
    total = 0.65 * 2 + 0.35 * 5
    objective = Objective.of(main, second, 0.35)
    assert objective.total.item() == pytest.approx(total)
    assert objective.values().tolist() == pytest.approx([total, 2, 5])


def test_one_path_has_its_loss_as_the_total():
    main = torch.tensor(2.0, requires_grad=True)
    objective = Objective.of(main, None, 0.0)
    assert objective.total is main
    assert objective.values().tolist() == [2, 2, 0]
    assert not objective.values().requires_grad
