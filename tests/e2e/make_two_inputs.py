# Makes two_inputs.onnx: the halves of an image of 8 x 8, each with a layer of its own, then one for both.
# Needs pip install onnx numpy
import numpy
from onnx import TensorProto, checker, helper, numpy_helper, save

random = numpy.random.default_rng(0)


def weight(name, rows, columns):
    values = random.normal(0.0, (2.0 / rows) ** 0.5, (rows, columns)).astype(numpy.float32)
    return numpy_helper.from_array(values, name)


def zeros(name, count):
    return numpy_helper.from_array(numpy.zeros(count, numpy.float32), name)


initializers = [
    weight("above.weight", 32, 24),
    zeros("above.bias", 24),
    weight("below.weight", 32, 24),
    zeros("below.bias", 24),
    weight("last.weight", 48, 10),
    zeros("last.bias", 10),
]
nodes = [
    helper.make_node("Gemm", ["above", "above.weight", "above.bias"], ["a"], "above"),
    helper.make_node("Gemm", ["below", "below.weight", "below.bias"], ["b"], "below"),
    helper.make_node("Concat", ["a", "b"], ["both"], "both", axis=1),
    helper.make_node("Relu", ["both"], ["h"], "relu"),
    helper.make_node("Gemm", ["h", "last.weight", "last.bias"], ["scores"], "last"),
]
half = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 32]) for n in ("above", "below")]
scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])
graph = helper.make_graph(nodes, "two_inputs", half, [scores], initializers)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
checker.check_model(model, full_check=True)
save(model, "two_inputs.onnx")
