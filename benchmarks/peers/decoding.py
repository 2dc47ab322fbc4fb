#!/usr/bin/env python3
"""Times what Hybrid.Benchmarks' DecodingBenchmarks time, with PyTorch: the shape of mamba-130m at batch 1, float32, random weights.

    OMP_NUM_THREADS=2 python3 decoding.py

Prints a table: reading as many bytes as the weights have, a token, and a prompt of 512 tokens, each for
  torch         the layer written out below from the formulas of the paper (Gu and Dao, arXiv 2312.00752),
  transformers  transformers' MambaForCausalLM, where it is installed.
Each figure is the best of several runs, so that what else the machine does counts little.
"""
import math
import time

import torch
import torch.nn.functional as F

LAYERS, WIDTH, STATE, TAPS, VOCABULARY, PROMPT = 24, 768, 16, 4, 50280, 512
INNER, RANK = 2 * WIDTH, math.ceil(WIDTH / 16)


class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight


class Mamba(torch.nn.Module):
    """h_t = exp(delta_t A) h_(t-1) + delta_t x_t B_t, y_t = C_t h_t + D x_t, gated by SiLU(z_t)."""

    def __init__(self):
        super().__init__()
        self.norm = Norm()
        self.in_proj = torch.nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.conv1d = torch.nn.Conv1d(INNER, INNER, TAPS, groups=INNER)
        self.x_proj = torch.nn.Linear(INNER, RANK + 2 * STATE, bias=False)
        self.dt_proj = torch.nn.Linear(RANK, INNER)
        self.A_log = torch.nn.Parameter(torch.arange(1, STATE + 1).float().log().repeat(INNER, 1))
        self.D = torch.nn.Parameter(torch.ones(INNER))
        self.out_proj = torch.nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, u, state):
        """u [B, T, D]; state: the window [B, E, W - 1] and h [B, E, N], replaced."""
        window, h = state
        x, z = self.in_proj(self.norm(u)).chunk(2, -1)
        extended = torch.cat([window, x.transpose(1, 2)], -1)                   # [B, E, W - 1 + T]
        x = F.silu(self.conv1d(extended)).transpose(1, 2)                       # [B, T, E]
        dt, b, c = self.x_proj(x).split([RANK, STATE, STATE], -1)
        delta = F.softplus(self.dt_proj(dt))
        decay = torch.exp(delta.unsqueeze(-1) * -torch.exp(self.A_log))         # [B, T, E, N]
        driven = (delta * x).unsqueeze(-1) * b.unsqueeze(2)
        outputs = []
        for t in range(u.shape[1]):
            h = decay[:, t] * h + driven[:, t]
            outputs.append((h * c[:, t].unsqueeze(1)).sum(-1))
        y = (torch.stack(outputs, 1) + self.D * x) * F.silu(z)
        state[:] = [extended[..., -(TAPS - 1):], h]
        return u + self.out_proj(y)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, WIDTH)
        self.layers = torch.nn.ModuleList(Mamba() for _ in range(LAYERS))
        self.norm_f = Norm()

    def state(self):
        return [[torch.zeros(1, INNER, TAPS - 1), torch.zeros(1, INNER, STATE)] for _ in self.layers]

    def forward(self, ids, states):
        x = self.embedding(ids)
        for layer, state in zip(self.layers, states):
            x = layer(x, state)
        return F.linear(self.norm_f(x[:, -1]), self.embedding.weight)


def best(runs, action):
    action()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def of_torch(token, prompt):
    model = Model().eval()
    states = model.state()
    return best(20, lambda: model(token, states)), best(3, lambda: model(prompt, model.state()))


def of_transformers(token, prompt):
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, state_size=STATE)).eval()
    cache = model(prompt, use_cache=True).cache_params
    position = torch.tensor([PROMPT])
    decode = best(20, lambda: model(token, cache_params=cache, use_cache=True, cache_position=position))
    return decode, best(3, lambda: model(prompt, use_cache=True))


def main():
    torch.manual_seed(1)
    token, prompt = torch.tensor([[17]]), torch.randint(VOCABULARY, (1, PROMPT))
    weights = sum(parameter.numel() for parameter in Model().parameters())
    content = torch.ones(weights)
    read = best(10, content.sum)
    print(f"{torch.get_num_threads()} threads; reading {4 * weights / 1e6:.0f} MB: {1e3 * read:.1f} ms, {1 / read:.1f} times a second")
    print(f"{'':14}{'tokens/s':>10}{'over reading':>14}{'prefill tokens/s':>18}")
    for name, measure in (("torch", of_torch), ("transformers", of_transformers)):
        try:
            decode, prefill = measure(token, prompt)
        except ImportError as error:
            print(f"{name:14}not measured: {error}")
            continue
        print(f"{name:14}{1 / decode:>10.1f}{decode / read:>14.2f}{PROMPT / prefill:>18.0f}")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
