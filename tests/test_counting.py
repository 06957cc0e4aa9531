"""Products and operators on shapes: against torch's own counters, which ask every operator anew."""

from collections.abc import Callable, Mapping

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from rectify.cost import SIZES, known_languages
from rectify.counting import Counter
from rectify.language.block import empty_block
from rectify.language.families import parse_config

LLAMA = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}


class Each(TorchDispatchMode):
    """Counts the operators that run within it, but for views, one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


class Forked(nn.Module):
    """Results of several kinds: tuples, parts of tuples, numbers, what is changed in place."""

    def forward(self, values: Tensor) -> Tensor:
        best, places = values.sort(-1)
        one, other = best.split(values.shape[-1] // 2, -1)
        mean = torch.var_mean(values, -1, keepdim=True)[1]
        scaled = (one + 2 * other).clamp_(min=0) * mean
        return torch.where(places[..., :1] > 3, scaled, scaled.to(torch.float64).float())


def llama() -> nn.Module:
    return empty_block(parse_config(known_languages()["llama-7b"] | LLAMA, SIZES), "")


MODELS = {
    "blocks": lambda: nn.Sequential(*(Block(16, 2, drop_path=0.1) for _ in range(3))),
    "attention": lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
    "convolutions": lambda: nn.Sequential(
        nn.Conv1d(5, 5, 3), nn.BatchNorm1d(5), nn.Conv1d(5, 5, 3)
    ),
    "llama": llama,
    "several results": Forked,
}


def passed(model: nn.Module, values: Tensor) -> None:
    outputs = model.train()(values)
    outputs.square().mean().backward()
    model.zero_grad()
    values.grad = None


def counted(model: nn.Module, values: Tensor) -> tuple[int, int]:
    with Counter() as counter:
        passed(model, values)
    return counter.flops, counter.launches


@pytest.mark.parametrize("name", MODELS)
def test_a_pass_is_counted_as_by_asking_every_operator(name: str) -> None:
    with torch.device("meta"):
        model, values = MODELS[name](), torch.rand(2, 5, 16, requires_grad=True)
        turned = torch.rand(5, 2, 16).transpose(0, 1).requires_grad_()
    for inputs in (values, turned):
        with Each() as each, FlopCounterMode(display=False) as products:
            passed(model, inputs)
        expected = products.get_total_flops(), each.count
        assert counted(model, inputs) == expected
        assert counted(model, inputs) == expected  # from memory
        assert expected[1] > 0
    assert expected[0] > 0 or name == "several results"


@pytest.mark.parametrize("name", MODELS)
def test_results_from_memory_are_as_those_of_operators(name: str) -> None:
    with torch.device("meta"):
        model, values = MODELS[name]().eval(), torch.rand(2, 5, 16)
    real = model(values)
    for _ in range(2):
        with Counter():
            again = model(values)
        assert (again.shape, again.stride(), again.dtype) == (real.shape, real.stride(), real.dtype)
        assert again.device == real.device


def test_an_operator_is_asked_once_for_each_shape_and_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    run = Counter._run

    def noted(counter: Counter, func: OpOverload, args: tuple, named: dict) -> object:
        asked.append(func.name())
        return run(counter, func, args, named)

    monkeypatch.setattr(Counter, "_run", noted)
    monkeypatch.setattr(Counter, "_answers", {})
    one, other = (torch.empty(3, size, device="meta") for size in (2, 4))
    with Counter() as counter:
        results = [one.exp(), one.exp(), other.exp(), one.double().exp(), one.t().exp()]
    assert asked.count("aten::exp") == 4
    assert counter.launches == 6
    assert [tuple(result.shape) for result in results] == [(3, 2), (3, 2), (3, 4), (3, 2), (2, 3)]
    assert results[0] is not results[1]
    assert [results[3].dtype, results[4].stride()] == [torch.float64, (1, 2)]


def test_what_is_changed_in_place_stays_itself_and_can_have_another_shape() -> None:
    values = torch.empty(2, 3, device="meta")
    with Counter() as counter:
        for _ in range(2):
            assert values.clamp_(min=0) is values
            assert values.add_(torch.empty(3, device="meta")) is values
            assert nn.init.trunc_normal_(values) is values
    with Each() as each:
        values.clamp_(min=0).add_(torch.empty(3, device="meta"))
        nn.init.trunc_normal_(values)
    assert counter.launches == 2 * each.count
    with Counter():
        shapes = [tuple(values.t_().shape) for _ in range(4)]
        assert tuple(values.resize_(5).shape) == (5,)
    assert shapes == [(3, 2), (2, 3), (3, 2), (2, 3)]


@pytest.mark.parametrize(
    "change", [lambda values: values.add_(1), lambda values: torch.add(values, 1, out=values)]
)
def test_what_has_values_or_changes_them_is_computed(change: Callable[[Tensor], Tensor]) -> None:
    values = torch.zeros(3)
    with Counter() as counter:
        for _ in range(2):
            assert change(values) is values
            doubled = values * 2
    assert (values.tolist(), doubled.tolist()) == ([2, 2, 2], [4, 4, 4])
    assert counter.launches == 4


def test_operators_are_counted_but_for_views() -> None:
    layer, values = nn.Linear(3, 2, bias=False), torch.ones(4, 3)
    with Counter() as started:
        total = layer(values).relu().sum()  # a product of the transposed matrix, two more
    assert started.launches == 3
    with Counter() as started:
        total.backward()  # ones, the sum's expanded, that of relu, a product; kept as it is
    assert started.launches in (3, 4)
