#!/usr/bin/env python3
"""Writes ONNX's own node tests, as the `onnx` package defines them, to a folder.

    python tests/conformance/onnx_nodes.py OUT

OUT gets a folder for each test: model.onnx, and input_N.pb and output_N.pb (TensorProto) of its first
data set. Tests whose values aren't all tensors, and those of other operator sets than ONNX's own, are
left out. The tests' code is Apache-2.0, of the ONNX project; nothing of it is in this repository.
"""

import pathlib
import sys
import warnings

import onnx
from onnx import numpy_helper


def main():
    out = pathlib.Path(sys.argv[1])
    warnings.filterwarnings("ignore")
    from onnx.backend.test.case.node import collect_testcases

    for case in collect_testcases(None):
        model = case.model
        if any(opset.domain not in ("", "ai.onnx") for opset in model.opset_import):
            continue
        inputs, outputs = case.data_sets[0]
        tensors = [("input", i, x) for i, x in enumerate(inputs)]
        tensors += [("output", i, x) for i, x in enumerate(outputs)]
        encoded = []
        for kind, i, x in tensors:
            if isinstance(x, onnx.TensorProto):
                encoded.append((kind, i, x.SerializeToString()))
            elif hasattr(x, "dtype"):
                try:
                    encoded.append((kind, i, numpy_helper.from_array(x).SerializeToString()))
                except Exception:
                    pass
        if len(encoded) != len(tensors):
            continue
        folder = out / case.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        for kind, i, data in encoded:
            (folder / f"{kind}_{i}.pb").write_bytes(data)
    (out / "version").write_text(onnx.__version__ + "\n")


if __name__ == "__main__":
    main()
