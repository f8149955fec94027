"""One masked-LM training peer in PyTorch: runs a few steps on random ids and prints one JSON line.

Kinds:
  run_mlm   Hugging Face BertForMaskedLM as run_mlm.py trains it: labels -100 except at masked positions, the head at
            every position, the Trainer's default optimizer (read from the installed TrainingArguments).
  tuned     the same model, the head computed at masked positions only, fused AdamW.
  moe-loop  tuned, each feed-forward replaced by a top-1 Switch layer (Fedus et al. 2022) written the usual way: a
            ModuleList of experts, a loop over them with index_select and index_add, balance loss 0.01 (eq. 4).

All: f32 (`--bf16`: autocast), on the CPU or `--device cuda`, train mode, dropout 0.1, default (sdpa) attention, gradients clipped to norm 1.0. The batches (15 percent of
the positions masked) are made before the timed part from a fixed seed. `peak_memory_bytes` is ru_maxrss, so it includes
the interpreter and the libraries.
"""

import argparse
import json
import resource
import sys
import time

VOCABULARY = 30522
MASK_ID = 103
MASKED_SHARE = 0.15
BALANCE_WEIGHT = 0.01
CLIP_NORM = 1.0
LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.01
SEED = 20240304


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["run_mlm", "tuned", "moe-loop"], required=True)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--experts", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--sequence", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16, as the Trainer's `--bf16` does")
    parsed = parser.parse_args()
    if (parsed.kind == "moe-loop") != (parsed.experts > 0):
        parser.error("`--experts` belongs to `--kind moe-loop`, and only to it")
    return parsed


ARGUMENTS = arguments()

import torch  # noqa: E402  (after the arguments, so that a wrong one fails at once)
import transformers  # noqa: E402
from torch import nn  # noqa: E402
from transformers import BertConfig, BertForMaskedLM, TrainingArguments  # noqa: E402


class SwitchFeedForward(nn.Module):
    """Top-1 Switch layer over a list of experts; takes the place of BertIntermediate, so its output has width H."""

    def __init__(self, config, experts):
        super().__init__()
        self.router = nn.Linear(config.hidden_size, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(
                nn.Linear(config.hidden_size, config.intermediate_size),
                nn.GELU(),
                nn.Linear(config.intermediate_size, config.hidden_size),
            )
            for _ in range(experts)
        )
        self.balance = None

    def forward(self, hidden):
        tokens = hidden.reshape(-1, hidden.shape[-1])  # [T, H]
        probabilities = self.router(tokens).softmax(dim=-1)  # [T, E]
        gate, chosen = probabilities.max(dim=-1)  # [T]
        output = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero(as_tuple=True)[0]
            if rows.numel() == 0:
                continue
            result = expert(tokens.index_select(0, rows)) * gate.index_select(0, rows).unsqueeze(1)
            output = output.index_add(0, rows, result.to(output.dtype))
        experts = len(self.experts)
        share = torch.bincount(chosen, minlength=experts).to(tokens.dtype) / tokens.shape[0]
        self.balance = experts * (share * probabilities.mean(dim=0)).sum()
        return output.view_as(hidden)


class SwitchOutput(nn.Module):
    """BertOutput without its matrix product, which the experts hold: dropout, residual, layer norm."""

    def __init__(self, original):
        super().__init__()
        self.dropout = original.dropout
        self.LayerNorm = original.LayerNorm

    def forward(self, hidden, residual):
        return self.LayerNorm(self.dropout(hidden) + residual)


def build(options):
    """The model in train mode, and its Switch layers (none for the dense peers)."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        intermediate_size=4 * options.hidden,
    )
    model = BertForMaskedLM(config)
    switches = []
    if options.kind == "moe-loop":
        for layer in model.bert.encoder.layer:
            switch = SwitchFeedForward(config, options.experts)
            # The model's own initialisation, so that routing starts as near to uniform as BERT would have it.
            for module in switch.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=config.initializer_range)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
            switches.append(switch)
            layer.intermediate = switch
            layer.output = SwitchOutput(layer.output)
    return model.train().to(options.device), switches


def build_optimizer(model, options):
    """AdamW with no decay on biases and layer norms, as the Trainer groups them; returns it with its name."""
    name = "adamw_torch_fused"
    if options.kind == "run_mlm":
        default = TrainingArguments.__dataclass_fields__["optim"].default
        name = getattr(default, "value", default)
    if name not in ("adamw_torch", "adamw_torch_fused"):
        sys.exit(f"unknown default optimizer in transformers {transformers.__version__}: {name}")
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    fused = {"fused": True} if name == "adamw_torch_fused" else {}
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, **fused), name


def make_batches(options, count):
    """`count` batches (ids, labels, masked positions in the flattened batch, targets there), alike in every run."""
    generator = torch.Generator().manual_seed(SEED)
    tokens = options.batch * options.sequence
    masked = round(MASKED_SHARE * tokens)
    batches = []
    for _ in range(count):
        ids = torch.randint(1000, VOCABULARY, (tokens,), generator=generator)
        positions = torch.randperm(tokens, generator=generator)[:masked].sort().values
        targets = ids[positions].clone()
        labels = torch.full((tokens,), -100)
        labels[positions] = targets
        ids[positions] = MASK_ID
        shape = (options.batch, options.sequence)
        batch = (ids.view(shape), labels.view(shape), positions, targets)
        batches.append(tuple(tensor.to(options.device) for tensor in batch))
    return batches


def forward(model, switches, batch, options):
    """The loss of one batch."""
    ids, labels, positions, targets = batch
    attention_mask = torch.ones_like(ids)
    if options.kind == "run_mlm":
        return model(input_ids=ids, attention_mask=attention_mask, labels=labels).loss
    hidden = model.bert(input_ids=ids, attention_mask=attention_mask).last_hidden_state
    at_masked = hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)
    loss = nn.functional.cross_entropy(model.cls(at_masked), targets)
    for switch in switches:
        loss = loss + BALANCE_WEIGHT * switch.balance
    return loss


def main():
    options = ARGUMENTS
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    model, switches = build(options)
    optimizer, optimizer_name = build_optimizer(model, options)
    parameters = list(model.parameters())
    batches = make_batches(options, options.warmup + options.steps)
    seconds = {"step": [], "forward": [], "backward": [], "optimizer": []}
    for index, batch in enumerate(batches):
        start = time.perf_counter()
        with torch.autocast(torch.device(options.device).type, torch.bfloat16, enabled=options.bf16):
            loss = forward(model, switches, batch, options)
        after_forward = time.perf_counter()
        loss.backward()
        after_backward = time.perf_counter()
        # Clipping counts as part of the optimizer's time here and in our program.
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        end = time.perf_counter()
        if value != value:
            sys.exit(f"the loss is not a number at step {index}")
        if index >= options.warmup:
            seconds["step"].append(end - start)
            seconds["forward"].append(after_forward - start)
            seconds["backward"].append(after_backward - after_forward)
            seconds["optimizer"].append(end - after_backward)
    tokens = options.batch * options.sequence
    median = sorted(seconds["step"])[len(seconds["step"]) // 2]
    line = {
        "tokens_per_second": tokens / median,
        **{f"{phase}_seconds": values for phase, values in seconds.items()},
        # Linux counts ru_maxrss in KiB.
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "parameters": sum(p.numel() for p in parameters),
        "loss": value,
        "optimizer": optimizer_name,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
