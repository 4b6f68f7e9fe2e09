#!/usr/bin/env python3
"""Makes the small committed copy of the golden data out of the whole set.

    python3 tests/goldens/trim.py FOLDER_OF_THE_WHOLE_SET [WHERE_TO]

Folders are copied whole but for the rules below, which go by size and by the patterns of names (README.md has them).
Numbers are never changed, only left out, and every manifest is rewritten to describe what is left. Standard library only.
"""

import json
import pathlib
import re
import shutil
import struct
import sys

# Folders whose checkpoints are too large for what they add to the others.
LEFT_OUT = {"xc2-vl-tiny", "xc2-realvocab-tiny"}

# Lossy pictures are tried on the reference's own decoded pixels, which are large: these are kept, one a format.
KEPT_LOSSY = {"gray_130x111.jpg", "photo_301x187.webp"}

# Pictures of a preprocess folder that show nothing the others do not.
LEFT_OUT_PICTURES = {"flat_490x490.png"}

# Resized pixels are held to their digest in the manifest; whole pictures of values say no more than rows of them.
DROPPED_TENSORS = [r".*\.u8", r"full_\d+", r"vision\.\d+\.pixels_u8"]

# Rows of features: one in so many is kept, and the last; `rows` in the manifest says which.
FEATURES = r"(vision\.)?\d+\.(vit|proj)"
FEATURE_STEP = 24

# Positions whose logits and hidden states are kept: one in so many, and the last.
KEEP_STEP = 8

SIZES = {"F32": 4, "I32": 4, "U8": 1, "F16": 2, "BF16": 2, "I64": 8, "F64": 8}


def matches(patterns, name):
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def read_tensors(file):
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    body = data[8 + length :]
    return {
        name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def write_tensors(file, tensors):
    header, offset = {}, 0
    for name, (dtype, shape, data) in sorted(tensors.items()):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(data for _, (_, _, data) in sorted(tensors.items()))
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)


def pick(tensor, axis, rows):
    """The tensor with only `rows` along an axis."""
    dtype, shape, data = tensor
    inner = SIZES[dtype]
    for size in shape[axis + 1 :]:
        inner *= size
    outer = 1
    for size in shape[:axis]:
        outer *= size
    block = inner * shape[axis]
    picked = b"".join(
        data[o * block + row * inner : o * block + (row + 1) * inner] for o in range(outer) for row in rows
    )
    return dtype, [*shape[:axis], len(rows), *shape[axis + 1 :]], picked


def thin(length, step):
    """Every so many, and the last."""
    return sorted({*range(0, length, step), length - 1})


def thin_features(manifest, tensors):
    for name in tensors:
        entry = manifest["tensors"][name]
        if re.fullmatch(FEATURES, name) and "rows" not in entry:
            entry["rows"] = thin(tensors[name][1][0], FEATURE_STEP)
            tensors[name] = pick(tensors[name], 0, entry["rows"])


def thin_positions(tensors):
    """Thins `CASE.keep` and what has a row for each of its positions."""
    for keep in [name for name in tensors if name.endswith(".keep")]:
        case, count = keep.removesuffix(".keep"), tensors[keep][1][0]
        rows = thin(count, KEEP_STEP)
        for name, (_, shape, _) in list(tensors.items()):
            owner, _, what = name.rpartition(f"{case}.")
            is_of_case = name.startswith(f"{case}.") or owner.startswith("checkpoint_") and "gen" not in owner
            if not is_of_case or not re.fullmatch(r"keep|logits|hidden|logsumexp|top\.(values|indices)", what):
                continue
            axis = 1 if what == "hidden" else 0
            if shape[axis] == count:
                tensors[name] = pick(tensors[name], axis, rows)


def drop_pictures(manifest, tensors):
    """Leaves pictures out of a preprocess folder, and gives the files that go with them."""
    dropped = set()
    for file in list(manifest["cases"]):
        stem = file.replace(".", "_")
        is_lossy = f"{stem}.decoded" in tensors
        if (is_lossy and file not in KEPT_LOSSY) or file in LEFT_OUT_PICTURES:
            dropped.add(file)
            del manifest["cases"][file]
            for name in [name for name in tensors if name.startswith(f"{stem}.")]:
                del tensors[name]
    return dropped


def drop_prepared(manifest):
    """Leaves out all prepared pictures but the first, and gives their files."""
    cases = [case for _, case in sorted(manifest["cases"].items()) if isinstance(case, dict) and "prepared" in case]
    return {case.pop("prepared") for case in cases[1:]}


def trim_folder(source, target):
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    file = target / "manifest.json"
    if not file.exists():
        return
    manifest = json.loads(file.read_text())
    tensors = read_tensors(target / "goldens.safetensors")
    tensors = {name: tensor for name, tensor in tensors.items() if not matches(DROPPED_TENSORS, name)}
    is_preprocess = "constants" in manifest
    dropped_files = drop_pictures(manifest, tensors) if is_preprocess else drop_prepared(manifest)
    for name in dropped_files:
        (target / "images" / name).unlink()
    thin_features(manifest, tensors)
    thin_positions(tensors)
    manifest["title"] += "; trimmed"
    manifest["tensors"] = {
        name: {**manifest["tensors"][name], "shape": shape} for name, (_, shape, _) in tensors.items()
    }
    write_tensors(target / "goldens.safetensors", tensors)
    file.write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n")


def main():
    source = pathlib.Path(sys.argv[1])
    target = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else pathlib.Path(__file__).parent
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        if (target / folder.name).exists():
            shutil.rmtree(target / folder.name)
        if folder.name not in LEFT_OUT:
            trim_folder(folder, target / folder.name)
    for folder in sorted(path for path in target.iterdir() if path.is_dir()):
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        print(f"{size / 1e6:6.2f} MB  {folder.name}")


if __name__ == "__main__":
    main()
