#!/usr/bin/env python3
"""Writes golden/*.json: what PyTorch computes for operators, models, optimizers and schedules.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch numpy
    /tmp/torch/bin/python tests/conformance/make_goldens.py

The layout of the files is in README.md. The same PyTorch version writes the same files.
"""

import fnmatch
import json
import math
import pathlib
import warnings

import numpy as np
import torch
import torch.nn.functional as F

OUT = pathlib.Path(__file__).parent / "golden"
STEPS = 10


def numbers(tensor):
    """A flat list whose decimals read back as the same floats."""
    flat = tensor.detach().contiguous().flatten().numpy()
    if flat.dtype == np.int32 or flat.dtype == np.int64:
        return [int(x) for x in flat]
    decimals = [float(str(x)) for x in flat]
    assert all(flat.dtype.type(d) == x for d, x in zip(decimals, flat))
    return decimals


def tensor(t):
    return {"shape": list(t.shape), "data": numbers(t)}


def write(name, document):
    document = {"torch": torch.__version__.split("+")[0], **document}
    text = json.dumps(document, indent=None, separators=(",", ":"))
    # One line per entry of the outer lists, so that a change can be read.
    for mark in ('"cases":[', '"runs":[', '"batches":[', '"schedules":['):
        text = text.replace(mark, mark + "\n")
    text = text.replace("},{", "},\n{")
    (OUT / name).write_text(text + "\n")
    print(f"{name}: {len(text) / 1024:.0f} KiB")


# Operators, in float64: conventions are pinned to the last digits.


def operator_case(name, op, apply, operands, labels=None):
    """Forward and gradient of one operator. A result that isn't a scalar goes into a mean squared
    error with `target`, and the gradients are those of that loss."""
    leaves = [o.clone().requires_grad_() for o in operands]
    y = apply(*leaves) if labels is None else apply(*leaves, labels)
    case = {"name": name, "op": op, "operands": [tensor(o) for o in operands]}
    if labels is not None:
        case["labels"] = numbers(labels)
    if y.dim() == 0:
        loss = y
    else:
        target = torch.randn_like(y)
        loss = F.mse_loss(y, target)
        case["target"] = numbers(target)
        case["result"] = tensor(y)
    loss.backward()
    case["loss"] = loss.item()
    case["gradients"] = [numbers(leaf.grad) for leaf in leaves]
    return case


def operators():
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    r = torch.randn
    wide = lambda *shape: 3 * r(*shape)
    cases = [
        operator_case("affine", {"kind": "affine"}, F.linear, [r(5, 7), r(3, 7), r(3)]),
        operator_case("affine without bias", {"kind": "affine"}, F.linear, [r(4, 2), r(6, 2)]),
        operator_case("relu", {"kind": "relu"}, F.relu, [wide(4, 8)]),
        operator_case("gelu", {"kind": "gelu"}, F.gelu, [wide(4, 8)]),
        operator_case(
            "gelu_tanh",
            {"kind": "gelu_tanh"},
            lambda x: F.gelu(x, approximate="tanh"),
            [wide(4, 8)],
        ),
        operator_case("tanh", {"kind": "tanh"}, torch.tanh, [wide(4, 8)]),
        operator_case("sigmoid", {"kind": "sigmoid"}, torch.sigmoid, [wide(4, 8)]),
        operator_case(
            "softmax", {"kind": "softmax", "axis": 1}, lambda x: F.softmax(x, -1), [wide(4, 9)]
        ),
        operator_case("add", {"kind": "add"}, torch.add, [r(3, 4), r(3, 4)]),
        operator_case(
            "scale", {"kind": "scale", "factor": -1.25}, lambda x: -1.25 * x, [r(3, 4)]
        ),
        operator_case(
            "softmax_cross_entropy",
            {"kind": "softmax_cross_entropy"},
            F.cross_entropy,
            [wide(6, 5)],
            labels=torch.tensor([0, 4, 2, 1, 3, 2]),
        ),
        operator_case(
            "softmax_cross_entropy of extremes",
            {"kind": "softmax_cross_entropy"},
            F.cross_entropy,
            [1e4 * torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])],
            labels=torch.tensor([1, 1, 2]),
        ),
        operator_case(
            "mean_squared_error", {"kind": "mean_squared_error"}, F.mse_loss, [r(5, 3), r(5, 3)]
        ),
        operator_case(
            "l2_penalty",
            {"kind": "l2_penalty", "lambda": 0.03},
            lambda w: 0.5 * 0.03 * w.pow(2).sum(),
            [r(5, 3)],
        ),
    ]
    cases += unary_cases() + binary_cases() + softmax_cases()
    cases += reduction_cases() + layout_cases() + norm_cases() + loss_cases() + image_cases()
    cases += attention_cases() + recurrent_cases() + element_cases()
    # New cases come last: the random numbers of those before stay what they are.
    cases += reset_first_cases()
    for kind, f in (("fmod", torch.fmod), ("mod", torch.remainder)):
        operands = [5 * r(4, 6), 2 * r(6)]
        cases.append(operator_case(kind, {"kind": kind}, f, operands))
    cases += window_cases()
    torch.set_default_dtype(torch.float32)
    write("operators.json", {"count": len(cases), "cases": cases})


def unary_cases():
    positive = lambda: torch.rand(3, 5) * 4 + 0.1
    wide = lambda: 3 * torch.randn(3, 5)
    kinds = [
        ({"kind": "neg"}, torch.neg, wide),
        ({"kind": "abs"}, torch.abs, wide),
        ({"kind": "exp"}, torch.exp, wide),
        ({"kind": "log"}, torch.log, positive),
        ({"kind": "sqrt"}, torch.sqrt, positive),
        ({"kind": "rsqrt"}, torch.rsqrt, positive),
        ({"kind": "reciprocal"}, torch.reciprocal, positive),
        ({"kind": "erf"}, torch.erf, wide),
        ({"kind": "sin"}, torch.sin, wide),
        ({"kind": "cos"}, torch.cos, wide),
        ({"kind": "softplus"}, F.softplus, wide),
        ({"kind": "silu"}, F.silu, wide),
        ({"kind": "elu", "alpha": 1.5}, lambda x: F.elu(x, 1.5), wide),
        ({"kind": "leaky_relu", "slope": 0.1}, lambda x: F.leaky_relu(x, 0.1), wide),
        ({"kind": "hard_swish"}, F.hardswish, wide),
        ({"kind": "hard_sigmoid"}, F.hardsigmoid, wide),
        ({"kind": "clip", "min": -1.0, "max": 2.0}, lambda x: x.clamp(-1, 2), wide),
    ]
    cases = [operator_case(op["kind"], op, f, [draw()]) for op, f, draw in kinds]
    for case in cases:
        if case["name"] == "hard_sigmoid":
            # PyTorch takes the slope 1/6 in float32.
            case["tolerance"] = 1e-8
    return cases


