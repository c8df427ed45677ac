#!/usr/bin/env python3
"""Writes golden/builtin_*.json: what PyTorch computes for built-in models with the same weights.

    /tmp/torch/bin/python tests/conformance/make_builtin_goldens.py

Everything is in float64. A file holds the `[model]` table of a job file, a batch, the initial
weights, the scores, loss and gradients of the first step, the losses of five steps of gradient
descent, the running statistics after them, and the scores in evaluation.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from make_goldens import write

STEPS = 5
RATE = 0.05


def rounded(t, digits=9):
    return [float(f"{x:.{digits}g}") for x in t.detach().flatten().tolist()]


def tensors(named):
    return {name: {"shape": list(t.shape), "data": rounded(t)} for name, t in named}


class Cnn(nn.Module):
    def __init__(self, channels, size, blocks, hidden, outputs, activation):
        super().__init__()
        self.blocks = nn.ModuleList()
        for filters, kernel, padding, pool, norm in blocks:
            conv = nn.Conv2d(channels, filters, kernel, padding=padding, bias=not norm)
            parts = {"conv": conv}
            if norm:
                parts["norm"] = nn.BatchNorm2d(filters)
            self.blocks.append(nn.ModuleDict(parts))
            channels = filters
            size = (size + 2 * padding - kernel + 1) // pool
        widths = [channels * size * size, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, hidden))
        self.output = nn.Linear(widths[-1], outputs)
        self.pools = [block[3] for block in blocks]
        self.activation = activation

    def forward(self, x):
        for block, pool in zip(self.blocks, self.pools):
            x = block["conv"](x)
            if "norm" in block:
                x = block["norm"](x)
            x = self.activation(x)
            if pool > 1:
                x = F.max_pool2d(x, pool)
        x = x.flatten(1)
        for layer in self.hidden:
            x = self.activation(layer(x))
        return self.output(x)


class BasicBlock(nn.Module):
    def __init__(self, before, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride > 1 or before != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    def __init__(self, channels, width, outputs, imagenet):
        super().__init__()
        kernel, stride, padding = (7, 2, 3) if imagenet else (3, 1, 1)
        self.conv1 = nn.Conv2d(channels, width, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        before = width
        for stage in range(4):
            after = width << stage
            first = BasicBlock(before, after, 2 if stage else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(first, BasicBlock(after, after, 1)))
            before = after
        self.fc = nn.Linear(before, outputs)
        self.imagenet = imagenet

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        if self.imagenet:
            x = F.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Tokens(nn.Embedding):
    def forward(self, x):
        return super().forward(x.long())


class Sequences(nn.Module):
    """What the last layer of an LSTM holds after the last step, and an affine map of it."""

    def __init__(self, features, hidden, layers, outputs):
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x):
        return self.head(self.lstm(x)[1][0][-1])


class GlobalAverage(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


class Layers(nn.Module):
    """A perceptron without hidden layers, under the names of `mlp`."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(inputs, outputs)])

    def forward(self, x):
        return self.layers[0](x)


def start(module):
    """Weights of few digits, none of them special."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            fan = p[0].numel() if p.dim() > 1 else 4
            p.copy_((torch.randn_like(p) * (1.5 / fan) ** 0.5 * 1e4).round() / 1e4)
            if p.dim() == 1 and name.endswith("weight"):
                p.add_(1)


def golden(name, table, module, x, y, outputs, loss=F.cross_entropy):
    module = module.double()
    start(module)
    module.train()
    document = {
        "model": table,
        "dims": list(x.shape[1:]),
        "batch": len(x),
        "outputs": outputs,
        "rate": RATE,
        "x": rounded(x),
        "y": rounded(y),
        "initial": tensors(module.named_parameters()),
        "losses": [],
    }
    for step in range(STEPS):
        module.zero_grad()
        out = module(x)
        value = loss(out, y)
        value.backward()
        document["losses"].append(float(f"{value.item():.12g}"))
        if step == 0:
            document["scores"] = rounded(out)
            gradients = [(n, p.grad) for n, p in module.named_parameters()]
            document["gradients"] = {n: rounded(g) for n, g in gradients}
        with torch.no_grad():
            for p in module.parameters():
                p -= RATE * p.grad
    document["states"] = {n: rounded(b.double()) for n, b in module.named_buffers()}
    module.eval()
    document["evaluated"] = rounded(module(x))
    write(f"builtin_{name}.json", document)


def images(batch, channels, size):
    return (torch.randn(batch, channels, size, size) * 100).round() / 100


def classes(batch, count):
    return torch.randint(count, (batch,))


def main():
    torch.set_num_threads(1)
    torch.manual_seed(3)
    torch.set_default_dtype(torch.float64)
    weights = torch.tensor([1.0, 0.5, 2.0])
    golden(
        "cnn",
        'kind = "cnn"\nblocks = [{ filters = 3, kernel = 5, pool = 2 }, { filters = 2 }]\n'
        'hidden = [5]\nactivation = "gelu"\nlabel_smoothing = 0.125\nclass_weights = [1, 0.5, 2]',
        Cnn(1, 8, [(3, 5, 2, 2, False), (2, 3, 1, 1, False)], [5], 3, F.gelu),
        images(4, 1, 8),
        classes(4, 3),
        3,
        lambda out, y: F.cross_entropy(
            out, y, weight=weights, label_smoothing=0.125, reduction="none"
        ).mean(),
    )
    golden(
        "cnn_batch_norm",
        'kind = "cnn"\nhidden = []\nblocks = [{ filters = 4, padding = 0, pool = 2, '
        "batch_norm = true }, { filters = 3, batch_norm = true }]",
        Cnn(2, 8, [(4, 3, 0, 2, True), (3, 3, 1, 1, True)], [], 3, F.relu),
        images(5, 2, 8),
        classes(5, 3),
        3,
    )
    golden(
        "resnet18_cifar",
        'kind = "resnet18"\nwidth = 1',
        ResNet18(2, 1, 3, False),
        images(6, 2, 16),
        classes(6, 3),
        3,
    )
    golden(
        "resnet18_imagenet",
        'kind = "resnet18"\nwidth = 1\nstem = "imagenet"\nzero_init_residual = true',
        ResNet18(1, 1, 2, True),
        images(4, 1, 40),
        classes(4, 2),
        2,
    )
    golden(
        "sequential_images",
        """kind = "sequential"
