"""Logits of a model directory as `transformers` computes them, for comparison with this program's.

python logits.py DIRECTORY EXPECTED.json

Loads the directory with `BertForMaskedLM.from_pretrained`, fails where a tensor is missing, unexpected or of another shape, and
writes seeded random rows (some padded, some with two segments) with their logits. The test `hugging_face` reads the file:

TCD_MODEL=DIRECTORY TCD_EXPECTED=EXPECTED.json cargo test --test suite hugging_face -- --nocapture
"""

import json
import sys

import torch
from transformers import BertForMaskedLM


def main(directory, out):
    torch.manual_seed(0)
    model, info = BertForMaskedLM.from_pretrained(directory, output_loading_info=True)
    for name in ["missing_keys", "unexpected_keys", "mismatched_keys"]:
        if info[name]:
            sys.exit(f"{name}: {info[name]}")
    model.eval()
    rows, length = 4, 64
    ids = torch.randint(5, model.config.vocab_size, (rows, length))
    mask = torch.ones_like(ids)
    types = torch.zeros_like(ids)
    for row, real in enumerate([64, 40, 17, 1]):
        mask[row, real:] = 0
        types[row, real // 2 : real] = 1
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
    with open(out, "w") as file:
        expected = {
            "input_ids": ids.tolist(),
            "attention_mask": mask.tolist(),
            "token_type_ids": types.tolist(),
            "logits": logits.flatten().tolist(),
        }
        json.dump(expected, file)
    print("no missing, unexpected or mismatched tensor")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