def binary_cases():
    r = torch.randn
    positive = lambda *shape: torch.rand(*shape) * 3 + 0.2
    kinds = {
        "add": (torch.add, r),
        "sub": (torch.sub, r),
        "mul": (torch.mul, r),
        "div": (torch.div, positive),
        "pow": (torch.pow, positive),
        "min": (torch.minimum, r),
        "max": (torch.maximum, r),
    }
    cases = []
    for kind, (f, draw) in kinds.items():
        for a, b in [((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (2, 3)), ((2, 1, 3), (2, 1))]:
            name = f"{kind} of {list(a)} and {list(b)}"
            cases.append(operator_case(name, {"kind": kind}, f, [draw(*a), draw(*b)]))
    tie = torch.tensor([1.0, 2.0])
    for kind in ("min", "max"):
        operands = [tie.clone(), torch.tensor([1.0, 0.0])]
        cases.append(operator_case(f"{kind} of ties", {"kind": kind}, kinds[kind][0], operands))
    return cases


def softmax_cases():
    cases = []
    for kind, f in (("softmax", F.softmax), ("log_softmax", F.log_softmax)):
        for axis in range(3):
            op = {"kind": kind, "axis": axis}
            apply = lambda x, f=f, axis=axis: f(x, axis)
            cases.append(operator_case(f"{kind} along {axis}", op, apply, [torch.randn(2, 3, 4)]))
    return cases


def reduction_cases():
    kinds = {
        "sum": lambda x, d, k: x.sum(d, k),
        "mean": lambda x, d, k: x.mean(d, k),
        "max": lambda x, d, k: x.amax(d, k),
        "min": lambda x, d, k: x.amin(d, k),
        "log_sum_exp": lambda x, d, k: x.logsumexp(d, k),
        "l1": lambda x, d, k: torch.linalg.vector_norm(x, 1, d, k),
        "l2": lambda x, d, k: torch.linalg.vector_norm(x, 2, d, k),
    }
    cases = []
    for kind, f in kinds.items():
        for axes, keep in (([1], False), ([0, 2], True)):
            op = {"kind": "reduce", "reduction": kind, "axes": axes, "keep": keep}
            apply = lambda x, f=f, axes=axes, keep=keep: f(x, axes, keep)
            cases.append(operator_case(f"{kind} over {axes}", op, apply, [torch.randn(2, 3, 4)]))
    op = {"kind": "reduce", "reduction": "prod", "axes": [1], "keep": False}
    cases.append(operator_case("prod", op, lambda x: x.prod(1), [torch.randn(2, 3, 4)]))
    return cases


def layout_cases():
    r = torch.randn
    pad = lambda margin: {"kind": "pad", "axis": 1, "before": 2, "after": 1, "margin": margin}
    mm = lambda a, b: {"kind": "matmul", "a_transposed": a, "b_transposed": b}
    t = lambda x: x.transpose(-1, -2)
    slice_op = {"kind": "slice", "axis": 1, "start": 1, "step": 2, "len": 2}
    return [
        operator_case(
            "transpose",
            {"kind": "transpose", "order": [2, 0, 1]},
            lambda x: x.permute(2, 0, 1),
            [r(2, 3, 4)],
        ),
        operator_case(
            "concat",
            {"kind": "concat", "axis": 1},
            lambda a, b: torch.cat([a, b], 1),
            [r(2, 3), r(2, 2)],
        ),
        operator_case("slice", slice_op, lambda x: x[:, 1:4:2], [r(2, 5)]),
        operator_case("pad with 0.5", pad(0.5), lambda x: F.pad(x, (2, 1), value=0.5), [r(2, 4)]),
        operator_case("pad by reflection", pad("reflect"), lambda x: F.pad(x, (2, 1), "reflect"), [r(2, 4)]),
        operator_case("pad by the edge", pad("edge"), lambda x: F.pad(x, (2, 1), "replicate"), [r(2, 4)]),
        operator_case(
            "gather",
            {"kind": "gather", "axis": 0},
            lambda x, i: F.embedding(i, x),
            [r(5, 3)],
            labels=torch.tensor([4, 0, 2, 4]),
        ),
        operator_case("matmul", mm(False, False), torch.matmul, [r(3, 4), r(4, 2)]),
        operator_case("matmul of stacks", mm(False, False), torch.matmul, [r(2, 1, 3, 4), r(3, 4, 2)]),
        operator_case("matmul, b transposed", mm(False, True), lambda a, b: a @ t(b), [r(2, 3, 4), r(2, 4)]),
        operator_case("matmul, both transposed", mm(True, True), lambda a, b: t(a) @ t(b), [r(2, 4, 3), r(2, 2, 4)]),
    ]


def attention_cases():
    r = torch.randn
    sdpa = F.scaled_dot_product_attention
    op = lambda causal=False, **more: {"kind": "attention", "causal": causal, **more}
    packed = {"heads": 2, "groups": 1}

    def apply_packed(qkv):
        q, k, v = (t.unflatten(-1, (-1, 3)).transpose(1, 2) for t in qkv.split([6, 3, 3], -1))
        y = sdpa(q, k, v, is_causal=True, enable_gqa=True)
        return y.transpose(1, 2).flatten(-2)

    return [
        operator_case("attention", op(), sdpa, [r(2, 2, 5, 3), r(2, 2, 7, 3), r(2, 2, 7, 4)]),
        operator_case(
            "causal attention over blocks",
            op(True),
            lambda q, k, v: sdpa(q, k, v, is_causal=True),
            [r(1, 70, 2), r(1, 70, 2), r(1, 70, 2)],
        ),
        operator_case(
            "attention of grouped queries",
            op(scale=0.25),
            lambda q, k, v: sdpa(q, k, v, scale=0.25, enable_gqa=True),
            [r(2, 4, 3, 2), r(2, 2, 5, 2), r(2, 2, 5, 2)],
        ),
        operator_case(
            "attention with a mask of floats",
            op(),
            lambda q, k, v, m: sdpa(q, k, v, attn_mask=m),
            [r(2, 2, 3, 2), r(2, 2, 5, 2), r(2, 2, 5, 2), r(2, 1, 3, 5)],
        ),
        operator_case("packed attention", {**op(True), **packed}, apply_packed, [r(2, 4, 12)]),
    ]


def recurrent_cases():
    """One layer in one direction; the reverse one is PyTorch's second direction."""
    cases = []
    for kind, gates, states in (("lstm", 4, 2), ("gru", 3, 1)):
        for time_first in (False, True):
            for reverse in (False, True):
                n, t, i, h = 2, 4, 3, 2

                def apply(x, w_ih, w_hh, b_ih, b_hh, *start):
                    order = (lambda x: x.flip(0 if time_first else 1)) if reverse else (lambda x: x)
                    weights = [w_ih, w_hh, b_ih, b_hh]
                    start = [s.unsqueeze(0) for s in start]
                    start = start if kind == "lstm" else start[0]
                    run = getattr(torch, kind)
                    y = run(order(x), start, weights, True, 1, 0.0, False, False, not time_first)
                    return order(y[0])

                x = torch.randn(t, n, i) if time_first else torch.randn(n, t, i)
                shapes = [(gates * h, i), (gates * h, h), (gates * h,), (gates * h,)]
                operands = [x] + [torch.randn(*s) for s in shapes + [(n, h)] * states]
                op = {"kind": kind, "time_first": time_first, "reverse": reverse}
                name = f"{kind}, time first: {time_first}, reverse: {reverse}"
                cases.append(operator_case(name, op, apply, operands))
    return cases


def padded(x, before, after, value=0.0):
    """x with a margin of its own on each side."""
    return F.pad(x, (before[1], after[1], before[0], after[0]), value=value)


def flat(f):
    """A function of sequences as one of images of height 1."""
    return lambda x, *w: f(x.squeeze(2), *[k.squeeze(2) for k in w]).unsqueeze(2)


def window_cases():
    """Attributes of convolutions and pooling together: stride, margins that differ, dilation, groups,
    output padding, and one dimension."""
    r = torch.randn
    cases = []

    def add(kind, name, f, operands, stride, before, after, dilation, **more):
        op = {
            "kind": kind,
            "stride": list(stride),
            "padding": list(before),
            "after": list(after),
            "dilation": list(dilation),
            **more,
        }
        cases.append(operator_case(f"{kind} {name}", op, f, operands))

    before, after = (1, 0), (0, 2)
    for groups in (1, 2, 4):
        for dilation in ((1, 1), (2, 1)):
            for stride in ((1, 2), (2, 1)):
                f = lambda x, w: F.conv2d(padded(x, before, after), w, None, stride, 0, dilation, groups)
                name = f"of {groups} groups, dilation {dilation}, stride {stride}"
                operands = [r(1, 4, 6, 5), r(4, 4 // groups, 2, 3)]
                add("conv", name, f, operands, stride, before, after, dilation, groups=groups)

    def transposed(name, f, operands, stride, before, after, dilation, groups):
        size = list(f(*operands).shape[2:])
        more = {"groups": groups, "size": size}
        add("conv_transposed", name, f, operands, stride, before, after, dilation, **more)

    for groups in (1, 2):
        for stride, dilation, extra in (((2, 3), (1, 1), (1, 2)), ((2, 2), (2, 1), (1, 0)), ((1, 1), (1, 3), (0, 2))):
            # Output padding takes from the margin after.
            f = lambda x, w: F.conv_transpose2d(x, w, None, stride, (1, 2), extra, groups, dilation)
            name = f"of {groups} groups, stride {stride}, dilation {dilation}, extra {extra}"
            after = [m - e for m, e in zip((1, 2), extra)]
            if min(after) < 0:
                continue
            transposed(name, f, [r(1, 4, 3, 3), r(4, 2, 3, 3)], stride, (1, 2), after, dilation, groups)
            cut = lambda x, w: F.conv_transpose2d(x, w, None, stride, 0, 0, groups, dilation)[..., 1:, :-1]
            name = f"with other margins, {groups} groups, stride {stride}, dilation {dilation}"
            transposed(name, cut, [r(1, 4, 3, 3), r(4, 2, 3, 3)], stride, (1, 0), (0, 1), dilation, groups)
    for stride, dilation, extra, groups in ((2, 1, 1, 1), (3, 2, 2, 2), (1, 1, 0, 4)):
        f = flat(lambda x, w: F.conv_transpose1d(x, w, None, stride, 2, extra, groups, dilation))
        name = f"over one dimension, stride {stride}, dilation {dilation}, {groups} groups"
        margins, after = (0, 2), (0, 2 - extra)
        operands = [r(2, 4, 1, 4), r(4, 2, 1, 3)]
        transposed(name, f, operands, (1, stride), margins, after, (1, dilation), groups)
        f = flat(lambda x, w: F.conv1d(x, w, None, stride, 2, dilation, groups))
        operands = [r(2, 4, 1, 7), r(4, 4 // groups, 1, 3)]
        add("conv", name, f, operands, (1, stride), margins, margins, (1, dilation), groups=groups)

    def pool(name, pooling, f, kernel, stride, before, after, dilation=(1, 1), ceil=False, counted=True, x=(1, 2, 7, 6)):
        more = {"pooling": pooling, "kernel": list(kernel), "ceil": ceil, "count_margin": counted}
        add("pool", name, f, [r(*x)], stride, before, after, dilation, **more)

    never = float("-inf")
    for before, after in (((1, 0), (0, 1)), ((2, 1), (1, 2))):
        f = lambda x: F.max_pool2d(padded(x, before, after, never), (3, 3), (2, 1))
        pool(f"of maxima, margins {before} {after}", "max", f, (3, 3), (2, 1), before, after)
        f = lambda x: F.avg_pool2d(padded(x, before, after), (3, 3), (2, 1))
        pool(f"of means, margins {before} {after}", "average", f, (3, 3), (2, 1), before, after)
        ones = lambda x: F.avg_pool2d(padded(torch.ones_like(x), before, after), (3, 3), (2, 1))
        f = lambda x: F.avg_pool2d(padded(x, before, after), (3, 3), (2, 1)) / ones(x)
        name = f"of means of the image alone, margins {before} {after}"
        pool(name, "average", f, (3, 3), (2, 1), before, after, counted=False)
    for ceil in (False, True):
        f = lambda x: F.max_pool2d(x, (3, 2), (2, 3), 1, (2, 1), ceil_mode=ceil)
        pool(f"of maxima with dilation, ceil {ceil}", "max", f, (3, 2), (2, 3), (1, 1), (1, 1), (2, 1), ceil)
        for counted in (True, False):
            f = flat(lambda x: F.avg_pool1d(x, 3, 2, 1, ceil, counted))
            name = f"of means over one dimension, ceil {ceil}, counted {counted}"
            margins = (0, 1)
            pool(name, "average", f, (1, 3), (1, 2), margins, margins, (1, 1), ceil, counted, (1, 2, 1, 8))
        f = flat(lambda x: F.max_pool1d(x, 3, 2, 1, 2, ceil))
        name = f"of maxima over one dimension, ceil {ceil}"
        pool(name, "max", f, (1, 3), (1, 2), margins, margins, (1, 2), ceil, x=(1, 2, 1, 8))

    def spread(x):
        columns = F.unfold(x, (3, 2), (2, 1), (1, 0), (2, 2))
        rows = (x.shape[2] + 2 - 5) // 2 + 1
        return columns.reshape(1, 2, 6, rows, -1).mean(2)

    pool("of means with dilation", "average", spread, (3, 2), (2, 2), (1, 0), (1, 0), (2, 1))
    return cases


def reset_first_cases():
    """The GRU whose reset gate comes before the product with h (ONNX: linear_before_reset = 0), which
    PyTorch lacks: written out here, step by step."""
    cases = []
    n, t, i, h = 2, 4, 3, 2
    for time_first in (False, True):
        for reverse in (False, True):

            def apply(x, w_ih, w_hh, b_ih, b_hh, state):
                steps = list(x.unbind(0 if time_first else 1))
                results = []
                for step in reversed(steps) if reverse else steps:
                    r, z, n = (step @ w_ih.T + b_ih).chunk(3, -1)
                    u_r, u_z, u_n = w_hh.chunk(3)
                    c_r, c_z, c_n = b_hh.chunk(3)
                    r = torch.sigmoid(r + state @ u_r.T + c_r)
                    z = torch.sigmoid(z + state @ u_z.T + c_z)
                    n = torch.tanh(n + (r * state) @ u_n.T + c_n)
                    state = (1 - z) * n + z * state
                    results.append(state)
                return torch.stack(results[::-1] if reverse else results, 0 if time_first else 1)

            x = torch.randn(t, n, i) if time_first else torch.randn(n, t, i)
            shapes = [(3 * h, i), (3 * h, h), (3 * h,), (3 * h,), (n, h)]
            operands = [x] + [torch.randn(*s) for s in shapes]
            op = {"kind": "gru_reset_first", "time_first": time_first, "reverse": reverse}
            name = f"gru that resets first, time first: {time_first}, reverse: {reverse}"
            cases.append(operator_case(name, op, apply, operands))
    return cases


def element_cases():
    cases = []
    for exclusive, reverse in ((False, False), (False, True)):
        op = {"kind": "cum_sum", "axis": 1, "exclusive": exclusive, "reverse": reverse}
        f = (lambda x: x.flip(1).cumsum(1).flip(1)) if reverse else (lambda x: x.cumsum(1))
        cases.append(operator_case(f"running sum, reverse: {reverse}", op, f, [torch.randn(2, 4)]))
    picks = torch.tensor([[2, 0, 1, 1], [0, 0, 2, 1]])
    case = operator_case(
        "gather of elements",
        {"kind": "gather_elements", "axis": 0},
        lambda x, i: x.gather(0, i),
        [torch.randn(3, 4)],
        labels=picks,
    )
    case["labels_shape"] = list(picks.shape)
    return cases + [case]


def norm_cases():
    r = torch.randn
    op = lambda over, **more: {"kind": "norm", "over": over, "eps": 1e-5, **more}
    return [
        operator_case(
            "layer norm",
            op("layer", axis=1),
            lambda x, w, b: F.layer_norm(x, (3, 4), w, b),
            [r(5, 3, 4), r(3, 4), r(3, 4)],
        ),
        operator_case(
            "rms norm",
            op("rms", axis=1),
            lambda x, w: F.rms_norm(x, (4,), w, 1e-5),
            [r(5, 4), r(4)],
        ),
        operator_case(
            "group norm",
            op("group", groups=2),
            lambda x, w, b: F.group_norm(x, 2, w, b),
            [r(3, 4, 2, 3), r(4), r(4)],
        ),
        operator_case(
            "instance norm",
            op("group", groups=4),
            lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
            [r(3, 4, 5), r(4), r(4)],
        ),
        operator_case(
            "batch norm",
            op("batch"),
            lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
            [r(3, 4, 2, 3), r(4), r(4)],
        ),
    ]


def loss_cases():
    r = torch.randn
    cases = []

    def pair(name, distance, f, x, t, reduction="mean", **more):
        op = {"kind": "pair_loss", "distance": distance, "reduction": reduction, **more}
        case = operator_case(name, op, lambda x: f(x, t), [x])
        case["fixed"] = numbers(t)
        cases.append(case)

    p = lambda *shape: torch.rand(*shape)
    pair("mse, sum", "squared", lambda x, t: F.mse_loss(x, t, reduction="sum"), r(3, 4), r(3, 4), "sum")
    pair("l1", "absolute", F.l1_loss, r(3, 4), r(3, 4))
    pair("huber", "huber", lambda x, t: F.huber_loss(x, t, delta=0.7), r(3, 4), r(3, 4), delta=0.7)
    smooth = lambda x, t: F.smooth_l1_loss(x, t, beta=0.7, reduction="none")
    pair("smooth l1", "smooth_absolute", smooth, r(3, 4), r(3, 4), "none", beta=0.7)
    pair("bce with logits", "logistic", F.binary_cross_entropy_with_logits, 3 * r(3, 4), p(3, 4))
    kl = lambda x, t: F.kl_div(x, t, reduction="batchmean")
    pair("kl", "kullback_leibler", kl, r(3, 4), p(3, 4), "batch_mean")
    pair("poisson of logs", "poisson_log", F.poisson_nll_loss, r(3, 4), 3 * p(3, 4))
    rate = lambda x, t: F.poisson_nll_loss(x, t, log_input=False)
    pair("poisson", "poisson", rate, 3 * p(3, 4) + 0.1, 3 * p(3, 4))

    labels = torch.tensor([0, 4, 2, 1, 3, 2])
    weights = torch.tensor([1.0, 0.5, 2.0, 0.25, 1.5])

    def classes(name, f, labels=labels, weighted=False, **options):
        op = {"kind": "cross_entropy", "reduction": "mean", **options}
        case = operator_case(name, op, lambda x: f(x, labels), [3 * r(6, 5)])
        case["labels"] = numbers(labels)
        if weighted:
            case["fixed"] = numbers(weights)
        cases.append(case)

    with_ignored = torch.tensor([0, -100, 2, 1, -100, 2])
    classes(
        "cross-entropy with everything",
        lambda x, y: F.cross_entropy(x, y, weights, label_smoothing=0.1),
        labels=with_ignored,
        weighted=True,
        ignore=-100,
        smoothing=0.1,
    )
    classes(
        "cross-entropy, sum",
        lambda x, y: F.cross_entropy(x, y, label_smoothing=0.2, reduction="sum"),
        reduction="sum",
        smoothing=0.2,
    )
    classes(
        "cross-entropy of each row",
        lambda x, y: F.cross_entropy(x, y, weights, reduction="none"),
        weighted=True,
        reduction="none",
    )
    classes("nll", lambda x, y: F.nll_loss(x, y, weights), weighted=True, log_probabilities=True)
    return cases


def image_cases():
    r = torch.randn
    cases = []

    def conv(name, x, w, bias=False, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
        op = {"kind": "conv", "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        operands = [r(*x), r(*w)] + ([r(w[0])] if bias else [])
        apply = lambda *o: F.conv2d(*o[:2], o[2] if bias else None, stride, padding, dilation, groups)
        cases.append(operator_case(name, op, apply, operands))

    conv("conv", (2, 3, 5, 6), (4, 3, 3, 2), bias=True)
    conv("conv with stride and padding", (2, 2, 6, 5), (3, 2, 3, 3), stride=(2, 2), padding=(1, 2))
    conv("conv with dilation", (1, 2, 7, 7), (3, 2, 3, 2), dilation=(2, 3), padding=(1, 1))
    conv("conv in groups", (2, 4, 5, 5), (6, 2, 3, 3), groups=2, padding=(1, 1))
    conv("depthwise conv", (2, 4, 5, 5), (4, 1, 3, 3), bias=True, groups=4, stride=(1, 2))
    conv("pointwise conv", (2, 4, 3, 3), (5, 4, 1, 1), bias=True)
    for name, stride, padding, extra, groups in [
        ("transposed conv", 1, 0, 0, 1),
        ("transposed conv with stride", 2, 1, 1, 2),
    ]:
        y = lambda x, w: F.conv_transpose2d(x, w, None, stride, padding, extra, groups)
        x, w = r(2, 4, 4, 3), r(4, 2, 3, 3)
        op = {
            "kind": "conv_transposed",
            "stride": [stride] * 2,
            "padding": [padding] * 2,
            "dilation": [1, 1],
            "groups": groups,
            "size": list(y(x, w).shape[2:]),
        }
        cases.append(operator_case(name, op, y, [x, w]))

    def pool(name, pooling, f, stride, padding, dilation=1, ceil=False, count_margin=True):
        op = {
            "kind": "pool",
            "pooling": pooling,
            "kernel": [3, 2],
            "stride": stride,
            "padding": padding,
            "dilation": [dilation] * 2,
            "ceil": ceil,
            "count_margin": count_margin,
        }
        cases.append(operator_case(name, op, f, [r(2, 3, 7, 6)]))

    for stride, padding, ceil in [((3, 2), (0, 0), False), ((2, 2), (1, 1), True), ((3, 3), (1, 0), True)]:
        label = f"{stride} {padding} {ceil}"
        f = lambda x: F.max_pool2d(x, (3, 2), stride, padding, ceil_mode=ceil)
        pool(f"max pool {label}", "max", f, stride, padding, ceil=ceil)
        for counted in (True, False):
            f = lambda x: F.avg_pool2d(x, (3, 2), stride, padding, ceil, counted)
            pool(f"average pool {label} {counted}", "average", f, stride, padding, 1, ceil, counted)
    f = lambda x: F.max_pool2d(x, (3, 2), (1, 1), (0, 0), (2, 2))
    pool("max pool with dilation", "max", f, (1, 1), (0, 0), dilation=2)
    return cases


# Models and optimizers, in float32.

ACTIVATIONS = {
    "relu": torch.nn.ReLU,
    "gelu": torch.nn.GELU,
    "gelu_tanh": lambda: torch.nn.GELU(approximate="tanh"),
    "tanh": torch.nn.Tanh,
    "sigmoid": torch.nn.Sigmoid,
}


class Mlp(torch.nn.Module):
    """Parameters are named `layers.N.weight` and `layers.N.bias`."""

    def __init__(self, model):
        super().__init__()
        units = [model["inputs"], *model["hidden"], model["outputs"]]
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(i, o) for i, o in zip(units, units[1:])
        )
        self.activation = ACTIVATIONS[model["activation"]]()
        self.model = model

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)

    def loss(self, out, y):
        if self.model["loss"] == "cross_entropy":
            loss = F.cross_entropy(out, y)
        else:
            loss = F.mse_loss(out, y)
        if self.model["l2"]:
            penalty = sum(layer.weight.pow(2).sum() for layer in self.layers)
            loss = loss + 0.5 * self.model["l2"] * penalty
        return loss


OPTIMIZERS = {
    "sgd": lambda p, o: torch.optim.SGD(
        p,
        lr=o["lr"],
        momentum=o["momentum"],
        dampening=o["dampening"],
        nesterov=o["nesterov"],
        weight_decay=o["weight_decay"],
    ),
    "rmsprop": lambda p, o: torch.optim.RMSprop(
        p,
        lr=o["lr"],
        alpha=o["alpha"],
        eps=o["eps"],
        momentum=o["momentum"],
        centered=o["centered"],
        weight_decay=o["weight_decay"],
    ),
    "adagrad": lambda p, o: torch.optim.Adagrad(
        p,
        lr=o["lr"],
        lr_decay=o["lr_decay"],
        initial_accumulator_value=o["initial_accumulator_value"],
        eps=o["eps"],
        weight_decay=o["weight_decay"],
    ),
    "adam": lambda p, o: torch.optim.Adam(p, **adam_options(o)),
    "adamw": lambda p, o: torch.optim.AdamW(p, **adam_options(o)),
    "lamb": lambda p, o: Reference(p, lamb_step, o),
    "lion": lambda p, o: Reference(p, lion_step, o),
    "barzilai_borwein": lambda p, o: Reference(p, barzilai_borwein_step, o),
}


def adam_options(o):
    return {
        "lr": o["lr"],
        "betas": o["betas"],
        "eps": o["eps"],
        "weight_decay": o["weight_decay"],
        "amsgrad": o.get("amsgrad", False),
    }


# Rules that PyTorch doesn't have, from their papers, in NumPy and float64.


class Reference:
    """Keeps the weights in float64 and gives the module their nearest float32."""

    def __init__(self, parameters, step, options):
        self.parameters = list(parameters)
        self.weights = [p.detach().numpy().astype(np.float64) for p in self.parameters]
        self.step_function = step
        self.options = options
        self.memory = {}
        self.t = 0

    def zero_grad(self):
        for p in self.parameters:
            p.grad = None

    def step(self):
        self.t += 1
        gradients = [p.grad.numpy().astype(np.float64) for p in self.parameters]
        self.weights = self.step_function(
            self.options, self.memory, self.t, self.weights, gradients
        )
        with torch.no_grad():
            for p, w in zip(self.parameters, self.weights):
                p.copy_(torch.from_numpy(w.astype(np.float32)))


def lamb_step(o, memory, t, weights, gradients):
    """You et al., 2020, algorithm 2, phi(z) = z."""
    beta1, beta2 = o["betas"]
    moved = []
    for i, (w, g) in enumerate(zip(weights, gradients)):
        m, v = memory.get(i, (np.zeros_like(w), np.zeros_like(w)))
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        memory[i] = (m, v)
        r = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + o["eps"])
        u = r + o["weight_decay"] * w
        norms = np.linalg.norm(w), np.linalg.norm(u)
        trust = norms[0] / norms[1] if all(norms) else 1.0
        moved.append(w - o["lr"] * trust * u)
    return moved


def lion_step(o, memory, t, weights, gradients):
    """Chen et al., 2023, algorithm 2."""
    beta1, beta2 = o["betas"]
    moved = []
    for i, (w, g) in enumerate(zip(weights, gradients)):
        m = memory.get(i, np.zeros_like(w))
        c = beta1 * m + (1 - beta1) * g
        memory[i] = beta2 * m + (1 - beta2) * g
        moved.append(w - o["lr"] * (np.sign(c) + o["weight_decay"] * w))
    return moved


def barzilai_borwein_step(o, memory, t, weights, gradients):
    """A period of 1: Barzilai and Borwein, 1988. Longer: Tan et al., 2016, algorithm 2, with
    beta = min(1, 10 / period). Without positive curvature the last step stays."""
    shapes = [w.shape for w in weights]
    x = np.concatenate([w.ravel() for w in weights])
    g = np.concatenate([g.ravel() for g in gradients]) + o["weight_decay"] * x
    period = o["period"]
    eta = memory.get("eta", o["lr"])

    def measured(s, y):
        curvature = s @ y
        long = {"long": True, "short": False}.get(o["formula"], memory.get("count", 0) % 2 == 0)
        memory["count"] = memory.get("count", 0) + 1
        if curvature <= 1e-6 * np.linalg.norm(s) * np.linalg.norm(y):
            return eta
        step = (s @ s) / curvature if long else curvature / (y @ y)
        return min(max(step / period, o["min_rate"]), o["max_rate"])

    if period == 1:
        if "x" in memory:
            eta = measured(x - memory["x"], g - memory["g"])
        memory.update(x=x, g=g)
    else:
        if t > 1 and (t - 1) % period == 0:
            if "x" in memory:
                eta = measured(x - memory["x"], memory["mean"] - memory["g"])
            memory.update(x=x, g=memory["mean"], mean=np.zeros_like(x))
        beta = min(1.0, 10.0 / period)
        memory["mean"] = beta * g + (1 - beta) * memory.get("mean", np.zeros_like(x))
    memory["eta"] = eta
    x = x - eta * g
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(x, ends), shapes)]


def sgd(**changes):
    base = {"kind": "sgd", "lr": 0.1, "momentum": 0.0, "dampening": 0.0, "nesterov": False}
    return {**base, "weight_decay": 0.0, **changes}


def adam(kind, **changes):
    base = {"kind": kind, "lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8}
    return {**base, "weight_decay": 0.0, **changes}


RUNS = [
    ("sgd", sgd(), None),
    ("sgd_weight_decay", sgd(momentum=0.9, weight_decay=0.01), None),
    ("momentum", sgd(momentum=0.9), None),
    ("momentum_dampening", sgd(momentum=0.9, dampening=0.5), None),
    ("nesterov", sgd(momentum=0.9, nesterov=True), None),
    ("adam", adam("adam"), None),
    ("adam_weight_decay", adam("adam", weight_decay=0.01), None),
    ("adamw", adam("adamw", weight_decay=0.01), None),
    ("clip", sgd(momentum=0.9), 0.5),
]


def rmsprop(**changes):
    base = {"kind": "rmsprop", "lr": 0.01, "alpha": 0.9, "eps": 1e-8, "momentum": 0.0}
    return {**base, "centered": False, "weight_decay": 0.0, **changes}


def adagrad(**changes):
    base = {"kind": "adagrad", "lr": 0.1, "lr_decay": 0.0, "initial_accumulator_value": 0.0}
    return {**base, "eps": 1e-10, "weight_decay": 0.0, **changes}


def lamb(**changes):
    base = {"kind": "lamb", "lr": 0.02, "betas": [0.9, 0.999], "eps": 1e-6}
    return {**base, "weight_decay": 0.01, **changes}


def lion(**changes):
    base = {"kind": "lion", "lr": 0.003, "betas": [0.9, 0.99]}
    return {**base, "weight_decay": 0.0, **changes}


def barzilai_borwein(period, **changes):
    base = {"kind": "barzilai_borwein", "lr": 0.1, "period": period, "formula": "alternate"}
    return {**base, "min_rate": 1e-6, "max_rate": 10.0, "weight_decay": 0.0, **changes}


BIASES = [{"match": "*.bias", "weight_decay": 0.0, "lr_factor": 1.0}]
GROUPS = [
    {"match": "*.bias", "weight_decay": 0.0, "lr_factor": 2.0},
    {"match": "layers.0.*", "weight_decay": None, "lr_factor": 0.5},
]

# Of the files with every rule: name, optimizer, and what else is asked for.
MORE_RUNS = [
    ("dampening", sgd(momentum=0.9, dampening=0.5, weight_decay=0.01), {}),
    ("rmsprop", rmsprop(), {}),
    ("rmsprop_momentum", rmsprop(momentum=0.9, weight_decay=0.01), {}),
    ("rmsprop_centered", rmsprop(centered=True), {}),
    ("rmsprop_centered_momentum", rmsprop(centered=True, momentum=0.5, weight_decay=0.01), {}),
    ("adagrad", adagrad(), {}),
    (
        "adagrad_options",
        adagrad(lr_decay=0.1, initial_accumulator_value=0.1, eps=1e-6, weight_decay=0.01),
        {},
    ),
    ("adam_amsgrad", adam("adam", betas=[0.8, 0.5], amsgrad=True, weight_decay=0.01), {}),
    ("adamw_amsgrad", adam("adamw", betas=[0.8, 0.5], amsgrad=True, weight_decay=0.01), {}),
    ("lamb", lamb(), {}),
    ("lamb_without_decay", lamb(weight_decay=0.0, betas=[0.8, 0.9], eps=1e-3), {}),
    ("lion", lion(), {}),
    ("lion_weight_decay", lion(weight_decay=0.1, betas=[0.8, 0.95]), {}),
    ("barzilai_borwein", barzilai_borwein(1), {}),
    ("barzilai_borwein_long", barzilai_borwein(1, formula="long", weight_decay=0.01), {}),
    ("barzilai_borwein_short", barzilai_borwein(1, formula="short", max_rate=0.5), {}),
    ("barzilai_borwein_period", barzilai_borwein(3), {}),
    ("clip_value", sgd(momentum=0.9), {"clip_value": 0.02}),
    ("clip_both", sgd(momentum=0.9), {"clip_value": 0.02, "clip_norm": 0.05}),
    ("decay_biases", adam("adamw", weight_decay=0.5), {"groups": BIASES}),
    ("groups", adam("adamw", weight_decay=0.5), {"groups": GROUPS}),
    ("groups_sgd", sgd(momentum=0.9, weight_decay=0.1), {"groups": GROUPS}),
    ("ema", adam("adam"), {"ema_decay": 0.7}),
]


def state(module):
    return {name: tensor(value) for name, value in module.state_dict().items()}


def parameter_groups(module, optimizer, groups):
    """One group a parameter: the first of `groups` that matches it counts."""
    result = []
    for name, parameter in module.named_parameters():
        one = {"params": [parameter]}
        group = next((g for g in groups if fnmatch.fnmatchcase(name, g["match"])), None)
        if group is not None:
            one["lr"] = optimizer["lr"] * group["lr_factor"]
            if group["weight_decay"] is not None:
                one["weight_decay"] = group["weight_decay"]
        result.append(one)
    return result


def train(model, initial, batches, optimizer, clip_norm, clip_value=None, groups=None, ema=None):
    module = Mlp(model)
    module.load_state_dict(initial)
    parameters = module.parameters()
    if groups is not None:
        parameters = parameter_groups(module, optimizer, groups)
    optimizer = OPTIMIZERS[optimizer["kind"]](parameters, optimizer)
    if ema is not None:
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(ema)
        average = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=average)
    losses, norms = [], []
    for x, y in batches:
        optimizer.zero_grad()
        loss = module.loss(module(x), y)
        loss.backward()
        if clip_value is not None:
            torch.nn.utils.clip_grad_value_(module.parameters(), clip_value)
        if clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
            norms.append(norm)
        optimizer.step()
        if ema is not None:
            average.update_parameters(module)
        losses.append(loss)
    result = {"losses": numbers(torch.stack(losses)), "final": state(module)}
    if norms:
        result["gradient_norms"] = numbers(torch.stack(norms))
    if ema is not None:
        result["average"] = state(average.module)
    return result


def mlp(name, model, batch, runs, more=()):
    torch.manual_seed(7)
    module = Mlp(model)
    initial = {k: v.clone() for k, v in module.state_dict().items()}
    batches = []
    for _ in range(STEPS):
        x = torch.randn(batch, model["inputs"])
        if model["loss"] == "cross_entropy":
            y = torch.randint(0, model["outputs"], (batch,))
        else:
            y = torch.randn(batch, model["outputs"])
        batches.append((x, y))

    x, y = batches[0]
    out = module(x)
    loss = module.loss(out, y)
    loss.backward()
    first = {
        "output": tensor(out),
        "loss": numbers(loss.reshape(1))[0],
        "gradients": {k: tensor(p.grad) for k, p in module.named_parameters()},
    }
    selected = [run for run in RUNS if runs is None or run[0] in runs]
    document = {
        "model": model,
        "batch": batch,
        "initial": state(module),
        "batches": [{"x": numbers(x), "y": numbers(y)} for x, y in batches],
        "first": first,
        "runs": [
            {
                "name": run,
                "optimizer": optimizer,
                "clip_norm": clip_norm,
                **train(model, initial, batches, optimizer, clip_norm),
            }
            for run, optimizer, clip_norm in selected
        ]
        + [
            {
                "name": run,
                "optimizer": optimizer,
                "clip_norm": extra.get("clip_norm"),
                "clip_value": extra.get("clip_value"),
                "groups": extra.get("groups", []),
                "ema_decay": extra.get("ema_decay"),
                **train(
                    model,
                    initial,
                    batches,
                    optimizer,
                    extra.get("clip_norm"),
                    extra.get("clip_value"),
                    extra.get("groups"),
                    extra.get("ema_decay"),
                ),
            }
            for run, optimizer, extra in more
        ],
    }
    write(name, document)


def model(hidden, activation, loss="cross_entropy", l2=0.0, inputs=8, outputs=4):
    return {
        "inputs": inputs,
        "hidden": hidden,
        "outputs": outputs,
        "activation": activation,
        "loss": loss,
        "l2": l2,
    }


# Schedules, in float64: the rate that each step is taken with.


def rates(base_lr, make, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base_lr)
    scheduler = make(optimizer)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings():
            # SequentialLR passes an epoch number, which PyTorch deprecates elsewhere.
            warnings.simplefilter("ignore")
            scheduler.step()
    return values


def schedules():
    s = torch.optim.lr_scheduler

    def step(base_lr, step_size, gamma, steps):
        return {
            "kind": "step",
            "base_lr": base_lr,
            "step_size": step_size,
            "gamma": gamma,
            "rates": rates(base_lr, lambda o: s.StepLR(o, step_size, gamma), steps),
        }

    def cosine(base_lr, warmup_steps, total_steps, minimum, steps):
        """LinearLR from `1 / warmup_steps` that reaches 1 in the last step of the warm-up, then
        CosineAnnealingLR to `minimum` over the rest. Without warm-up, the cosine alone. Closed
        form, t < total_steps:
        t < w: base * (t + 1) / w
        else:  min + (base - min) * (1 + cos(pi * (t - w) / (total - w))) / 2"""

        def make(o):
            down = s.CosineAnnealingLR(o, total_steps - warmup_steps, eta_min=minimum)
            if warmup_steps == 0:
                return down
            up = s.LinearLR(o, 1 / warmup_steps, 1.0, warmup_steps - 1)
            return s.SequentialLR(o, [up, down], [warmup_steps])

        def closed(t):
            if t < warmup_steps:
                return base_lr * (t + 1) / warmup_steps
            progress = (t - warmup_steps) / (total_steps - warmup_steps)
            return minimum + (base_lr - minimum) * (1 + math.cos(math.pi * progress)) / 2

        values = rates(base_lr, make, steps)
        for t, value in enumerate(values):
            assert math.isclose(value, closed(t), rel_tol=1e-9, abs_tol=1e-15), (t, value)
        return {
            "kind": "cosine",
            "base_lr": base_lr,
            "warmup_steps": warmup_steps,
            "total_steps": total_steps,
            "minimum": minimum,
            "rates": values,
        }

    def other(kind, base_lr, warmup_steps, steps, make, **fields):
        """A schedule after a warm-up like that of `cosine`. `fields` say what it was made of."""

        def both(o):
            main = make(o)
            if warmup_steps == 0:
                return main
            up = s.LinearLR(o, 1 / warmup_steps, 1.0, max(warmup_steps - 1, 1))
            return s.SequentialLR(o, [up, main], [warmup_steps])

        return {
            "kind": kind,
            "base_lr": base_lr,
            "warmup_steps": warmup_steps,
            **fields,
            "rates": rates(base_lr, both, steps),
        }

    def multi_step(base_lr, warmup_steps, milestones, gamma, steps):
        make = lambda o: s.MultiStepLR(o, milestones, gamma)
        fields = {"milestones": milestones, "gamma": gamma}
        return other("multi_step", base_lr, warmup_steps, steps, make, **fields)

    def exponential(base_lr, warmup_steps, gamma, steps):
        make = lambda o: s.ExponentialLR(o, gamma)
        return other("exponential", base_lr, warmup_steps, steps, make, gamma=gamma)

    def restarts(base_lr, first, factor, minimum, steps):
        make = lambda o: s.CosineAnnealingWarmRestarts(o, first, factor, minimum)
        fields = {"first": first, "factor": factor, "minimum": minimum}
        return other("cosine_restarts", base_lr, 0, steps, make, **fields)

    def one_cycle(max_lr, steps, anneal, **options):
        names = {"cosine": "cos", "linear": "linear"}
        options = {"pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 1e4, **options}
        make = lambda o: s.OneCycleLR(
            o,
            max_lr,
            steps,
            anneal_strategy=names[anneal],
            cycle_momentum=False,
            **options,
        )
        # PyTorch refuses to go beyond the last step.
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=max_lr)
        scheduler = make(optimizer)
        values = []
        for t in range(steps):
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if t + 1 < steps:
                scheduler.step()
        return {
            "kind": "one_cycle",
            "base_lr": max_lr,
            "warmup_steps": 0,
            "anneal": anneal,
            **options,
            "rates": values,
        }

    def polynomial(base_lr, warmup_steps, over, power, steps):
        make = lambda o: s.PolynomialLR(o, over, power)
        return other("polynomial", base_lr, warmup_steps, steps, make, over=over, power=power)

    def linear(base_lr, start_factor, end_factor, over, steps):
        make = lambda o: s.LinearLR(o, start_factor, end_factor, over)
        fields = {"start_factor": start_factor, "end_factor": end_factor, "over": over}
        return other("linear", base_lr, 0, steps, make, **fields)

    write(
        "schedules.json",
        {
            "schedules": [
                step(0.1, 5, 0.5, 20),
                step(1.0, 1, 0.9, 10),
                cosine(0.1, 0, 20, 0.0, 20),
                cosine(0.1, 5, 25, 0.0, 25),
                cosine(0.01, 4, 16, 0.001, 16),
                multi_step(0.1, 0, [3, 7, 8], 0.5, 12),
                multi_step(0.1, 4, [3, 7], 0.1, 14),
                exponential(0.5, 0, 0.8, 12),
                exponential(0.5, 3, 0.9, 12),
                restarts(0.1, 4, 1, 0.0, 13),
                restarts(0.1, 3, 2, 0.01, 24),
                one_cycle(0.1, 20, "cosine"),
                one_cycle(0.1, 21, "linear"),
                one_cycle(
                    0.5, 15, "cosine", pct_start=0.5, div_factor=10.0, final_div_factor=100.0
                ),
                polynomial(0.1, 0, 10, 1.0, 13),
                polynomial(0.1, 4, 8, 2.0, 12),
                linear(0.1, 1 / 3, 1.0, 5, 8),
                linear(0.1, 1.0, 0.1, 10, 13),
            ]
        },
    )


def main():
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    operators()
    mlp("mlp_relu.json", model([16, 12], "relu"), 16, None)
    mlp("mlp_rules.json", model([5], "tanh", inputs=6, outputs=3), 8, [], MORE_RUNS)
    mlp("mlp_gelu.json", model([10, 6], "gelu", l2=0.01), 8, ["sgd", "adam"])
    mlp("mlp_tanh.json", model([10, 6], "tanh", loss="mean_squared_error", outputs=3), 8, ["sgd"])
    mlp("mlp_sigmoid.json", model([10], "sigmoid"), 8, ["sgd"])
    mlp(
        "mlp_gelu_tanh.json",
        model([10], "gelu_tanh", loss="mean_squared_error", outputs=1),
        8,
        ["sgd"],
    )
    mlp("linear.json", model([], "relu", inputs=5, outputs=3), 8, ["sgd"])
    schedules()


if __name__ == "__main__":
    main()
