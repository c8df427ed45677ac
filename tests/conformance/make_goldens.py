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
        operator_case("softmax", {"kind": "softmax"}, lambda x: F.softmax(x, -1), [wide(4, 9)]),
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
    torch.set_default_dtype(torch.float32)
    write("operators.json", {"cases": cases})


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
