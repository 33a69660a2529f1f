"""Plan the channel pruning of a Llama of 8 billion parameters' shape on the meta device, without a weight in memory.

    python bench/plan.py [--layers 32] [--json FILE]

Planning is all that comes before scores: reading the graph, coupling its indices, and searching the widths that meet
half of the targeted weights with equal scores. Needs `transformers`.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import torch
import transformers
from torch import Tensor

from prunus.files import write_json
from prunus.machine import machine
from prunus.pruning.channels import ChannelFamilies
from prunus.pruning.method import check_method


def llama(layers: int) -> torch.nn.Module:
    """Return a network of Llama 3 8B's sizes on the meta device."""
    config = transformers.LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        use_cache=False,
    )
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config).eval()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    model = llama(chosen.layers)
    tokens: dict[str, Tensor] = {"input_ids": torch.zeros(1, 8, dtype=torch.int64, device="meta")}
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = {}
    began = time.perf_counter()
    channels = ChannelFamilies(model, tokens)
    seconds["read and couple"] = time.perf_counter() - began
    began = time.perf_counter()
    gone = channels.plan(check_method(0.5, pattern="channel", scope="uniform"), 0.5)
    seconds["search"] = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": chosen.layers,
        "channels, heads and neurons that may go": int(channels.coupling.removable.sum()),
        "that go": int(gone.sum()),
        "removed": round(channels.cost.removed(gone), 4),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "seconds in all": round(sum(seconds.values()), 1),
        "processor seconds in all": round(time.process_time(), 1),
        "peak GB": round(peak * 1024 / 1e9, 2),
        "of it before": round(peak_before * 1024 / 1e9, 2),
    }
    for name, value in found.items():
        print(f"{name:42} {value}")
    if chosen.json:
        write_json(chosen.json, {"machine": str(machine()), **found})


if __name__ == "__main__":
    main()
