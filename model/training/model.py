"""InternLM-XComposer2 (release 2.0, one square picture) in plain PyTorch, with the public tensor names.

This is the network that `train.py` trains and, being written apart from the Rust one, the second
implementation that `compare.py` holds against it. `state_dict()` of `XComposer2` is the checkpoint's
inventory. Shapes in comments: B sequences, T positions, P picture rows in the batch, H hidden.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PICTURE_MEAN = (0.48145466, 0.4578275, 0.40821073)
PICTURE_STD = (0.26862954, 0.26130258, 0.27577711)
PICTURE_ID = -1  # stands in `ids` where a projected picture row goes


@dataclass
class VisionConfig:
    hidden_size: int = 192
    num_hidden_layers: int = 5
    num_attention_heads: int = 6
    intermediate_size: int = 768
    image_size: int = 112
    patch_size: int = 14
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"

    @property
    def rows(self) -> int:
        """Picture rows that the language model is given for one picture."""
        return (self.image_size // self.patch_size) ** 2

    def patch_of(self, x: float, y: float) -> int:
        """The patch, and so the picture row, of a point in pixels."""
        across = self.image_size // self.patch_size
        bound = lambda v: max(0, min(across - 1, int(v / self.patch_size)))
        return bound(y) * across + bound(x)


@dataclass
class Config:
    vocab_size: int = 1536
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 5
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1_000_000.0
    plora_rank: int = 32
    vision: VisionConfig = field(default_factory=VisionConfig)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @staticmethod
    def read(folder: str | Path) -> "Config":
        """From a checkpoint's config.json; the rank is read from the tensors by the caller."""
        raw = json.loads((Path(folder) / "config.json").read_text())
        names = set(VisionConfig.__dataclass_fields__)
        vision = VisionConfig(**{k: v for k, v in raw["vision_config"].items() if k in names})
        own = set(Config.__dataclass_fields__) - {"vision", "plora_rank"}
        return Config(**{k: v for k, v in raw.items() if k in own}, vision=vision)

    def to_json(self) -> dict:
        vision = asdict(self.vision)
        own = {k: v for k, v in asdict(self).items() if k not in ("vision", "plora_rank")}
        return {**own, "vision_config": vision}


# ---------------------------------------------------------------- language


class RmsNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class PartialLoraLinear(nn.Linear):
    """y = W x, plus B (A x) on the picture rows only. `rows` indexes the flattened [B * T]."""

    def __init__(self, wide_in: int, wide_out: int, rank: int):
        super().__init__(wide_in, wide_out, bias=False)
        self.Plora_A = nn.Linear(wide_in, rank, bias=False)
        self.Plora_B = nn.Linear(rank, wide_out, bias=False)
        self.scale = 2.0 if rank == 8 else 1.0
        nn.init.zeros_(self.Plora_B.weight)

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        y = F.linear(x, self.weight)
        if rows is None or rows.numel() == 0:
            return y
        seen = x.reshape(-1, x.shape[-1]).index_select(0, rows)
        extra = self.Plora_B(self.Plora_A(seen))
        if self.scale != 1.0:
            extra = extra * self.scale
        return y.reshape(-1, y.shape[-1]).index_add(0, rows, extra.to(y.dtype)).view_as(y)


