#!/usr/bin/env python3
"""Times what Hybrid.Benchmarks' SelectiveScanBenchmarks and MambaBlockBenchmarks time, with PyTorch, at batch 1 in float32.

    OMP_NUM_THREADS=2 python3 scan.py [--length 2048] [--state 16] [--runs 3]

Prints a table: the selective scan (width E = 1536) and a Mamba block around it (width D = 768), forward and with backward, for
  step by step  h_t = exp(delta_t A) h_(t-1) + delta_t u_t B_t as it stands (Gu and Dao, arXiv 2312.00752, equation 2), as
                selective_scan_ref computes it,
  doubling      the same by log2 T passes over all tokens (Hillis and Steele, 1986): h_t over the last 2^k tokens from two halves,
  transformers  transformers' MambaMixer, where it is installed (block only).
and the matrix products of the block alone. Medians; the backward of step by step, which takes minutes at 2048, is timed at 512.
"""
import argparse
import math
import time

import torch
import torch.nn.functional as F

WIDTH, INNER, TAPS = 768, 1536, 4
RANK = math.ceil(WIDTH / 16)


def scan(u, delta, A, B, C, D, recurrence):
    """u, delta [B, T, E], A [E, N], B and C [B, T, N], D [E] -> y [B, T, E]."""
    decay = torch.exp(delta.unsqueeze(-1) * A)                                  # [B, T, E, N]
    h = recurrence(decay, (delta * u).unsqueeze(-1) * B.unsqueeze(2))
    return (h * C.unsqueeze(2)).sum(-1) + D * u


def step_by_step(decay, driven):
    h, states = torch.zeros_like(driven[:, 0]), []
    for t in range(driven.shape[1]):
        h = decay[:, t] * h + driven[:, t]
        states.append(h)
    return torch.stack(states, 1)


def doubling(decay, driven):
    reach = 1
    while reach < driven.shape[1]:
        driven = torch.cat([driven[:, :reach], driven[:, reach:] + decay[:, reach:] * driven[:, :-reach]], 1)
        decay = torch.cat([decay[:, :reach], decay[:, reach:] * decay[:, :-reach]], 1)
        reach *= 2
    return driven


class Block(torch.nn.Module):
    def __init__(self, state, recurrence):
        super().__init__()
        self.state, self.recurrence = state, recurrence
        self.in_proj = torch.nn.Linear(WIDTH, 2 * INNER, bias=False)
        self.conv1d = torch.nn.Conv1d(INNER, INNER, TAPS, groups=INNER, padding=TAPS - 1)
        self.x_proj = torch.nn.Linear(INNER, RANK + 2 * state, bias=False)
        self.dt_proj = torch.nn.Linear(RANK, INNER)
        self.A_log = torch.nn.Parameter(torch.arange(1, state + 1).float().log().repeat(INNER, 1))
        self.D = torch.nn.Parameter(torch.ones(INNER))
        self.out_proj = torch.nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x):
        x, z = self.in_proj(x).chunk(2, -1)
        x = F.silu(self.conv1d(x.transpose(1, 2))[..., :z.shape[1]].transpose(1, 2))
        dt, B, C = self.x_proj(x).split([RANK, self.state, self.state], -1)
        y = scan(x, F.softplus(self.dt_proj(dt)), -torch.exp(self.A_log), B, C, self.D, self.recurrence)
        return self.out_proj(y * F.silu(z))

    def products(self, x):
        """The four matrix products, each on an input of its own shape."""
        inner = self.in_proj(x)[..., :INNER]
        return self.out_proj(self.dt_proj(self.x_proj(inner)[..., :RANK]) + inner)


def median(runs, action):
    action()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[runs // 2]


def row(what, length, runs, function, inputs, backward):
    def forward():
        with torch.no_grad():
            function(*inputs)

    def both():
        for leaf in inputs:
            leaf.grad = None
        function(*inputs).sum().backward()

    print(f"| {what} | {length} | {median(runs, both if backward else forward):,.1f} ms |", flush=True)


def scan_inputs(length, state):
    u, delta = torch.randn(1, length, INNER), F.softplus(torch.randn(1, length, INNER) - 2)
    A, B, C = -torch.rand(INNER, state) * state, torch.randn(1, length, state), torch.randn(1, length, state)
    return [leaf.requires_grad_() for leaf in (u, delta, A, B, C, torch.ones(INNER))]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--state", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(1)
    length, short = options.length, min(512, options.length)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, N {options.state}\n\n| what | T | median |\n|---|---|---|")
    for name, recurrence in (("step by step", step_by_step), ("doubling", doubling)):
        for backward in (False, True):
            tokens = short if backward and recurrence is step_by_step else length
            what = "forward and backward" if backward else "forward"
            row(f"scan, {name}, {what}", tokens, options.runs, lambda *x: scan(*x, recurrence), scan_inputs(tokens, options.state), backward)
            block = Block(options.state, recurrence)
            row(f"block, {name}, {what}", tokens, options.runs, block, [torch.randn(1, tokens, WIDTH).requires_grad_()], backward)
    for backward, what in ((False, "forward"), (True, "forward and backward")):
        x = [torch.randn(1, length, WIDTH).requires_grad_()]
        row(f"block's matrix products, {what}", length, options.runs, Block(options.state, doubling).products, x, backward)
    try:
        from transformers import MambaConfig
        from transformers.models.mamba.modeling_mamba import MambaMixer
    except ImportError as error:
        print(f"\ntransformers not measured: {error}")
        return
    mixer = MambaMixer(MambaConfig(hidden_size=WIDTH, state_size=options.state), layer_idx=0)
    row("block, transformers, forward", length, options.runs, mixer, [torch.randn(1, length, WIDTH)], False)


if __name__ == "__main__":
    main()
