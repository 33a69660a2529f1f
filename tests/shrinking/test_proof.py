"""Forwards that address channels by number, behind whatever hides it: the smaller model is right, or refused."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import prunus
from branching import Branching
from masked import apart, outputs
from prunus.graph.exported import ExportedModule
from prunus.proving.drawing import Inputs
from prunus.proving.trials import Trial, disagreement

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH = 12


class Between(nn.Module):
    """A convolution, a function of its channels, a convolution, and a function of the outputs."""

    def __init__(self, seed: int, function: Callable[[Tensor], Tensor], last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Conv2d(2, WIDTH, 1), nn.Conv2d(WIDTH, 3, 1)
        self.function, self.last = function, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.function(torch.relu(self.first(x)))))


def zeroed(y: Tensor) -> Tensor:
    y = y.clone()
    y[:, :2] = 0
    return y


def every_other(y: Tensor) -> Tensor:
    y = y.clone()
    y[:, ::2] *= 0.5
    return y


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "first two zeroed": zeroed,
    "every other halved": every_other,
    "first four halved": lambda y: torch.cat([y[:, :4] * 0.5, y[:, 4:]], 1),
    "last two negated": lambda y: torch.cat([y[:, :-2], -y[:, -2:]], 1),
    "some picked": lambda y: y[:, [3, 1, 0, 2, 5, 4, 7, 6, 9, 8, 11, 10]],
    "shuffled": lambda y: nn.functional.channel_shuffle(y, 3),
    "rolled": lambda y: torch.roll(y, 5, 1),
    "flipped": lambda y: y.flip(1) + y,
    "halves swapped": lambda y: torch.cat(y.chunk(2, 1)[::-1], 1),
    "uneven pieces": lambda y: torch.cat([piece * (place + 1) for place, piece in enumerate(y.split([5, 7], 1))], 1),
    "masked by number": lambda y: y.masked_fill((torch.arange(WIDTH) < 3)[None, :, None, None], 0.0),
    "doubled by number": lambda y: torch.where((torch.arange(WIDTH) % 3 == 0)[:, None, None], 2 * y, y),
}
# A channel goes with its mirror image; a mask of constants can't be cut.
KEEPS_ALL = ("flipped", "masked by number", "doubled by number")
LAST: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda y: y,
    "argmax": lambda y: y.mean((2, 3)).argmax(1),
    "clamp": lambda y: y.clamp(-0.01, 0.01),
    "steep sigmoid": lambda y: torch.sigmoid(200 * y),
    "dead relu": lambda y: torch.relu(y - 1.5),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("last", LAST)
def test_channels_addressed_by_number(function: str, last: str) -> None:
    seed = (list(FUNCTIONS).index(function) + list(LAST).index(last)) % 2
    generator = torch.Generator().manual_seed(3)
    model = Between(seed, FUNCTIONS[function], LAST[last]).double().eval()
    gone = torch.randperm(WIDTH, generator=generator)[: 5 - 3 * seed]
    model.second.weight.data[:, gone] = 0
    if seed:  # by what feeds them too
        model.first.weight.data[gone] = model.first.bias.data[gone] = 0
    inputs = torch.randn(256, 2, 5, 5, generator=generator, dtype=torch.float64) * 3
    smaller = prunus.shrink(model, inputs[:1])
    expected, actual = ([y.double() for y in outputs(net, inputs)] for net in (model, smaller))
    assert apart(expected, actual) < 1e-9
    if function not in KEEPS_ALL:
        assert smaller.state_dict()["first.weight"].shape[0] < WIDTH


class Written(nn.Module):
    """A convolution whose own output is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(self.first(x))
        y[:, :2] = 0
        return self.last(y)


@pytest.mark.parametrize("dead_at", ["first", "middle", "last"])
def test_what_a_layer_gives_to_be_written_to_is_needed(dead_at: str) -> None:
    torch.manual_seed(0)
    model = Written().double().eval()
    with torch.no_grad():
        getattr(model, dead_at).weight[:2, 1:4] = 0
        model.first.weight[5:] = 0
        model.middle.weight[:, 4] = 0
    inputs = torch.randn(9, 2, 4, 4, dtype=torch.float64)
    smaller = prunus.shrink(model, inputs[:1])
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) < 1e-10


