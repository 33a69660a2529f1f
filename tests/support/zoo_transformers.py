"""Tiny random-weight networks of the package `transformers`: its own classes, as users meet them."""

from __future__ import annotations

import transformers
from torch import nn

from zoo_case import case, floats, named, tokens

TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60}


@case("hf-bert", "transformers", named(input_ids=tokens(10, 60)))
def bert() -> nn.Module:
    config = transformers.BertConfig(
        **TEXT, intermediate_size=64, max_position_embeddings=16, num_labels=5, attn_implementation="sdpa"
    )
    return transformers.BertForSequenceClassification(config)


@case("hf-gpt2", "transformers", tokens(10, 60))
def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=60,
        n_positions=16,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
        attn_implementation="eager",
    )
    return transformers.GPT2LMHeadModel(config)


@case("hf-llama", "transformers", named(input_ids=tokens(10, 60)))
def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        **TEXT,
        intermediate_size=64,
        num_key_value_heads=2,
        max_position_embeddings=32,
        use_cache=False,
        attn_implementation="sdpa",
    )
    return transformers.LlamaForCausalLM(config)


@case("hf-vit", "transformers", named(pixel_values=floats(3, 16, 16)))
def vit() -> nn.Module:
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        num_labels=5,
        attn_implementation="sdpa",
    )
    return transformers.ViTForImageClassification(config)


@case("hf-resnet", "transformers", floats(3, 32, 32))
def resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64], depths=[1, 2], layer_type="bottleneck", num_labels=5
    )
    return transformers.ResNetForImageClassification(config)


@case("hf-mobilenet-v2", "transformers", named(pixel_values=floats(3, 32, 32)))
def mobilenet_v2() -> nn.Module:
    config = transformers.MobileNetV2Config(
        image_size=32, depth_multiplier=0.25, finegrained_output=True, last_dim=64, num_labels=5
    )
    return transformers.MobileNetV2ForImageClassification(config)


@case("hf-convnext", "transformers", floats(3, 32, 32))
def convnext() -> nn.Module:
    config = transformers.ConvNextConfig(
        num_stages=2, hidden_sizes=[24, 48], depths=[1, 1], patch_size=4, image_size=32, num_labels=5
    )
    return transformers.ConvNextForImageClassification(config)


@case("hf-whisper-encoder", "transformers", named(input_features=floats(8, 32)))
def whisper_encoder() -> nn.Module:
    config = transformers.WhisperConfig(
        num_mel_bins=8,
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        max_source_positions=16,
        vocab_size=60,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        attn_implementation="eager",
    )
    return transformers.models.whisper.modeling_whisper.WhisperEncoder(config)