layers = [
    { kind = "conv2d", filters = 4, kernel = [3, 1], stride = [1, 2], padding = [1, 0], groups = 2 },
    { kind = "batch_norm", momentum = 0.3 },
    { kind = "silu" },
    { kind = "residual", layers = [
        { kind = "conv2d", filters = 4, kernel = 3, padding = 2, dilation = 2, bias = false },
        { kind = "group_norm", groups = 2 },
        { kind = "leaky_relu" },
    ] },
    { kind = "avg_pool2d", size = [2, 1], padding = [1, 0] },
    { kind = "conv_transpose2d", filters = 3, kernel = 3, stride = 2, padding = 1, output_padding = [0, 1] },
    { kind = "elu" },
    { kind = "max_pool2d", size = 3, stride = 2, padding = 1 },
    { kind = "global_avg_pool" },
    { kind = "dense", units = 3, bias = false },
]""",
        nn.Sequential(
            nn.Conv2d(2, 4, (3, 1), (1, 2), (1, 0), groups=2),
            nn.BatchNorm2d(4, momentum=0.3),
            nn.SiLU(),
            Residual(
                nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False),
                nn.GroupNorm(2, 4),
                nn.LeakyReLU(),
            ),
            nn.AvgPool2d((2, 1), padding=(1, 0)),
            nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=(0, 1)),
            nn.ELU(),
            nn.MaxPool2d(3, 2, 1),
            GlobalAverage(),
            nn.Linear(3, 3, bias=False),
        ),
        images(3, 2, 8),
        classes(3, 3),
        3,
    )
    golden(
        "sequential_tokens",
        """kind = "sequential"
layers = [
    { kind = "embedding", vocabulary = 7, width = 6 },
    { kind = "layer_norm" },
    { kind = "conv1d", filters = 4, kernel = 3, stride = 1, padding = 1 },
    { kind = "hard_swish" },
    { kind = "max_pool1d", size = 2 },
    { kind = "rms_norm" },
    { kind = "avg_pool1d", size = 2, stride = 1 },
    { kind = "softplus" },
    { kind = "reshape", shape = [2, 4] },
    { kind = "gelu_tanh" },
    { kind = "flatten" },
    { kind = "dense", units = 2 },
]""",
        nn.Sequential(
            Tokens(7, 6),
            nn.LayerNorm(6),
            nn.Conv1d(8, 4, 3, padding=1),
            nn.Hardswish(),
            nn.MaxPool1d(2),
            nn.RMSNorm(3, eps=1e-5),
            nn.AvgPool1d(2, 1),
            nn.Softplus(),
            nn.Flatten(),
            nn.GELU(approximate="tanh"),
            nn.Flatten(),
            nn.Linear(8, 2),
        ),
        torch.randint(7, (5, 8)).double(),
        classes(5, 2),
        2,
    )
    losses = {
        "mean_absolute_error": ("", F.l1_loss),
        "huber": ("\ndelta = 0.5", lambda out, y: F.huber_loss(out, y, delta=0.5)),
        "binary_cross_entropy": ("", F.binary_cross_entropy_with_logits),
        "poisson": ("", F.poisson_nll_loss),
        # shape · (x + t exp(-x)): the part of the density of t that moves with its mean exp(x).
        "gamma": ("\nshape = 2.5", lambda out, y: (2.5 * (out + y * torch.exp(-out))).mean()),
    }
    for loss, (options, function) in losses.items():
        golden(
            loss,
            f'kind = "linear"\nloss = "{loss}"{options}',
            Layers(3, 2),
            torch.randn(4, 3).mul(100).round() / 100,
            torch.rand(4, 2).mul(100).round() / 100 + 0.0,
            2,
            function,
        )
    # Means of both targets, then what their variances are made of.
    golden(
        "normal",
        'kind = "linear"\nloss = "normal"',
        Layers(3, 4),
        torch.randn(4, 3).mul(100).round() / 100,
        torch.randn(4, 2).mul(100).round() / 100,
        2,
        lambda out, y: F.gaussian_nll_loss(out[:, :2], y, F.softplus(out[:, 2:]) + 1e-6),
    )
    golden(
        "lstm_classes",
        'kind = "lstm"\nhidden = 4\nlayers = 2',
        Sequences(3, 4, 2, 3),
        torch.randn(4, 5, 3).mul(100).round() / 100,
        classes(4, 3),
        3,
    )
    golden(
        "lstm_numbers",
        'kind = "lstm"\nloss = "mean_squared_error"\nhidden = 5\ninput = [6, 2]',
        Sequences(2, 5, 1, 1),
        torch.randn(3, 6, 2).mul(100).round() / 100,
        torch.randn(3, 1).mul(100).round() / 100,
        1,
        F.mse_loss,
    )


if __name__ == "__main__":
    main()