class Overflowing(nn.Module):
    """Zero times a number that overflows for large inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("gate", torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 1.0]))
        self.first.weight.data[:2] = 12

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.exp(self.first(x).clamp(min=0)) * self.gate)


def test_zero_times_what_overflows_for_large_inputs_is_zero() -> None:
    smaller = prunus.shrink(Overflowing().eval(), torch.zeros(1, 4))
    assert smaller.state_dict()["first.weight"].shape == (4, 4)


class Tokens(nn.Module):
    """An embedding whose channels matter for one token only, which no example has."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(50, 16), nn.Linear(16, 2)
        self.table.weight.data[:49, :8] = 0
        self.table.weight.data[49] = torch.arange(16.0)
        self.head.weight.data[:, 3] = 0

    def forward(self, tokens: Tensor) -> Tensor:
        y = self.table(tokens)
        y = torch.cat([y[..., :4] * 2, y[..., 4:]], -1)
        return self.head(y)


def test_tokens_that_the_example_has_not() -> None:
    model = Tokens().eval()
    smaller = prunus.shrink(model, torch.tensor([[0, 1, 2]]))
    tokens = torch.arange(150).reshape(50, 3) % 50
    assert apart(outputs(model, tokens), outputs(smaller, tokens)) < 1e-5
    assert smaller.state_dict()["table.weight"].shape == (50, 14)  # and a column of zeros


class BySize(nn.Module):
    """Larger images go through a branch that addresses channels by number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 3, 1)
        self.second.weight.data[:, :3] = 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if x.shape[-1] > 7:
            y = torch.cat([y[:, :4] * 2, y[:, 4:]], 1)
        return self.second(y)


def test_a_class_that_is_wrong_at_another_size_is_not_kept() -> None:
    model = BySize().eval()
    smaller = prunus.shrink(model, torch.zeros(1, 2, 6, 6))
    assert isinstance(smaller, ExportedModule)
    inputs = torch.randn(3, 2, 6, 6)
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) < 1e-5


def test_what_was_checked_is_told() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3), nn.Dropout(0.5))
    model[2].weight.data[:, 2:5] = 0
    checked = prunus.shrink(model, torch.zeros(1, 1, 8, 8)).checked
    assert checked.samples >= 64
    assert checked.sizes == (((1, 8, 8),), ((1, 12, 12),), ((1, 16, 16),))
    assert checked.dtypes == (torch.float32,)
    assert checked.operations


class ViTLike(nn.Module):
    """An image size that is the width too; the forward reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size, self.width, self.heads = 16, 16, 4
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.image_size:
            raise ValueError(f"images must be {self.image_size} wide")
        y = self.first(x).view(x.shape[0], 1, self.width)
        return self.second(y)


def test_only_attributes_change_that_must() -> None:
    model = ViTLike().eval()
    model.second.weight.data[:, :6] = 0
    smaller = prunus.shrink(model, torch.zeros(1, 16))
    assert isinstance(smaller, ViTLike)
    assert (smaller.image_size, smaller.width, smaller.heads) == (16, 10, 4)
    inputs = torch.randn(5, 16)
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) < 1e-5


def test_complex_models_keep_their_imaginary_parts() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 8, dtype=torch.complex64), nn.Linear(8, 3, dtype=torch.complex64)]
    model = nn.Sequential(*layers).eval()
    model[0].weight.data[:4] = 0
    model[0].bias.data[:4] = torch.complex(torch.zeros(4), torch.ones(4))
    inputs = torch.randn(6, 4, dtype=torch.complex64)
    smaller = prunus.shrink(model, inputs[:1])
    assert smaller[0].out_features == 4
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) < 1e-5


