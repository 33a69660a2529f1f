"""Programs hold against PyTorch: every topology that lowers, any shape of convolution, any batch size."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree

import prunus
from prunus.compiling import toolchain, tuning
from prunus.compiling.engine import ALL_SINGLY
from prunus.errors import CompileError, ProgramError
from prunus.lab import models
from sparse_models import close, sparse
from zoo import ZOO

# What has an operation that programs don't know; the message must name it.
REFUSED = {
    "multihead-attention": "scaled_dot_product_attention|bmm",
    "encoder-layer": "scaled_dot_product_attention|bmm",
    "fused-qkv": "scaled_dot_product_attention",
    "separate-qkv": "attention multiplies two activations",
    "grouped-query-rotary": "scaled_dot_product_attention|matmul",
    "vit": "scaled_dot_product_attention",
    "swin": "linear|roll|matmul",
    "cnn-3d": "conv3d",
    "tied-embedding": "attention multiplies two activations",
    "lstm": "lstm",
    "gru-bidirectional": "gru",
    "gru-final-state": "gru",
    "einsum": "einsum",
    "hf-bert": "scaled_dot_product_attention|matmul",
    "hf-gpt2": "addmm|scaled_dot_product_attention|matmul",
    "hf-llama": "scaled_dot_product_attention|matmul",
    "hf-vit": "scaled_dot_product_attention|matmul",
    "hf-whisper-encoder": "matmul|scaled_dot_product_attention",
}


@pytest.mark.parametrize("name", sorted(set(ZOO) - set(REFUSED)))
def test_every_topology_computes_what_pytorch_does(name: str) -> None:
    case = ZOO[name]
    model = case.make()
    program = prunus.compile(model, case.example_inputs, tune=False)
    for batch in (1, 3, 8):
        args, kwargs = case.arguments(batch)
        with torch.no_grad():
            expected = _pytree.tree_leaves(model(*args, **kwargs))
        found = _pytree.tree_leaves(program(*args, **kwargs))
        for one, other in zip(expected, found, strict=True):
            assert one.shape == other.shape
            torch.testing.assert_close(other, one, rtol=0, atol=1e-5 * float(one.abs().max()))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_unknown_operation_is_named(name: str) -> None:
    case = ZOO[name]
    with pytest.raises(CompileError, match=REFUSED[name]):
        prunus.compile(case.make(), case.example_inputs, tune=False)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """Draw a network of one convolution, perhaps with activation and pooling behind, and an input of it."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 5))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    padding = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    least = [max(d * (k - 1) + 1 - 2 * p, 1) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    size = least[0] + draw(st.integers(0, 12)), least[1] + draw(st.integers(0, 20))
    torch.manual_seed(draw(st.integers(0, 1000)))
    layers: list[nn.Module] = [nn.Conv2d(channels, outputs, kernel, stride, padding, dilation, groups)]
    if draw(st.booleans()):
        layers.append(nn.BatchNorm2d(outputs))
        nn.init.uniform_(layers[-1].running_var, 0.5, 2)
        nn.init.normal_(layers[-1].running_mean)
    layers.append(draw(st.sampled_from([nn.Identity(), nn.ReLU(), nn.LeakyReLU(0.1), nn.GELU(), nn.ReLU6()])))
    grid = [
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    window = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    if window[0] <= grid[0] and window[1] <= grid[1]:
        layers.append(draw(st.sampled_from([nn.MaxPool2d(window), nn.AvgPool2d(window), nn.Identity()])))
    model = sparse(nn.Sequential(*layers), draw(st.sampled_from([0.0, 0.5, 0.9])))
    return model, torch.randn(11, channels, *size)


@settings(max_examples=25, deadline=None)
@given(convolutions(), st.booleans())
def test_any_convolution(drawn: tuple[nn.Module, Tensor], flatten: bool) -> None:
    model, inputs = drawn
    if flatten:
        width = model(inputs).flatten(1).shape[1]
        model = nn.Sequential(model, nn.Flatten(), nn.Linear(width, 4)).eval()
    program = prunus.compile(model, inputs, tune=False)
    for batch in (1, 2, 11):
        close(program(inputs[:batch]), model(inputs[:batch]))


class Pooling(nn.Module):
    """Poolings that overlap, pad, leave rows out, and adapt."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.poolings = nn.ModuleList(
            [
                nn.MaxPool2d(3, stride=2, padding=1),
                nn.MaxPool2d(2, ceil_mode=True),
                nn.MaxPool2d((3, 2), stride=1, dilation=(1, 2)),
                nn.AvgPool2d(3, stride=2, padding=1),
                nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
                nn.AvgPool2d((2, 3), ceil_mode=True, padding=(1, 0)),
                nn.AdaptiveAvgPool2d((3, 5)),
                nn.AdaptiveMaxPool2d(4),
            ]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Pool in all ways: one output each."""
        x = self.conv(images)
        return [pool(x) for pool in self.poolings]


def test_poolings() -> None:
    model, inputs = Pooling().eval(), torch.randn(9, 3, 13, 16)
    for found, expected in zip(prunus.compile(model, inputs, tune=False)(inputs), model(inputs), strict=True):
        close(found, expected)


class Functions(nn.Module):
    """Functions of single numbers, arithmetic with broadcasting, norms over any dimension."""

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Return each result by its name."""
        f = nn.functional
        names = [
            "relu",
            "relu6",
            "silu",
            "gelu",
            "sigmoid",
            "tanh",
            "elu",
            "hardswish",
            "hardsigmoid",
            "softplus",
            "mish",
        ]
        found = {name: getattr(f, name)(x) for name in names}
        found |= {
            "gelu_tanh": f.gelu(x, approximate="tanh"),
            "leaky": f.leaky_relu(x, 0.3),
            "clamp": x.clamp(-0.5, 0.75),
            "clamp_min": x.clamp(min=0.1),
            "broadcast": x * y[:, :, None, None] + 2,
            "divided": 1 / (x.abs() + 1) - x / 4,
            "maximum": torch.maximum(x, y.mean(1)[:, None, None, None].expand_as(x)),
            "softmax": x.permute(0, 2, 3, 1).softmax(-1),
            "log_softmax": x.log_softmax(1),
            "mean": x.mean((2, 3)),
            "amax": x.amax(1, keepdim=True),
            "cat": torch.cat([x, torch.ones(1, 1, 5, 7).expand(x.shape[0], 1, 5, 7), x[:, :1]], 1),
            "padded": f.pad(x, (1, 2, 0, 1), value=3.0),
            "norm": f.layer_norm(x, (7,), torch.arange(7.0).to(x.dtype), torch.ones(7).to(x.dtype)),
            "split": x.chunk(3, 1)[1].flatten(1),
        }
        return found


@pytest.mark.parametrize(
    ("dtype", "target"), [(torch.float32, "native"), (torch.float64, "native"), (torch.float64, "scalar")]
)
def test_functions(dtype: torch.dtype, target: str) -> None:
    inputs = torch.randn(9, 6, 5, 7, dtype=dtype) * 3, torch.randn(9, 6, dtype=dtype)
    model = Functions().eval().to(dtype)
    found = prunus.compile(model, inputs, dtype=dtype, target=target, tune=False)(*inputs)
    expected = model(*inputs)
    assert list(found) == list(expected)
    for name, value in expected.items():
        close(found[name], value, 1e-5 if dtype == torch.float32 else 1e-12)


def test_nan_goes_through_relu_and_pooling_as_in_pytorch() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.MaxPool2d(2)).eval()
    inputs = torch.randn(9, 1, 8, 8)
    inputs[0, 0, 0, 1] = inputs[3, 0, 5, 4] = torch.nan
    found = prunus.compile(model, inputs, tune=False)(inputs)
    assert torch.equal(found.isnan(), model(inputs).isnan())
    assert int(found.isnan().sum()) == 4


@pytest.mark.parametrize("target", ["avx512", "avx2", "sse", "neon", "scalar"])
def test_the_same_c_is_right_for_every_target(
    target: str, caffe: tuple[nn.Module, Tensor], request: pytest.FixtureRequest
) -> None:
    model, images = caffe
    if target == toolchain.target().name:  # one of the targets is built as users have it
        request.getfixturevalue("optimised")
        target = "native"
    try:
        program = prunus.compile(model, images, target=target, tune=False)
    except CompileError as error:
        pytest.skip(str(error))
    close(program(images), model(images))


@pytest.mark.usefixtures("optimised")
def test_a_norm_over_two_numbers_is_not_left_out() -> None:
    """Gcc 12 takes the function of this step for one that writes nothing."""
    model, x = nn.Sequential(nn.Unflatten(1, (4, 1)), nn.GroupNorm(2, 4, affine=False)).eval(), torch.randn(19, 4)
    program = prunus.compile(model, x, tune=False)
    for inputs in (x, x[:1]):
        close(program(inputs), model(inputs))


@pytest.fixture(scope="module")
def caffe() -> tuple[nn.Module, Tensor]:
    """A LeNet with nine tenths of its weights gone, and images."""
    torch.manual_seed(0)
    return sparse(models.create("lenet5-caffe"), 0.9), torch.randn(21, 1, 28, 28)


@pytest.mark.usefixtures("optimised")
def test_tuned_programs_compute_the_same(caffe: tuple[nn.Module, Tensor]) -> None:
    model, images = caffe
    program = prunus.compile(model, images, threads=2)
    for batch in (0, 1, 2, 7, 8, 9, 16, 21):
        close(program(images[:batch]), model(images[:batch]))
    assert program.difference is not None
    assert program.difference < 1e-5


@pytest.mark.usefixtures("optimised")
def test_a_matrix_is_tried_in_larger_blocks_and_in_parts() -> None:
    torch.manual_seed(0)
    model = sparse(nn.Sequential(nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 10)), 0.95)
    inputs = torch.randn(70, 1024)
    program = prunus.compile(model, inputs)
    close(program(inputs), model(inputs))
    close(program(inputs[:5]), model(inputs[:5]))


def test_two_threads_may_call_at_once(caffe: tuple[nn.Module, Tensor]) -> None:
    model, images = caffe
    program = prunus.compile(model, images, threads=2, tune=False)
    batches = [torch.randn(21, 1, 28, 28) for _ in range(4)]
    with torch.no_grad():
        expected = [model(batch) for batch in batches]
    found: dict[int, list[Tensor]] = {}

    def work(which: int) -> None:
        found[which] = [program(batches[which]) for _ in range(30)]

    workers = [threading.Thread(target=work, args=(which,)) for which in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for which, each in found.items():
        assert len(each) == 30
        for value in each:
            close(value, expected[which])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_makes_threads_of_its_own(caffe: tuple[nn.Module, Tensor]) -> None:
    model, images = caffe
    program = prunus.compile(model, images, threads=2, tune=False)
    with torch.no_grad():
        expected = model(images)
    close(program(images), expected)  # so the threads are there when it forks
    child = os.fork()
    if child == 0:
        same = torch.allclose(program(images), expected, atol=1e-4)
        os._exit(0 if same and torch.equal(program(images), program(images)) else 1)
    deadline = time.monotonic() + 60
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    if done[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert done[0] == child
    assert done[1] == 0


def test_threads_share_the_steps_of_one_sample(caffe: tuple[nn.Module, Tensor]) -> None:
    model, images = caffe
    program = prunus.compile(model, images, threads=3, tune=False)
    program._engine.set_share_steps(True)
    program._engine.set_most_single(0)
    for batch in (1, 2, 21):
        close(program(images[:batch]), model(images[:batch]))


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_all_samples_one_by_one(caffe: tuple[nn.Module, Tensor], threads: int, share: bool) -> None:
    model, images = caffe
    program = prunus.compile(model, images, threads=threads, tune=False)
    before = program(images[:21])
    program._engine.set_most_single(ALL_SINGLY)
    program._engine.set_share_steps(share)
    for batch in (1, 2, 21):
        close(program(images[:batch]), model(images[:batch]))
    singles = torch.cat([program(images[place : place + 1]) for place in range(21)])
    assert torch.equal(program(images[:21]), singles)
    assert not torch.equal(before, singles), "blocks add up in another order"


def test_a_program_without_blocks_says_so_and_is_remembered(
    caffe: tuple[nn.Module, Tensor], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRUNUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "_LARGE", 0)
    monkeypatch.setattr(tuning, "_WORTH_SINGLY", 1e9)
    model, images = caffe
    program = prunus.compile(model, images, threads=1)
    assert program._parts.choice.most_single == ALL_SINGLY
    assert str(program.profile()).startswith("One by one (all samples, which is faster than in blocks):")
    monkeypatch.setattr(tuning, "_WORTH_SINGLY", 0)
    again = prunus.compile(model, images, threads=1)
    assert again._parts.choice.most_single == ALL_SINGLY
    close(again(images[:21]), model(images[:21]))


def test_a_number_is_no_batch() -> None:
    program = prunus.compile(nn.Linear(3, 2), torch.zeros(2, 3), tune=False)
    with pytest.raises(ProgramError, match=r"must be of the shape \(batch, 3\), got \(\)"):
        program(torch.tensor(1.0))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_transposed_convolution(data: st.DataObject) -> None:
    draw = data.draw
    dims = draw(st.sampled_from([1, 2]))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    kernel = draw(st.integers(1, 5))
    reach = dilation * (kernel - 1)
    side = draw(st.integers(1, 7))
    padding = draw(st.integers(0, min(reach + 2, ((side - 1) * stride + reach) // 2)))
    more = draw(st.integers(0, max(stride, dilation) - 1))
    kind = nn.ConvTranspose1d if dims == 1 else nn.ConvTranspose2d
    torch.manual_seed(draw(st.integers(0, 1000)))
    layer = kind(
        3 * groups, 2 * groups, kernel, stride, padding, more, groups, bias=draw(st.booleans()), dilation=dilation
    )
    model = sparse(nn.Sequential(layer, nn.ReLU()), draw(st.sampled_from([0.0, 0.7])))
    inputs = torch.randn(3, 3 * groups, *([side] if dims == 1 else [side, draw(st.integers(1, 6))]))
    try:
        expected = model(inputs)
    except RuntimeError:  # a side of the output would be negative
        return
    if not expected.numel():
        with pytest.raises(CompileError, match="makes no box"):
            prunus.compile(model, inputs, tune=False)
        return
    program = prunus.compile(model, inputs, tune=False)
    close(program(inputs), expected)
    close(program(inputs[:1]), expected[:1])


def test_numpy_in_numpy_out(caffe: tuple[nn.Module, Tensor]) -> None:
    model, images = caffe
    found = prunus.compile(model, images, tune=False)(images.numpy())
    assert isinstance(found, numpy.ndarray)
    assert found.dtype == numpy.float32
    close(torch.from_numpy(found), model(images))


@pytest.mark.parametrize(
    "array",
    [
        numpy.random.default_rng(0).standard_normal((3, 5), "float32")[:, ::-1],
        numpy.broadcast_to(numpy.float32(2), (3, 5)),
        numpy.ones((3, 5), ">f4"),
    ],
    ids=["backwards", "not to be written", "of another byte order"],
)
def test_arrays_that_pytorch_has_no_tensor_for(array: numpy.ndarray) -> None:
    model = nn.Linear(5, 4).eval()
    plain = torch.from_numpy(numpy.array(array, "float32", order="C"))
    found = prunus.compile(model, plain, tune=False)(array)
    close(torch.from_numpy(found.astype("float32")), model(plain))


def test_tensors_that_do_not_lie_in_memory_as_they_read() -> None:
    model, ones = nn.Linear(5, 4).eval(), torch.ones(3, 5)
    program = prunus.compile(model, ones, tune=False)
    close(program(torch._neg_view(ones)), model(-ones))
    with pytest.raises(ProgramError, match=r"input 'input' is torch\.sparse_coo; give input\.to_dense\(\)"):
        program(ones.to_sparse())


def test_another_default_device_changes_nothing() -> None:
    model, inputs = nn.Linear(5, 4).eval(), torch.randn(3, 5)
    program = prunus.compile(model, inputs, tune=False)
    with torch.device("meta"):
        found = program(inputs), program(inputs.half())
    close(found[0], model(inputs))
    close(found[1].float(), model(inputs), 1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_and_inputs_of_16_bits_are_computed_in_32(dtype: torch.dtype, caffe: tuple[nn.Module, Tensor]) -> None:
    model, images = caffe
    half = copy.deepcopy(model).to(dtype)
    found = prunus.compile(half, images.to(dtype), tune=False)(images.to(dtype))
    assert found.dtype == dtype
    close(found.float(), half.float()(images.to(dtype).float()), 1e-2)


def test_the_model_is_left_as_it_was(caffe: tuple[nn.Module, Tensor]) -> None:
    model, images = caffe
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prunus.compile(model, images, tune=False)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()


def test_a_profile_tells_what_is_skipped(caffe: tuple[nn.Module, Tensor]) -> None:
    model, images = caffe
    profile = prunus.compile(model, images, tune=False).profile()
    nonzero = {name.removesuffix(".weight"): int((p != 0).sum()) for name, p in model.named_parameters() if p.ndim > 1}
    assert {step.name: step.nonzero for step in profile.in_blocks} == nonzero
    macs = {"conv1": 24 * 24, "conv2": 8 * 8, "fc1": 1, "fc2": 1}
    assert {s.name: s.macs for s in profile.singly} == {name: nonzero[name] * macs[name] for name in macs}
    assert sum(step.share for step in profile.in_blocks) == pytest.approx(1)
    assert "conv2" in str(profile)


def test_inputs_that_do_not_fit(caffe: tuple[nn.Module, Tensor]) -> None:
    model, images = caffe
    program = prunus.compile(model, images, tune=False)
    with pytest.raises(ProgramError, match=r"shape \(batch, 1, 28, 28\), got \(21, 1, 28, 27\)"):
        program(images[..., :27])
    with pytest.raises(ProgramError, match=r"float32 \(16 bits will do\), got torch.float64"):
        program(images.double())
    with pytest.raises(TypeError, match="takes the inputs images"):
        program(images, images)
    with pytest.raises(TypeError, match="tensor or a numpy array, got list"):
        program([1.0])
    with pytest.raises(ProgramError, match="computes on the CPU"):
        program(images.to("meta"))


def test_arguments_that_are_wrong(caffe: tuple[nn.Module, Tensor]) -> None:
    model, images = caffe
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        prunus.compile("lenet", images)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads must be a whole number"):
        prunus.compile(model, images, threads=0)
    with pytest.raises(TypeError, match="tune must be True or False, got 'yes'"):
        prunus.compile(model, images, tune="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"dtype must be torch\.float32"):
        prunus.compile(model, images, dtype=torch.float16)
    with pytest.raises(ValueError, match="unknown target 'avx3'; did you mean 'avx2'"):
        prunus.compile(model, images, target="avx3")
    with pytest.raises(CompileError, match="meta device"):
        prunus.compile(copy.deepcopy(model).to("meta"), images)


class BatchMixer(nn.Module):
    """Depends on the other samples of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Take the mean of the batch away."""
        return x - x.mean(0, keepdim=True)


class Overwriting(nn.Module):
    """Writes over a tensor that another name still means."""

    def forward(self, x: Tensor) -> Tensor:
        """Read a view made before the write."""
        y = x * 2
        view = y.flatten(1)
        y.relu_()
        return view + 1


def test_what_depends_on_the_batch_is_refused() -> None:
    with pytest.raises(CompileError, match="computes sample by sample"):
        prunus.compile(BatchMixer(), torch.randn(4, 3), tune=False)


def test_a_write_that_another_name_sees_is_refused_and_one_that_none_sees_is_not() -> None:
    with pytest.raises(CompileError, match="read under another name later"):
        prunus.compile(Overwriting(), torch.randn(4, 3, 2), tune=False)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)).eval()
    inputs = torch.randn(4, 3)
    close(prunus.compile(model, inputs, tune=False)(inputs), model(inputs))


def test_a_program_is_not_pickled(caffe: tuple[nn.Module, Tensor]) -> None:
    model, images = caffe
    with pytest.raises(TypeError, match="save"):
        pickle.dumps(prunus.compile(model, images, tune=False))


class Of(nn.Module):
    """A function of inputs and modules."""

    def __init__(self, function: Callable[..., object], *parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> object:
        """Call it."""
        return self.function(x, *self.parts)


def _in_a_row(x: Tensor) -> Tensor:
    return x.flatten(1)[:, None]


UNUSUAL: dict[str, tuple[Of, tuple[int, ...]]] = {
    "the input itself": (Of(lambda x: x), (4, 5)),
    "the input turned": (Of(lambda x: x.permute(0, 3, 1, 2)), (4, 5, 6)),
    "one result twice": (Of(lambda x, fc: [fc(x)] * 2 + [fc(x).flip(1)], nn.Linear(5, 4)), (5,)),
    "nothing but the batch": (Of(lambda x: x * 2), ()),
    "more dimensions than letters": (Of(lambda x: x.permute(0, 9, 8, 7, 6, 5, 4, 3, 2, 1) + 1), (2,) * 9),
    "joined with nothing": (Of(lambda x: torch.cat([x, x[:, :0]], 1)), (4,)),
    "limits that cross": (Of(lambda x: x.clamp(2.0, 1.0)), (5,)),
    "a row over the end of a row": (Of(lambda x, conv: conv(_in_a_row(x)[:, :, 2:4]), nn.Conv1d(1, 3, 1)), (1, 4, 3)),
    "one column as many": (
        Of(lambda x, conv: conv(x[..., :1].expand(-1, -1, -1, 9)), nn.Conv2d(2, 3, 3, padding=1)),
        (2, 7, 9),
    ),
    "channels as a row, then padded": (
        Of(lambda x, one, two: (one(_in_a_row(x)), two(x)), nn.Conv1d(1, 2, 3), nn.Conv2d(12, 2, 3, padding=1)),
        (12, 1, 1),
    ),
    "padded, then channels as a row": (
        Of(lambda x, one, two: (two(x), one(_in_a_row(x))), nn.Conv1d(1, 2, 3), nn.Conv2d(12, 2, 3, padding=1)),
        (12, 1, 1),
    ),
    "steps longer than the kernel": (Of(lambda x, conv: conv(x), nn.Conv2d(2, 3, 2, stride=5, padding=1)), (2, 17, 23)),
    "a window of padding alone": (Of(lambda x: nn.functional.max_pool2d(x, 2, padding=1, dilation=2)), (1, 1, 1)),
}


@pytest.mark.parametrize("name", list(UNUSUAL))
def test_unusual_models(name: str) -> None:
    torch.manual_seed(0)
    model, shape = UNUSUAL[name]
    inputs = torch.randn(9, *shape)
    program = prunus.compile(model.eval(), inputs, tune=False)
    for batch in (1, 9):
        found, expected = (_pytree.tree_leaves(each(inputs[:batch])) for each in (program, model))
        for one, other in zip(found, expected, strict=True):
            close(one, other)


@pytest.mark.parametrize(
    ("function", "shape", "message"),
    [
        (lambda x: (x + 1, None), (3,), "an output of the model does not depend on its inputs"),
        (lambda x: (x + 1, 3), (3,), "an output of the model does not depend on its inputs"),
        (lambda x: (x, x[:, :0]), (3,), "^the model can't become a program: 'an output' reads no elements$"),
        (lambda x: x + 1, (3, 0), r"input 'x' has the shape \(3, 0\), so there is nothing to compute"),
    ],
)
def test_what_is_no_output_or_input_is_refused(
    function: Callable[..., object], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(CompileError, match=message):
        prunus.compile(Of(function).eval(), torch.randn(2, *shape), tune=False)
