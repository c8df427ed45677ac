#!/usr/bin/env python3
"""Writes golden/onnx/NAME.onnx and NAME.safetensors: small networks that PyTorch exports, and what
PyTorch computes with them.

    python3 -m venv /tmp/torch && /tmp/torch/bin/pip install torch numpy onnx onnxscript safetensors
    /tmp/torch/bin/python tests/conformance/make_onnx_goldens.py [NAME ...]

Each network is exported with the exporter that its line names: `dynamo` or `script`. PyTorch then
computes in float64, from the same 32-bit weights. The exporters transpose, join and reorder weights
as they like; as every weight is another number, each element of an initializer is found again among
the parameters, and gradients and trained weights are written in the layout of the initializers.

NAME.safetensors holds, by name:
    input.X, labels         what goes in: float32, int64
    output, loss            of the first batch, in training mode
    gradient.I, final.I     of each initializer I that is trained: the gradient of the first step, the
                            value after five steps on the same batch
    state.I                 running statistics after five steps
and as metadata `loss` (cross_entropy, mse, logistic), `optimizer` (sgd, adamw) with its numbers, and
`torch`, the version.
"""

import copy
import io
import json
import pathlib
import sys
import warnings

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from safetensors.numpy import save_file
from torch import nn

OUT = pathlib.Path(__file__).parent / "golden" / "onnx"
STEPS = 5
BATCH = 3


class Residual(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.short = nn.Sequential()
        if inside != outside:
            self.short = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.short(x))


