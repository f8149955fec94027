"""Holds Python's onnxruntime against this program: the logits of a features file, row by row.

    tcd features --model DIR --runtime ort --task SST-2 --data glue --out f.safetensors
    python3 onnx_logits.py f.safetensors DIR/model.onnx

Takes numpy and onnxruntime alone, so it reads safetensors by itself. Prints rows and the largest difference; ends with 1
beyond 1e-4. Rows of two texts need their types, which a features file does not hold, so it is for tasks of one text.
"""

import json
import struct
import sys

import numpy as np
import onnxruntime

TYPES = {"F32": "<f4", "I64": "<i8"}


def tensors(path):
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    at = lambda offsets: data[8 + length + offsets[0] : 8 + length + offsets[1]]
    return {
        name: np.frombuffer(at(info["data_offsets"]), TYPES[info["dtype"]]).reshape(info["shape"])
        for name, info in header.items()
    }


def main(features, model):
    held = tensors(features)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    largest = 0.0
    for place, row in enumerate(held["rows.id"]):
        ids = held["input_ids"][held["row"] == row][None]
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        (logits,) = session.run(["logits"], feed)
        largest = max(largest, float(np.abs(logits[0] - held["rows.logits"][place]).max()))
    print(f"{len(held['rows.id'])} rows, onnxruntime {onnxruntime.__version__}: largest difference {largest:.3g}")
    return int(largest > 1e-4)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