def test_a_model_that_can_not_run_its_example_is_refused_in_words() -> None:
    model = nn.Sequential(nn.Linear(4, 8, dtype=torch.complex64), nn.Linear(8, 3, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"does not run|can't run"):
        prunus.shrink(model, torch.zeros(1, 4))


class ManySamples(Branching):
    """Takes large batches another way."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        return self.last(y.flip(1) if x.shape[0] > 100 else y)


def test_a_model_that_takes_large_batches_another_way_takes_the_proved_one_only() -> None:
    model = ManySamples(torch.relu).eval()
    model.last.weight.data[:, :6] = 0
    smaller = prunus.shrink(model, torch.zeros(3, 8))
    assert isinstance(smaller, ExportedModule)
    assert smaller.checked.batch == 3
    inputs = torch.randn(3, 8)
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) < 1e-5
    with pytest.raises(ValueError, match="must have the shape"):
        smaller(torch.randn(101, 8))


class Optional(Branching):
    """Has arguments that the example does not give."""

    def forward(
        self, x: Tensor, back: bool = False, turns: int = 0, features: bool = False, gate: Tensor | None = None
    ) -> Tensor:
        y = self.first(x).relu()
        if features:
            return y
        y = y if gate is None else y * gate
        return self.last((y.flip(1) if back else y).roll(turns, 1))


class Harmless(Branching):
    """Has a switch that works with any channels, and one that it can't be called with."""

    def forward(self, x: Tensor, double: bool = False, broken: bool = False) -> Tensor:
        y = self.first(x).relu()
        if broken:
            raise NotImplementedError
        return self.last(y * 2 if double else y)


def of_six_dead_channels(model: Branching) -> Branching:
    model.last.weight.data[:, :6] = 0
    return model.eval()


@pytest.mark.parametrize("argument", ["back", "turns"])
def test_a_class_that_an_argument_would_make_wrong_is_not_kept(argument: str) -> None:
    model = of_six_dead_channels(Optional(torch.relu))
    given = {"back": False, "turns": 0} | {argument: None}
    given.pop(argument)

    class Bound(type(model)):  # type: ignore[misc]
        def forward(self, x: Tensor, other: bool | int = 0) -> Tensor:
            return super().forward(x, **given, **{argument: other})

    model.__class__ = Bound
    smaller = prunus.shrink(model, torch.zeros(3, 8))
    assert isinstance(smaller, ExportedModule)
    assert "other=1" in smaller.why
    inputs = torch.randn(3, 8)
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) < 1e-5
    with pytest.raises(ValueError, match="'other' is unknown"):
        smaller(inputs, other=1)


def test_a_class_that_other_arguments_leave_right_is_kept_and_told() -> None:
    model = of_six_dead_channels(Harmless(torch.relu))
    smaller = prunus.shrink(model, torch.zeros(3, 8))
    assert isinstance(smaller, Harmless)
    assert smaller.checked.arguments == ("x", "double=True")


class Doubling(Branching):
    """Writes to its input."""

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        return self.last(self.first(x).relu())


def test_a_model_that_writes_to_its_input() -> None:
    model, example = Doubling(torch.relu).eval(), torch.ones(2, 8)
    model.last.weight.data[:, :6] = 0
    smaller = prunus.shrink(model, example)
    assert smaller.first.out_features == 10
    assert torch.equal(example, torch.ones(2, 8))
    inputs = torch.randn(4, 8)
    assert apart(outputs(model, inputs.clone()), outputs(smaller, inputs.clone())) < 1e-5


def test_what_can_not_be_copied_is_named() -> None:
    model = Branching(torch.relu)
    model.first.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"can't be copied: attribute 'first\.lock' \(lock\) failed.*remove it"):
        prunus.shrink(model, torch.zeros(1, 8))