class Inverted(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        wide = 2 * inside
        self.layers = nn.Sequential(
            nn.Conv2d(inside, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(),
            nn.Conv2d(wide, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.same = stride == 1 and inside == outside

    def forward(self, x):
        return x + self.layers(x) if self.same else self.layers(x)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 6, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.norm = nn.GroupNorm(2, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        a = F.silu(self.down(x))
        b = F.elu(self.inner(F.max_pool2d(a, 2)))
        return self.out(self.norm(torch.cat([a, self.up(b)], 1)))


class Encoder(nn.Module):
    """PyTorch's own layer, before the norm; means over the tokens."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.place = nn.Parameter(torch.randn(6, 8))
        self.layer = nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.layer(self.embed(x) + self.place).mean(1))


class Decoder(nn.Module):
    """A causal language model: scaled-dot-product attention, perhaps a tied embedding, RMS norm."""

    def __init__(self, norm=nn.RMSNorm, tied=False):
        super().__init__()
        self.embed = nn.Embedding(13, 8)
        # The new exporter would copy the transpose of a shared weight.
        self.head = self.embed if tied else nn.Embedding(13, 8)
        self.place = nn.Embedding(5, 8)
        self.norm = norm(8, eps=1e-5)
        self.qkv = nn.Linear(8, 24, bias=False)
        self.mix = nn.Linear(8, 8)
        self.wide = nn.Linear(8, 16)
        self.narrow = nn.Linear(16, 8)
        self.last = nn.LayerNorm(8)

    def forward(self, x):
        h = self.embed(x) + self.place(torch.arange(5))
        q, k, v = self.qkv(self.norm(h)).split(8, -1)
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.mix(y.transpose(1, 2).flatten(2))
        h = h + self.narrow(F.gelu(self.wide(h), approximate="tanh"))
        return self.last(h) @ self.head.weight.T


class WrittenOut(nn.Module):
    """RMS norm of small operators."""

    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Masked(nn.Module):
    """Attention written out, where tokens of 0 are hidden."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.q = nn.Linear(8, 8)
        self.k = nn.Linear(8, 8)
        self.v = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        h = self.embed(x)
        scores = self.q(h) @ self.k(h).transpose(1, 2) / 8**0.5
        scores = scores.masked_fill((x == 0)[:, None, :], -1e4)
        return self.head((scores.softmax(-1) @ self.v(h))[:, 0])


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.cell = kind(5, 4, batch_first=True, **options)
        self.head = nn.Linear(8 if options.get("bidirectional") else 4, 3)

    def forward(self, x):
        y, _ = self.cell(x)
        return self.head(y[:, -1])


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(3, 5, 3, stride=2, padding=1)
        )
        self.decode = nn.Sequential(
            nn.ConvTranspose2d(5, 3, 3, stride=2, padding=1, output_padding=1),
            nn.Softplus(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(3, 1, 3, padding=1),
        )

    def forward(self, x):
        return torch.sigmoid(self.decode(torch.tanh(self.encode(x))))


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(17, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.embed(x).sum(1))


class Sequence1d(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 3, padding=2, dilation=2, groups=3)
        self.point = nn.Conv1d(6, 4, 1)
        self.act = nn.PReLU(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        y = F.pad(self.act(self.point(self.conv(x))), (1, 1))
        y = F.avg_pool1d(y, 2)
        return self.head(torch.logsumexp(y, 2))


class Mixture(nn.Module):
    """Many small operators: comparisons, a choice, norms of rows, clips, powers."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.b = nn.Linear(6, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        h = torch.where(a > b, torch.exp(-a.abs()), b.clamp(-1, 2) ** 3)
        h = h / (1e-2 + h.norm(dim=-1, keepdim=True)) * self.scale
        h = torch.maximum(h, torch.erf(a)) - torch.minimum(b, a.cos())
        return self.head(h)


def images(*shape):
    return lambda: torch.randn(BATCH, *shape)


def tokens(length, count):
    return lambda: torch.randint(0, count, (BATCH, length))


def classes(count, *shape):
    return lambda: torch.randint(0, count, (BATCH, *shape))


LENET = lambda: nn.Sequential(
    nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.Tanh(),
    nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6, 5),
)  # fmt: skip
MLP = lambda: nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 8), nn.GELU(), nn.Linear(8, 4))
RESNET = lambda: nn.Sequential(
    nn.Conv2d(2, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
    Residual(4, 4, 1), Residual(4, 6, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
)  # fmt: skip
MOBILENET = lambda: nn.Sequential(
    nn.Conv2d(2, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.Hardswish(),
    Inverted(4, 4, 1), Inverted(4, 6, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
)  # fmt: skip

SGD = {"kind": "sgd", "lr": 0.05, "momentum": 0.9}
ADAMW = {"kind": "adamw", "lr": 0.01, "eps": 1e-3, "weight_decay": 0.1}

# Name: model, exporter, inputs, labels, loss, optimizer.
NETWORKS = {
    "mlp": (MLP, "dynamo", images(7), classes(4), "cross_entropy", ADAMW),
    "cnn": (LENET, "dynamo", images(1, 8, 8), classes(5), "cross_entropy", ADAMW),
    "resnet": (RESNET, "script", images(2, 8, 8), classes(3), "cross_entropy", SGD),
    "mobilenet": (MOBILENET, "script", images(2, 16, 16), classes(3), "cross_entropy", SGD),
    "unet": (UNet, "dynamo", images(1, 8, 8), classes(2, 8, 8), "cross_entropy", SGD),
    "encoder": (Encoder, "dynamo", tokens(6, 11), classes(4), "cross_entropy", SGD),
    "decoder": (Decoder, "dynamo", tokens(5, 13), classes(13, 5), "cross_entropy", SGD),
    "decoder_script": (
        lambda: Decoder(WrittenOut, tied=True), "script", tokens(5, 13), classes(13, 5), "cross_entropy", SGD,
    ),  # fmt: skip
    "masked": (Masked, "dynamo", tokens(5, 9), classes(3), "cross_entropy", SGD),
    "lstm": (lambda: Recurrent(nn.LSTM), "dynamo", images(6, 5), classes(3), "cross_entropy", SGD),
    "lstm_both_ways": (
        lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True),
        "script", images(6, 5), classes(3), "cross_entropy", SGD,
    ),  # fmt: skip
    "gru": (lambda: Recurrent(nn.GRU), "dynamo", images(6, 5), classes(3), "cross_entropy", SGD),
    "autoencoder": (Autoencoder, "dynamo", images(1, 8, 8), images(1, 8, 8), "mse", SGD),
    "bag": (Bag, "dynamo", tokens(6, 17), classes(4), "cross_entropy", ADAMW),
    "sequence": (Sequence1d, "dynamo", images(3, 10), images(5), "mse", SGD),
    "mixture": (Mixture, "script", images(6), lambda: torch.rand(BATCH, 1), "logistic", SGD),
}


def export(model, x, exporter):
    """The model's bytes; the batch is dynamic."""
    file = io.BytesIO()
    original, model = model, copy.deepcopy(model).train()
    options = {"input_names": ["x"], "output_names": ["scores"]}
    if exporter == "dynamo":
        # Batch normalisation in training mode has no form there; evaluation computes the same graph.
        program = torch.onnx.export(
            model.eval(), (x,), dynamo=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch", min=2)},), **options,
        )  # fmt: skip
        program.save(file, external_data=False)
    else:
        torch.onnx.export(
            model, (x,), file, dynamo=False, dynamic_axes={"x": {0: "batch"}},
            training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False, **options,
        )  # fmt: skip
        # Tracing in training mode has moved the running statistics.
        original.load_state_dict(model.state_dict())
    proto = onnx.load_from_string(file.getvalue())
    # Stack traces and the like.
    del proto.metadata_props[:]
    for item in [proto.graph, *proto.graph.node]:
        item.doc_string = ""
        del item.metadata_props[:]
    return proto


def compute_loss(name, scores, labels):
    if name == "cross_entropy":
        axis = scores.dim() - 1
        if scores.dim() == 3:
            scores = scores.flatten(0, 1)
            labels = labels.flatten()
        return F.cross_entropy(scores, labels)
    if name == "mse":
        return F.mse_loss(scores, labels)
    return F.binary_cross_entropy_with_logits(scores, labels)


def find_elements(model, proto):
    """For each initializer of floats: the positions of its elements in the flat parameters and buffers,
    or None where they aren't there."""
    tensors = [*model.named_parameters(), *((n, b) for n, b in model.named_buffers() if b.is_floating_point())]
    flat = torch.cat([t.detach().flatten().float() for _, t in tensors]).numpy()
    order = np.argsort(flat)
    assert (np.diff(flat[order]) > 0).all(), "two equal numbers"
    found = {}
    for initializer in proto.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.dtype != np.float32:
            continue
        at = np.searchsorted(flat[order], array).clip(0, len(flat) - 1)
        positions = order[at]
        if (flat[positions] == array).all():
            found[initializer.name] = positions
    return tensors, found


def make(name):
    build, exporter, inputs, labels, loss_name, optimizer = NETWORKS[name]
    torch.manual_seed(sorted(NETWORKS).index(name) + 1)
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for path, buffer in model.named_buffers():
            if buffer.is_floating_point():
                buffer += 0.2 * torch.rand_like(buffer)
    x, y = inputs(), labels()
    proto = export(model, x, exporter)
    onnx.checker.check_model(proto)
    tensors, found = find_elements(model, proto)

    model = model.double().train()
    wide = (lambda t: t.double() if t.is_floating_point() else t)
    parameters = dict(model.named_parameters())
    buffers = {n for n, _ in model.named_buffers()}
    flat = lambda of: torch.cat([of(n).detach().flatten().double() for n, _ in tensors]).numpy()
    if optimizer["kind"] == "sgd":
        rule = torch.optim.SGD(model.parameters(), lr=optimizer["lr"], momentum=optimizer["momentum"])
    else:
        rule = torch.optim.AdamW(
            model.parameters(), lr=optimizer["lr"], eps=optimizer["eps"], weight_decay=optimizer["weight_decay"]
        )
    golden = {"input.x": x, "labels": y}
    for step in range(STEPS):
        rule.zero_grad()
        scores = model(wide(x))
        loss = compute_loss(loss_name, scores, wide(y))
        loss.backward()
        if step == 0:
            golden["output"], golden["loss"] = scores.detach().float(), loss.detach().float()
            gradients = flat(lambda n: parameters[n].grad if n in parameters else torch.zeros_like(model.get_buffer(n)))
        rule.step()
    final = flat(lambda n: model.get_parameter(n) if n in parameters else model.get_buffer(n))
    starts = np.cumsum([0] + [t.numel() for _, t in tensors])
    for initializer, positions in found.items():
        owner = tensors[int(np.searchsorted(starts, positions.flat[0], "right")) - 1][0]
        if owner in buffers:
            golden[f"state.{initializer}"] = torch.from_numpy(final[positions].astype(np.float32))
        else:
            golden[f"gradient.{initializer}"] = torch.from_numpy(gradients[positions].astype(np.float32))
            golden[f"final.{initializer}"] = torch.from_numpy(final[positions].astype(np.float32))
    covered = len(set(np.concatenate([p.flatten() for p in found.values()]).tolist()))
    assert covered == starts[-1], f"{starts[-1] - covered} weights aren't in the model"

    (OUT / f"{name}.onnx").write_bytes(proto.SerializeToString())
    arrays = {key: np.ascontiguousarray(value.numpy()) for key, value in golden.items()}
    metadata = {"loss": loss_name, "optimizer": json.dumps(optimizer), "torch": torch.__version__.split("+")[0]}
    save_file(arrays, OUT / f"{name}.safetensors", metadata)
    sizes = [(OUT / f"{name}.{kind}").stat().st_size // 1024 for kind in ("onnx", "safetensors")]
    print(f"{name}: opset {proto.opset_import[0].version}, {starts[-1]} weights, {sizes} KiB")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    OUT.mkdir(exist_ok=True)
    for name in sys.argv[1:] or NETWORKS:
        try:
            make(name)
        except Exception as error:
            print(f"{name}: {error!r}"[:600])
            raise
