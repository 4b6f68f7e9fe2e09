"""The peer of `inkstone bench device`: the network in plain PyTorch, as the official code runs it (eager, SDPA attention, keys and values
appended by concatenation, Partial LoRA by a boolean mask), on the same weights on the same GPU. Prints the rows that are compared.

Usage: reference.py CHECKPOINT_FOLDER
"""

import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open

DEVICE = "cuda"


def load(folder):
    weights = {}
    started = time.perf_counter()
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt", device=DEVICE) as opened:
            for name in opened.keys():
                if not name.startswith("vit."):
                    weights[name] = opened.get_tensor(name)
    torch.cuda.synchronize()
    size = sum(w.numel() * w.element_size() for w in weights.values())
    print(f"loading {size / (time.perf_counter() - started) / 1e9:.2f} GB/s")
    return weights


class Network:
    def __init__(self, folder):
        self.config = json.loads((Path(folder) / "config.json").read_text())
        self.w = load(folder)
        c = self.config
        self.heads, self.kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        self.head_dim = c["hidden_size"] // self.heads
        exponent = torch.arange(0, self.head_dim, 2, device=DEVICE).float() / self.head_dim
        self.frequencies = 1.0 / c["rope_theta"] ** exponent

    def norm(self, x, name):
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        return self.w[name] * (wide * scale).to(x.dtype)

    def linear(self, x, name, mask):
        y = F.linear(x, self.w[f"{name}.weight"])
        if mask is not None:
            rows = x[mask]
            y[mask] += F.linear(F.linear(rows, self.w[f"{name}.Plora_A.weight"]), self.w[f"{name}.Plora_B.weight"])
        return y

    def rotate(self, x, cos, sin):
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat([-high, low], -1) * sin

    def forward(self, hidden, start, cache, mask=None):
        batch, rows, _ = hidden.shape
        angles = torch.arange(start, start + rows, device=DEVICE).float()[:, None] * self.frequencies
        cos, sin = (torch.cat([t, t], -1).to(hidden.dtype) for t in (angles.cos(), angles.sin()))
        group = self.heads // self.kv_heads
        for i in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{i}"
            x = self.norm(hidden, f"{layer}.attention_norm.weight")
            qkv = self.linear(x, f"{layer}.attention.wqkv", mask)
            qkv = qkv.view(batch, rows, self.kv_heads, group + 2, self.head_dim)
            q = qkv[..., :group, :].reshape(batch, rows, self.heads, self.head_dim).transpose(1, 2)
            k, v = qkv[..., -2, :].transpose(1, 2), qkv[..., -1, :].transpose(1, 2)
            q, k = self.rotate(q, cos, sin), self.rotate(k, cos, sin)
            if cache[i] is not None:
                k, v = torch.cat([cache[i][0], k], 2), torch.cat([cache[i][1], v], 2)
            cache[i] = (k, v)
            wide_k, wide_v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            out = F.scaled_dot_product_attention(q, wide_k, wide_v, is_causal=rows > 1)
            out = out.transpose(1, 2).reshape(batch, rows, -1)
            hidden = hidden + self.linear(out, f"{layer}.attention.wo", mask)
            x = self.norm(hidden, f"{layer}.ffn_norm.weight")
            gate = F.silu(self.linear(x, f"{layer}.feed_forward.w1", mask))
            inner = gate * self.linear(x, f"{layer}.feed_forward.w3", mask)
            hidden = hidden + self.linear(inner, f"{layer}.feed_forward.w2", mask)
        last = self.norm(hidden[:, -1:], "model.norm.weight")
        return F.linear(last, self.w["output.weight"]).float()

    def embed(self, ids):
        return F.embedding(ids, self.w["model.tok_embeddings.weight"])

    def empty_cache(self):
        return [None] * self.config["num_hidden_layers"]

    def filled_cache(self, batch, length):
        shape = (batch, self.kv_heads, length, self.head_dim)
        make = lambda: torch.zeros(shape, device=DEVICE, dtype=torch.bfloat16)
        return [(make(), make()) for _ in self.empty_cache()]


def seconds(work, runs):
    work()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(runs):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / runs


@torch.inference_mode()
def main(folder):
    network = Network(folder)
    for batch, context in ((1, 512), (64, 1536)):
        try:
            cache = network.filled_cache(batch, context)
            at = [context]
            ids = torch.full((batch, 1), 7, device=DEVICE)

            def step():
                logits = network.forward(network.embed(ids), at[0], cache)
                at[0] += 1
                return logits.argmax(-1).cpu()

            took = seconds(step, 8)
            print(f"decode, {batch} x {context}: {batch / took:.1f} tokens/s ({took * 1e3:.2f} ms)", flush=True)
        except torch.OutOfMemoryError:
            print(f"decode, {batch} x {context}: out of memory", flush=True)
        del cache
        torch.cuda.empty_cache()
    ids = torch.arange(4096, device=DEVICE)[None] % 1000 + 3
    took = seconds(lambda: network.forward(network.embed(ids), 0, network.empty_cache()), 2)
    print(f"prefill, 4096 tokens of text: {took * 1e3:.1f} ms", flush=True)
    ids = torch.arange(1265, device=DEVICE)[None]
    mask = (ids < 1225).clone()
    took = seconds(lambda: network.forward(network.embed(ids), 0, network.empty_cache(), mask), 3)
    plain = seconds(lambda: network.forward(network.embed(ids), 0, network.empty_cache()), 3)
    print(f"a picture of 1225 rows + 40 tokens: {took * 1e3:.1f} ms, {took / plain:.2f} x the same rows as text", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