class Random(Branching):
    """Drops out in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.dropout(self.first(x), 0.5))


def test_a_model_of_random_numbers_is_named() -> None:
    model = Random(torch.relu).eval()
    model.last.weight.data[:, :6] = 0
    with pytest.raises(prunus.ShrinkError, match="depend on random numbers"):
        prunus.shrink(model, torch.zeros(1, 8))


@pytest.mark.parametrize(
    ("kind", "dims"),
    [
        (nn.Dropout, 0),
        (nn.Dropout1d, 1),
        (nn.Dropout2d, 2),
        (nn.Dropout3d, 3),
        (nn.AlphaDropout, 0),
        (nn.FeatureAlphaDropout, 3),
    ],
)
def test_each_kind_of_dropout(kind: Callable[[float], nn.Module], dims: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), kind(0.5), nn.Linear(8, 2)).eval()
    with torch.no_grad():
        model[0].weight[:3] = 0
    x = torch.randn(3, *[6] * dims, 4)
    smaller = prunus.shrink(model, x[:1])
    assert smaller[0].weight.shape == (5, 4)
    torch.testing.assert_close(smaller(x), model(x))
    assert not torch.equal(smaller.train()(x), smaller.train()(x))


@pytest.mark.parametrize("num_samples", [1, 8])
def test_what_overflows_for_some_inputs_does_not_show(num_samples: int) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)).eval()
    model[0].weight.data[:2] = 3e38  # times zero that is NaN where it overflows
    model[1].weight.data[:, :2] = 0
    assert prunus.shrink(model, torch.zeros(num_samples, 4))[0].out_features == 4


@pytest.mark.parametrize("num_samples", [1, 8])
def test_zero_times_what_overflows_for_most_inputs_is_zero(num_samples: int) -> None:
    model = Overflowing().eval()
    model.first.weight.data[:2] = 1000
    smaller = prunus.shrink(model, torch.zeros(num_samples, 4))
    assert smaller.state_dict()["first.weight"].shape == (4, 4)


class ByLength(Branching):
    """Longer sequences go through a branch that addresses channels by number."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        if x.shape[1] > 7:
            y = torch.cat([y[..., :4] * 2, y[..., 4:]], -1)
        return self.last(y)


def test_a_class_that_is_wrong_at_another_length_is_not_kept() -> None:
    model = ByLength(torch.relu).eval()
    model.last.weight.data[:, :3] = 0
    smaller = prunus.shrink(model, torch.zeros(1, 6, 8))
    assert isinstance(smaller, ExportedModule)
    inputs = torch.randn(3, 6, 8)
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) < 1e-5


class Gives(nn.Module):
    """Gives the same whatever the input is."""

    def __init__(self, *values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.values


def test_a_choice_may_flip_by_rounding_but_no_more_than_that() -> None:
    choices, numbers = torch.zeros(4000, dtype=torch.int64), torch.ones(4000)
    trial = Trial(Inputs((torch.zeros(1, 1),), {}), [choices, numbers])
    some, many = choices.clone(), choices.clone()
    some[:4], many[:5] = 1, 1
    assert disagreement([trial], Gives(some, numbers + 1e-7)) == ""
    assert "differ" in disagreement([trial], Gives(many, numbers))
    assert "differ" in disagreement([trial], Gives(some, numbers + 1e-4))
    assert "differ" in disagreement([trial], Gives(choices, numbers.clone().fill_(torch.nan)))
    assert "differ" in disagreement([trial], Gives(choices, numbers[1:]))


class Positions(nn.Module):
    """Adds a table of which the example reads the first rows only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.table = nn.Linear(8, 16), nn.Linear(16, 5), nn.Parameter(torch.randn(12, 16))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last((self.first(x) + self.table[: x.shape[1]]).relu())
        return y


def test_rows_of_a_table_that_the_example_does_not_read_stay() -> None:
    model = Positions().eval()
    model.last.weight.data[:, :6] = 0
    smaller = prunus.shrink(model, torch.zeros(1, 5, 8))
    assert isinstance(smaller, Positions)
    assert smaller.table.shape == (12, 10)
    inputs = torch.randn(3, 12, 8)
    assert apart(outputs(model, inputs), outputs(smaller, inputs)) < 1e-5


class OtherwiseByLength(Branching):
    """Longer sequences take another way, to the same outputs."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        return self.last(y * 1.0 if x.shape[1] > 7 else y)


def test_a_size_at_which_the_forward_takes_another_way_is_not_claimed() -> None:
    model = OtherwiseByLength(torch.relu).eval()
    model.last.weight.data[:, :3] = 0
    smaller = prunus.shrink(model, torch.zeros(1, 5, 8))
    assert isinstance(smaller, OtherwiseByLength)
    assert [shape[0] for (shape,) in smaller.checked.sizes] == [5, 7]
