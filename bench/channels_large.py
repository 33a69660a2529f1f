"""Networks of the usual sizes for `channels.py`, beside the tests' zoo: what planning costs shows on these."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import nn

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from zoo import ZOO, Case, Inputs, randomise
from zoo_case import floats, named, tokens
from zoo_cnn import DenseLayer

__all__ = ["LARGE", "ZOO", "Case"]

LARGE: dict[str, Case] = {}


def large(name: str, inputs: Callable[[int], Inputs]) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register the function below, which makes a network."""

    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            torch.manual_seed(0)
            return randomise(build(), seed=1).eval()

        LARGE[name] = Case(name, make, inputs, "large")
        return build

    return register


@large("resnet-50", floats(3, 64, 64))
def resnet_50() -> nn.Module:
    """25.6 million parameters."""
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(num_labels=1000))


@large("densenet-121", floats(3, 64, 64))
def densenet_121() -> nn.Module:
    """Four dense blocks of 6, 12, 24 and 16 layers; 8 million parameters, the widest concat of 1,024 channels."""
    growth, width = 32, 64
    layers: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, padding=3, bias=False), nn.MaxPool2d(2)]
    for last, depth in zip((False, False, False, True), (6, 12, 24, 16), strict=True):
        layers += [Bottleneck(width + index * growth, growth) for index in range(depth)]
        width += depth * growth
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        if not last:
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))


class Bottleneck(DenseLayer):
    """The zoo's dense layer with four times the growth between its convolutions."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__(inputs, growth)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)


@large("mobilenet-v2", named(pixel_values=floats(3, 64, 64)))
def mobilenet_v2() -> nn.Module:
    """3.5 million parameters."""
    config = transformers.MobileNetV2Config(image_size=64, num_labels=1000)
    return transformers.MobileNetV2ForImageClassification(config)


@large("vit-small", named(pixel_values=floats(3, 64, 64)))
def vit_small() -> nn.Module:
    """12 layers of width 384; 22 million parameters."""
    config = transformers.ViTConfig(
        hidden_size=384,
        num_attention_heads=6,
        intermediate_size=1536,
        image_size=64,
        num_labels=1000,
        attn_implementation="sdpa",
    )
    return transformers.ViTForImageClassification(config)


@large("llama-12-layers", named(input_ids=tokens(16, 4000)))
def llama() -> nn.Module:
    """12 layers of width 512, 8 query heads over 4 key-value heads; 37 million parameters."""
    config = transformers.LlamaConfig(
        vocab_size=4000,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=4,
        use_cache=False,
        attn_implementation="sdpa",
    )
    return transformers.LlamaForCausalLM(config)
