"""Multilayer perceptrons, recurrent networks, tied embeddings, and networks of bare parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_attention import Block, SeparateAttention
from zoo_case import case, floats, tokens


@case("mlp-layer-norm", "transformer", floats(20))
def mlp_layer_norm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 64),
        nn.LayerNorm(64),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(64, 48),
        nn.LayerNorm(48, elementwise_affine=False),
        nn.Softplus(),
        nn.Linear(48, 10),
    )


@case("mlp-rms-norm", "transformer", floats(20))
def mlp_rms_norm() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 64), nn.RMSNorm(64), nn.SiLU(), nn.Linear(64, 48), nn.RMSNorm(48), nn.Linear(48, 10)
    )


@case("tied-embedding", "transformer", tokens(12, 60))
class TiedLanguageModel(nn.Module):
    """The output layer is the embedding's own weight."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(60, 32)
        self.wpe = nn.Embedding(16, 32)
        self.block = Block(SeparateAttention(32, 4), 32, 64)
        self.ln_f = nn.LayerNorm(32)
        self.lm_head = nn.Linear(32, 60, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        return self.lm_head(self.ln_f(self.block(x)))


@case("lstm", "rnn", tokens(9, 40))
class LSTMClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 24)
        self.lstm = nn.LSTM(24, 32, num_layers=2, batch_first=True)
        self.fc = nn.Linear(32, 10)

    def forward(self, ids: Tensor) -> Tensor:
        out, _ = self.lstm(self.embedding(ids))
        return self.fc(out[:, -1])


@case("gru-bidirectional", "rnn", floats(9, 12))
class BidirectionalGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden_size = 24
        self.inputs = nn.Linear(12, 20)
        self.gru = nn.GRU(20, self.hidden_size, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * self.hidden_size, 10)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.gru(F.relu(self.inputs(x)))
        return self.fc(out.mean(dim=1))


@case("gru-final-state", "rnn", floats(9, 12))
class GRUFinalState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(12, 32, num_layers=1, batch_first=True)
        self.hidden = nn.Linear(32, 32)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.gru(x)
        return self.fc(torch.tanh(self.hidden(state[-1])))


@case("bare-parameters", "transformer", floats(20))
class BareParameters(nn.Module):
    """No layers: matrices and vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(20, 64))
        self.bias = nn.Parameter(torch.empty(64))
        self.scale = nn.Parameter(torch.empty(64))
        self.out_weight = nn.Parameter(torch.empty(64, 48))
        self.out_bias = nn.Parameter(torch.empty(48))
        self.head = nn.Parameter(torch.empty(10, 48))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x @ self.weight + self.bias) * self.scale
        x = torch.tanh(torch.addmm(self.out_bias, x, self.out_weight))
        return F.linear(x, self.head)


@case("einsum", "transformer", floats(6, 16))
class Einsum(nn.Module):
    """Attention whose every product is an einsum over tensors with a dimension for the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(16, 4, 8))
        self.key = nn.Parameter(torch.empty(16, 4, 8))
        self.value = nn.Parameter(torch.empty(16, 4, 8))
        self.output = nn.Parameter(torch.empty(4, 8, 32))
        self.output_bias = nn.Parameter(torch.empty(32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        q = torch.einsum("btd,dhe->bthe", x, self.query)
        k = torch.einsum("btd,dhe->bthe", x, self.key)
        v = torch.einsum("btd,dhe->bthe", x, self.value)
        weights = torch.einsum("bqhe,bkhe->bhqk", q, k).softmax(-1)
        mixed = torch.einsum("bhqk,bkhe->bqhe", weights, v)
        x = torch.einsum("bthe,hed->btd", mixed, self.output) + self.output_bias
        return self.head(F.gelu(x))
