#!/usr/bin/env python3
"""Writes golden/gpt*.json and golden/lstm.json: what PyTorch computes for networks over text. See make_goldens.py.

    /tmp/torch/bin/python tests/conformance/make_text_goldens.py
"""

import torch
import torch.nn.functional as F

from make_goldens import numbers, tensor, write

VOCABULARY, CONTEXT, LAYERS, HEADS, WIDTH, BATCH = 7, 5, 2, 2, 8, 3


def gpt_shapes(tied):
    shapes = {
        "transformer.wte.weight": (VOCABULARY, WIDTH),
        "transformer.wpe.weight": (CONTEXT, WIDTH),
        "transformer.ln_f.weight": (WIDTH,),
        "transformer.ln_f.bias": (WIDTH,),
    }
    if not tied:
        shapes["lm_head.weight"] = (VOCABULARY, WIDTH)
    for n in range(LAYERS):
        block = f"transformer.h.{n}"
        for norm in ("ln_1", "ln_2"):
            shapes[f"{block}.{norm}.weight"] = (WIDTH,)
            shapes[f"{block}.{norm}.bias"] = (WIDTH,)
        for name, out, inputs in (
            ("attn.c_attn", 3, 1),
            ("attn.c_proj", 1, 1),
            ("mlp.c_fc", 4, 1),
            ("mlp.c_proj", 1, 4),
        ):
            shapes[f"{block}.{name}.weight"] = (out * WIDTH, inputs * WIDTH)
            shapes[f"{block}.{name}.bias"] = (out * WIDTH,)
    return shapes


def gpt_logits(p, x):
    """The definition, from PyTorch's functions: no class of somebody's model is needed."""
    affine = lambda name, h: F.linear(h, p[f"{name}.weight"], p[f"{name}.bias"])
    norm = lambda name, h: F.layer_norm(h, (WIDTH,), p[f"{name}.weight"], p[f"{name}.bias"])
    heads = lambda h: h.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)
    h = p["transformer.wte.weight"][x.long()] + p["transformer.wpe.weight"][: x.shape[1]]
    for n in range(LAYERS):
        block = f"transformer.h.{n}"
        q, k, v = affine(f"{block}.attn.c_attn", norm(f"{block}.ln_1", h)).split(WIDTH, dim=-1)
        y = F.scaled_dot_product_attention(heads(q), heads(k), heads(v), is_causal=True)
        h = h + affine(f"{block}.attn.c_proj", y.transpose(1, 2).flatten(-2))
        inner = F.gelu(affine(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", h)))
        h = h + affine(f"{block}.mlp.c_proj", inner)
    head = p.get("lm_head.weight", p["transformer.wte.weight"])
    return F.linear(norm("transformer.ln_f", h), head)


def document(model, shapes, logits_of, batches):
    parameters = {name: (0.5 * torch.randn(shape)).requires_grad_() for name, shape in shapes.items()}
    x, y = (torch.randint(VOCABULARY, (batches, CONTEXT), dtype=torch.int32) for _ in range(2))
    initial = {name: tensor(p) for name, p in parameters.items()}
    logits = logits_of(parameters, x)
    loss = F.cross_entropy(logits.flatten(0, 1), y.flatten().long())
    loss.backward()
    return {
        "model": model,
        "batch": batches,
        "initial": initial,
        "batches": [{"x": numbers(x), "y": numbers(y)}],
        "first": {
            "output": tensor(logits),
            "loss": loss.item(),
            "gradients": {name: tensor(p.grad) for name, p in parameters.items()},
        },
    }


HIDDEN, EMBEDDING = 4, 3


def lstm_shapes():
    module = torch.nn.LSTM(EMBEDDING, HIDDEN, LAYERS)
    shapes = {f"lstm.{name}": p.shape for name, p in module.named_parameters()}
    shapes["embedding.weight"] = (VOCABULARY, EMBEDDING)
    shapes["head.weight"] = (VOCABULARY, HIDDEN)
    shapes["head.bias"] = (VOCABULARY,)
    return shapes


def lstm_logits(p, x):
    module = torch.nn.LSTM(EMBEDDING, HIDDEN, LAYERS, batch_first=True)
    inner = {name[5:]: value for name, value in p.items() if name.startswith("lstm.")}
    y, _ = torch.func.functional_call(module, inner, (p["embedding.weight"][x.long()],))
    return F.linear(y, p["head.weight"], p["head.bias"])


def lstm(name):
    torch.manual_seed(4)
    model = {
        "kind": "lstm",
        "vocabulary": VOCABULARY,
        "context": CONTEXT,
        "embedding": EMBEDDING,
        "hidden": HIDDEN,
        "layers": LAYERS,
    }
    write(name, document(model, lstm_shapes(), lstm_logits, BATCH))


def gpt(name, tied):
    torch.manual_seed(3)
    model = {
        "kind": "gpt",
        "vocabulary": VOCABULARY,
        "context": CONTEXT,
        "layers": LAYERS,
        "heads": HEADS,
        "width": WIDTH,
        "tied": tied,
    }
    write(name, document(model, gpt_shapes(tied), gpt_logits, BATCH))


if __name__ == "__main__":
    gpt("gpt.json", tied=False)
    gpt("gpt_tied.json", tied=True)
    lstm("lstm.json")
