"""Our SentencePiece tokenizer: BPE with byte fallback, trained on the world's own sentences.

Pieces stand where the public tokenizer has them: <unk>, <s>, </s>, 256 bytes, normal pieces, and last the
147 user-defined `[UNUSED_TOKEN_n]`. SentencePiece itself would put those first, so they are appended here.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as proto

from pool import Pool
from world import samples
from world.scene import DIGITS, LETTERS

MARKERS = 147
BAR = "|"


def corpus(pool: Pool, rng: random.Random, count: int) -> list[str]:
    pictures = samples.Pictures(pool, rng)
    system = samples.SYSTEM_CHAT.replace("AI", "A|I")  # printed words are spelt letter by letter
    texts = [system] * (count // 10)
    for _ in range(count):
        _, sample = samples.picture_sample(pictures, rng, rng.random())
        texts.append(samples.spoken(sample))
        texts.append(samples.spoken(samples.text_sample(rng)[1]))
    bracketed = re.compile(r"\[UNUSED_TOKEN_\d+\]")
    lines = [line for text in texts for line in bracketed.sub("\n", text).split("\n") if line]
    alphabet = BAR.join(LETTERS + LETTERS.lower() + DIGITS + "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{}~，。！？、：；“”‘’（）《》·—…")
    return lines + [alphabet] * 20


def train(pool: Pool, path: Path, vocab_size: int, seed: int, count: int = 12000) -> None:
    lines = corpus(pool, random.Random(f"tokenizer {seed}"), count)
    prefix = path.with_suffix(".training")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=vocab_size - MARKERS,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        pretokenization_delimiter=BAR,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=1,
    )
    model = proto.ModelProto()
    model.ParseFromString(Path(f"{prefix}.model").read_bytes())
    for number in range(MARKERS):
        piece = model.pieces.add()
        piece.piece, piece.score, piece.type = f"[UNUSED_TOKEN_{number}]", 0.0, proto.ModelProto.SentencePiece.USER_DEFINED
    model.trainer_spec.vocab_size = len(model.pieces)
    model.trainer_spec.ClearField("pretokenization_delimiter")
    model.trainer_spec.ClearField("model_prefix")  # a folder of whoever trained it
    path.write_bytes(model.SerializeToString())
    for tail in (".model", ".vocab"):
        Path(f"{prefix}{tail}").unlink()


class Tokenizer:
    BOS, EOS = 1, 2

    def __init__(self, path: Path | str):
        self.inner = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.end = self.inner.piece_to_id(samples.END)
        self.size = self.inner.get_piece_size()
        self.kept: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        ids = self.kept.get(text)
        if ids is None:
            ids = self.inner.encode(text)
            if len(text) < 120 and len(self.kept) < 200_000:
                self.kept[text] = ids
        return ids

    def decode(self, ids: list[int]) -> str:
        return self.inner.decode([i for i in ids if i > 2])
