"""One evaluation peer: answers the same rows and prints one JSON line.

Kinds:
  hf-pad128    Hugging Face the way run_glue.py evaluates: AutoTokenizer, every row padded to 128, batches of 8 rows in their order,
               BertForSequenceClassification in PyTorch, no gradient.
  ort-dynamic  Python's onnxruntime on the exported file, the usual way: AutoTokenizer, batches of 32 rows in their order, each
               padded to its longest row.
  ort-raw      Python's onnxruntime on the very tensors that the program ran (a safetensors file), nothing else timed.

Seconds of a pass are counted for tokenizing and for running apart; the first pass is not counted.
"""

import argparse
import json
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["hf-pad128", "ort-dynamic", "ort-raw"], required=True)
    parser.add_argument("--model", required=True, help="model directory with model.onnx")
    parser.add_argument("--rows", help="text file, a row a line, a TAB between the texts of a pair")
    parser.add_argument("--tensors", help="safetensors file of batches")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


ARGUMENTS = arguments()


def texts():
    rows = [line.rstrip("\n").split("\t") for line in open(ARGUMENTS.rows, encoding="utf-8")]
    firsts = [row[0] for row in rows]
    seconds = [row[1] for row in rows] if len(rows[0]) > 1 else None
    return firsts, seconds


def tokenizer():
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_file=f"{ARGUMENTS.model}/tokenizer.json", **special)


def part(rows, start, size):
    firsts, seconds = rows
    return firsts[start : start + size], None if seconds is None else seconds[start : start + size]


def session():
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = ARGUMENTS.threads
    return onnxruntime.InferenceSession(f"{ARGUMENTS.model}/model.onnx", options, providers=["CPUExecutionProvider"])


NAMES = ["input_ids", "attention_mask", "token_type_ids"]


def hf_pad128():
    import torch
    from transformers import BertForSequenceClassification

    torch.set_num_threads(ARGUMENTS.threads)
    model = BertForSequenceClassification.from_pretrained(ARGUMENTS.model).eval()
    cut, rows = tokenizer(), texts()

    def encode():
        return cut(*rows, padding="max_length", max_length=128, truncation=True, return_token_type_ids=True, return_tensors="pt")

    def run(encoded):
        with torch.no_grad():
            for start in range(0, len(rows[0]), 8):
                model(**{name: encoded[name][start : start + 8] for name in NAMES}).logits.numpy()

    return encode, run, len(rows[0])


def ort_dynamic():
    import numpy

    model, cut, rows = session(), tokenizer(), texts()

    def encode():
        batches = []
        for start in range(0, len(rows[0]), 32):
            encoded = cut(*part(rows, start, 32), padding="longest", max_length=128, truncation=True, return_token_type_ids=True, return_tensors="np")
            batches.append({name: encoded[name].astype(numpy.int64) for name in NAMES})
        return batches

    def run(batches):
        for batch in batches:
            model.run(["logits"], batch)

    return encode, run, len(rows[0])


def ort_raw():
    import numpy
    import struct

    model = session()
    data = open(ARGUMENTS.tensors, "rb").read()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        values = numpy.frombuffer(data[8 + length + start : 8 + length + end], dtype="<f4")
        tensors[name] = values.astype(numpy.int64).reshape(entry["shape"])
    batches = [{name: tensors[f"{index}.{name}"] for name in NAMES} for index in range(len(tensors) // 3)]
    rows = sum(len(batch["input_ids"]) for batch in batches)

    def run(batches):
        for batch in batches:
            model.run(["logits"], batch)

    return lambda: batches, run, rows


def main():
    begin = time.perf_counter()
    encode, run, rows = {"hf-pad128": hf_pad128, "ort-dynamic": ort_dynamic, "ort-raw": ort_raw}[ARGUMENTS.kind]()
    load = time.perf_counter() - begin
    encoding, running = [], []
    for index in range(ARGUMENTS.passes + 1):
        start = time.perf_counter()
        encoded = encode()
        middle = time.perf_counter()
        run(encoded)
        end = time.perf_counter()
        if index > 0:
            encoding.append(middle - start)
            running.append(end - middle)
    print(json.dumps({"rows": rows, "load_seconds": load, "encode_seconds": encoding, "run_seconds": running}))


if __name__ == "__main__":
    main()