class Rotary:
    """Half-split rotary tables in float32 for given positions."""

    def __init__(self, head_dim: int, theta: float):
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        self.frequencies = 1.0 / theta**exponents

    def tables(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        angles = positions.float()[..., None] * self.frequencies.to(positions.device)
        angles = torch.cat((angles, angles), -1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat((-high, low), -1) * sin


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        wide = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.wqkv = PartialLoraLinear(config.hidden_size, wide, config.plora_rank)
        self.wo = PartialLoraLinear(config.hidden_size, config.hidden_size, config.plora_rank)

    def forward(self, x, rows, turn, mask, past):
        """`past`: (keys, values) [B or 1, kv, S, d] or None. Returns the output and this call's own keys, values and queries."""
        count, length, _ = x.shape
        groups = self.heads // self.kv_heads
        fused = self.wqkv(x, rows).view(count, length, self.kv_heads, groups + 2, self.head_dim)
        q, k, v = fused[:, :, :, :groups], fused[:, :, :, groups], fused[:, :, :, groups + 1]
        q = q.reshape(count, length, self.heads, self.head_dim).transpose(1, 2)
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        cos, sin = turn
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        own = (k, v, q)
        if past is not None:
            k, v = (torch.cat((p.expand(count, -1, -1, -1), n), 2) for p, n in zip(past, (k, v)))
        if mask is None:
            mask = torch.ones(length, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - length)
        # The query heads of one group are stacked over its keys: no copy of keys and values is made.
        stacked = (q * self.head_dim**-0.5).reshape(count * self.kv_heads, groups * length, self.head_dim)
        k, v = (t.reshape(count * self.kv_heads, -1, self.head_dim) for t in (k, v))
        blocked = torch.zeros_like(mask, dtype=k.dtype).masked_fill(~mask, -1e9)
        if mask.dim() == 2:
            blocked = blocked.repeat(groups, 1).expand(len(k), -1, -1)
        else:  # a mask for each sequence
            blocked = blocked.repeat(1, groups, 1).repeat_interleave(self.kv_heads, 0)
        mixed = torch.baddbmm(blocked, stacked, k.transpose(1, 2)).softmax(-1) @ v
        mixed = mixed.view(count, self.heads, length, self.head_dim)
        return self.wo(mixed.transpose(1, 2).reshape(count, length, -1), rows), own


class FeedForward(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        sizes = (config.hidden_size, config.intermediate_size)
        self.w1 = PartialLoraLinear(*sizes, config.plora_rank)
        self.w3 = PartialLoraLinear(*sizes, config.plora_rank)
        self.w2 = PartialLoraLinear(*reversed(sizes), config.plora_rank)

    def forward(self, x: Tensor, rows: Tensor | None) -> Tensor:
        return self.w2(F.silu(self.w1(x, rows)) * self.w3(x, rows), rows)


class DecoderLayer(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.ffn_norm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x, rows, turn, mask, past):
        mixed, own = self.attention(self.attention_norm(x), rows, turn, mask, past)
        x = x + mixed
        return x + self.feed_forward(self.ffn_norm(x), rows), own


class Decoder(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary = Rotary(config.head_dim, config.rope_theta)


# ------------------------------------------------------------------ vision


class ClipAttention(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        wide = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj, self.k_proj = nn.Linear(wide, wide), nn.Linear(wide, wide)
        self.v_proj, self.out_proj = nn.Linear(wide, wide), nn.Linear(wide, wide)

    def forward(self, x: Tensor) -> Tensor:
        count, length, wide = x.shape
        split = lambda t: t.view(count, length, self.heads, -1).transpose(1, 2)
        q, k, v = split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        mixed = scores.softmax(-1) @ v
        return self.out_proj(mixed.transpose(1, 2).reshape(count, length, wide))


class ClipMlp(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))


class ClipLayer(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.self_attn = ClipAttention(config)
        self.mlp = ClipMlp(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class PatchEmbedding(nn.Module):
    """A convolution whose stride is its size, written as one product per patch."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.patch = config.patch_size
        self.weight = nn.Parameter(torch.empty(config.hidden_size, 3, self.patch, self.patch))

    def forward(self, pixels: Tensor) -> Tensor:
        count, channels, height, width = pixels.shape
        rows, columns = height // self.patch, width // self.patch
        cut = pixels.view(count, channels, rows, self.patch, columns, self.patch).permute(0, 2, 4, 1, 3, 5)
        return F.linear(cut.reshape(count, rows * columns, -1), self.weight.flatten(1))


class ClipEmbeddings(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(config.hidden_size) * 0.02)
        self.patch_embedding = PatchEmbedding(config)
        self.position_embedding = nn.Embedding(config.rows + 1, config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embedding(pixels)
        first = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        return torch.cat((first, patches), 1) + self.position_embedding.weight.to(patches.dtype)


class ClipTower(nn.Module):
    """Normalised pixels [n, 3, side, side] to features [n, rows, hidden]; no class row, no last norm."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.embeddings = ClipEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(ClipLayer(config) for _ in range(config.num_hidden_layers))})

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.pre_layrnorm(self.embeddings(pixels))
        for layer in self.encoder["layers"]:
            x = layer(x)
        return x[:, 1:]


def normalise(pixels: Tensor) -> Tensor:
    """uint8 [n, side, side, 3] to the tower's input, float32 [n, 3, side, side]."""
    mean, std = (torch.tensor(v, device=pixels.device) for v in (PICTURE_MEAN, PICTURE_STD))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


# --------------------------------------------------------------- the whole


class XComposer2(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        tower = nn.ModuleDict({"vision_model": ClipTower(config.vision)})
        self.vit = nn.ModuleDict({"vision_tower": tower})
        self.vision_proj = nn.Sequential(
            nn.Linear(config.vision.hidden_size, config.hidden_size),
            nn.GELU(),
            nn.Linear(config.hidden_size, config.hidden_size),
        )
        self.whitening = None  # training only: see whitening.py
        self.partial_lora = True  # False: picture rows go through the base weights alone
        self.apply(_start)
        _start_positions(self.tower.embeddings.position_embedding, config.vision)
        for layer in self.model.layers:
            for linear in (layer.attention.wo, layer.feed_forward.w2):
                nn.init.normal_(linear.weight, std=0.04 / (2 * config.num_hidden_layers) ** 0.5)

    @property
    def tower(self) -> ClipTower:
        return self.vit["vision_tower"]["vision_model"]

    def see(self, pixels: Tensor) -> Tensor:
        """uint8 pictures, or what the tower made of them ([n, rows, width]), to projected rows [n, rows, H]."""
        features = self.tower(normalise(pixels)) if pixels.dim() == 4 else pixels.float()
        if self.whitening is not None:
            features = self.whitening(features)
        return self.vision_proj(features)

    def embed(self, ids: Tensor, pictures: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Embeddings [B, T, H] with the picture rows put where `ids` is PICTURE_ID, and their flat indices."""
        x = self.model.tok_embeddings(ids.clamp(min=0))
        if pictures is None:
            return x, None
        rows = (ids.reshape(-1) == PICTURE_ID).nonzero().squeeze(1)
        flat = x.reshape(-1, x.shape[-1])
        return flat.index_copy(0, rows, pictures.reshape(-1, x.shape[-1]).to(x.dtype)).view_as(x), rows

    def hidden(self, ids, pictures=None, positions=None, mask=None, past=None, queries: list | None = None):
        """Final hidden rows [B, T, H] and each layer's new keys and values. `mask` None: causal, nothing before.

        `queries` takes each layer's rotated queries [B, heads, T, d].
        """
        x, rows = self.embed(ids, pictures)
        rows = rows if self.partial_lora else None
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        if positions.dim() == 2:
            positions = positions[:, None]  # one more axis for the heads
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        turn = self.model.rotary.tables(positions, dtype)
        own = []
        for index, layer in enumerate(self.model.layers):
            x, kept = layer(x, rows, turn, mask, past[index] if past else None)
            own.append(kept[:2])
            if queries is not None:
                queries.append(kept[2])
        return self.model.norm(x), own

    def forward(self, ids: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Logits [B, T, vocab] in float32, the plain way."""
        pictures = self.see(pixels) if pixels is not None else None
        return self.output(self.hidden(ids, pictures)[0]).float()


def _start(module: nn.Module) -> None:
    if isinstance(module, PartialLoraLinear):
        nn.init.normal_(module.weight, std=0.04)
        nn.init.normal_(module.Plora_A.weight, std=module.in_features**-0.5)
        nn.init.zeros_(module.Plora_B.weight)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5 * 0.7)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.05)
    elif isinstance(module, PatchEmbedding):
        nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)


def _start_positions(table: nn.Embedding, config: VisionConfig) -> None:
    """Waves along both axes, so that neighbours are alike from the first step."""
    side = config.image_size // config.patch_size
    quarter = config.hidden_size // 4
    waves = torch.exp(torch.linspace(0, -3.0, quarter))[None] * torch.arange(side)[:, None] * 1.5
    axis = torch.cat((waves.sin(), waves.cos()), 1)
    grid = torch.cat((axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)), 2)
    with torch.no_grad():
        table.weight[1:] = grid.reshape(side * side, -1)[:, : config.hidden_size] * 0.5


def load(folder: str | Path) -> XComposer2:
    """A checkpoint folder in the public format, in float32."""
    from safetensors.torch import load_file

    tensors = load_file(Path(folder) / "model.safetensors")
    config = Config.read(folder)
    config.plora_rank = tensors["model.layers.0.feed_forward.w1.Plora_A.weight"].shape[0]
    network = XComposer2(config)
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return network.eval()
