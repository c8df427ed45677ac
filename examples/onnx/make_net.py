# Makes net.onnx. Needs PyTorch and onnxscript: pip install torch onnx onnxscript
import torch
from torch import nn

torch.manual_seed(0)
conv = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
net = nn.Sequential(*conv, nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
# optimize=False: optimising would merge batch norm, which is to be trained, into the convolution.
program = torch.onnx.export(net.eval(), (torch.zeros(2, 1, 8, 8),), input_names=["image"],
    output_names=["scores"], dynamic_shapes=({0: "batch"},), optimize=False, verbose=False)  # fmt: skip
for node in program.model.graph:
    node.metadata_props.clear()  # where in which source file it is from
program.save("net.onnx", external_data=False)
