//! LSTM over sequences of numbers.

use ringfold_common::job::LstmSpec;

use super::super::Frame;
use super::super::builder::Builder;
use super::super::options::{check_dropout, check_layers, check_sizes, refuse};
use crate::error::GraphError;
use crate::graph::Graph;
use crate::init::InitialiserScheme;
use crate::layers::{RecurrentStack, recurrent_layer};
use crate::op::Cell;

/// An LSTM over sequences of numbers with its loss, not differentiated yet: a record is
/// `[steps, features]`, as `frame.dims` says, and the last state of the last layer goes through an
/// affine layer. Every record starts from states of 0.
///
/// Parameters have PyTorch's names, layouts and initial values: of layer N `lstm.weight_ih_lN`,
/// `lstm.weight_hh_lN`, `lstm.bias_ih_lN`, `lstm.bias_hh_lN`; `head.weight [outputs, hidden]` and
/// `head.bias`. The penalty is on the matrices.
///
/// # Errors
/// [`GraphError::ModelOption`] names an option that is out of range, or dimensions that aren't two.
pub fn lstm_numbers(spec: &LstmSpec, frame: &Frame) -> Result<Graph, GraphError> {
    let (hidden, layers) = (spec.hidden as usize, spec.layers as usize);
    check_sizes(&[("hidden", hidden)])?;
    check_layers("layers", layers, 1)?;
    check_dropout("dropout", spec.dropout)?;
    if frame.dims.len() != 2 {
        let expected = "[steps, features], since an \"lstm\" of numbers takes sequences";
        return Err(refuse("input", expected, format!("{:?}", frame.dims)));
    }
    let mut builder = Builder::new("lstm", frame, InitialiserScheme::LinearDefault)?;
    let stack = RecurrentStack {
        cell: Cell::Lstm,
        hidden,
        layers,
        bidirectional: false,
        time_first: false,
    };
    let mut x = builder.records()?;
    for layer in 0..layers {
        let (y, last) = recurrent_layer(&mut builder.graph, "lstm", x, &stack, layer)?;
        let result = if layer + 1 < layers { y } else { last[0][0] };
        x = builder.dropout(result, spec.dropout)?;
    }
    builder.penalise_matrices();
    let outputs = builder.outputs();
    let out = builder.dense("head", x, outputs, true)?;
    builder.finish(out)
}

#[cfg(test)]
mod tests {
    use super::super::super::LOSS;
    use super::*;
    use crate::differentiate;

    const SPEC: LstmSpec = LstmSpec {
        embedding: 0,
        hidden: 4,
        layers: 2,
        dropout: 0.25,
    };

    #[test]
    fn names_and_shapes_are_those_of_pytorch() {
        let frame = Frame {
            l2: 0.1,
            ..Frame::image_classifier(&[5, 3], 2)
        };
        let graph = lstm_numbers(&SPEC, &frame).unwrap();
        graph.verify().unwrap();
        differentiate(&graph, LOSS).unwrap().verify().unwrap();
        let parameters = graph.parameters().iter();
        let parameters: Vec<String> = parameters
            .map(|p| format!("{} {}", p.name, graph.value(p.value).ty))
            .collect();
        let expected = [
            "lstm.weight_ih_l0 f32[16, 3]",
            "lstm.weight_hh_l0 f32[16, 4]",
            "lstm.bias_ih_l0 f32[16]",
            "lstm.bias_hh_l0 f32[16]",
            "lstm.weight_ih_l1 f32[16, 4]",
            "lstm.weight_hh_l1 f32[16, 4]",
            "lstm.bias_ih_l1 f32[16]",
            "lstm.bias_hh_l1 f32[16]",
            "head.weight f32[2, 4]",
            "head.bias f32[2]",
        ];
        assert_eq!(parameters, expected);
        let penalties = graph.nodes().iter();
        let penalties = penalties.filter(|node| node.op.name() == "l2_penalty");
        assert_eq!(penalties.count(), 5);
    }

    #[test]
    fn records_must_be_sequences() {
        for dims in [&[][..], &[15], &[1, 5, 3]] {
            let frame = Frame {
                dims: dims.to_vec(),
                ..Frame::classifier(15, 2)
            };
            let error = lstm_numbers(&SPEC, &frame).unwrap_err();
            assert_eq!(error.field(), "model.input");
        }
    }
}
