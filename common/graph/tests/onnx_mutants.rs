//! The ONNX reader on models whose messages are whole but whose content is changed: names rewired,
//! operators and numbers replaced, nodes removed or repeated. Almost all of them pass the decoder, so
//! this is a test of what comes behind it: no panic, and a graph that verifies or an error.
//!
//! How far the mutants come is counted, and the counts are asserted.

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use ringfold_graph::onnx::{self, OnnxError, ReadOptions};

/// What a message is: which of its fields are messages too.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    Dim,
    Opset,
}

impl Kind {
    fn child(self, field: u64) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6) => Self::Graph,
            (Self::Model, 8) => Self::Opset,
            (Self::Graph, 1) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5) => Self::Tensor,
            (Self::Graph, 11..=13) => Self::ValueInfo,
            (Self::Node, 5) => Self::Attribute,
            (Self::ValueInfo, 2) => Self::Type,
            (Self::Type, 1) => Self::TensorType,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Shape, 1) => Self::Dim,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug)]
enum Content {
    Varint(u64),
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
    Message(Kind, Vec<Field>),
}

#[derive(Clone, Debug)]
struct Field {
    number: u64,
    content: Content,
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            break;
        }
    }
    value
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The fields of a message that is known to be whole.
fn parse(mut bytes: &[u8], kind: Kind) -> Vec<Field> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let number = tag >> 3;
        let mut take = |len: usize| {
            let (head, tail) = bytes.split_at(len);
            bytes = tail;
            head.to_vec()
        };
        let content = match tag & 7 {
            1 => Content::Fixed(take(8)),
            5 => Content::Fixed(take(4)),
            0 => Content::Varint(varint(&mut bytes)),
            _ => {
                let len = varint(&mut bytes) as usize;
                let (head, tail) = bytes.split_at(len);
                bytes = tail;
                match kind.child(number) {
                    Some(kind) => Content::Message(kind, parse(head, kind)),
                    None => Content::Bytes(head.to_vec()),
                }
            }
        };
        fields.push(Field { number, content });
    }
    fields
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    for Field { number, content } in fields {
        let tag = |wire: u64| number << 3 | wire;
        match content {
            Content::Varint(value) => {
                put_varint(&mut out, tag(0));
                put_varint(&mut out, *value);
            }
            Content::Fixed(bytes) => {
                put_varint(&mut out, tag(if bytes.len() == 8 { 1 } else { 5 }));
                out.extend(bytes);
            }
            Content::Bytes(bytes) => {
                put_varint(&mut out, tag(2));
                put_varint(&mut out, bytes.len() as u64);
                out.extend(bytes);
            }
            Content::Message(_, fields) => {
                let bytes = encode(fields);
                put_varint(&mut out, tag(2));
                put_varint(&mut out, bytes.len() as u64);
                out.extend(bytes);
            }
        }
    }
    out
}

/// A field's place: the position in each message from the model down, and the message that holds it.
type Place = (Vec<usize>, Kind);

/// The places of fields that say something of the graph.
fn places(fields: &[Field], kind: Kind, path: &mut Vec<usize>, found: &mut Vec<Place>) {
    for (i, field) in fields.iter().enumerate() {
        path.push(i);
        let counts = match kind {
            Kind::Model => false,
            Kind::Graph => matches!(field.number, 1 | 5 | 11 | 12),
            Kind::Node => field.number != 3 && field.number <= 7,
            _ => true,
        };
        if counts {
            found.push((path.clone(), kind));
        }
        if let Content::Message(kind, fields) = &field.content {
            places(fields, *kind, path, found);
        }
        path.pop();
    }
}

/// The message that holds the field at `path`.
fn parent<'a>(fields: &'a mut Vec<Field>, path: &[usize]) -> &'a mut Vec<Field> {
    let mut fields = fields;
    for &i in &path[..path.len() - 1] {
        match &mut fields[i].content {
            Content::Message(_, inner) => fields = inner,
            _ => unreachable!("a path leads through messages"),
        }
    }
    fields
}

/// Operators of all groups that the reader knows, and one that it doesn't.
const OPERATORS: [&str; 40] = [
    "Add",
    "Mul",
    "Pow",
    "Where",
    "Relu",
    "Clip",
    "Cast",
    "Softmax",
    "MatMul",
    "Gemm",
    "Conv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "BatchNormalization",
    "LayerNormalization",
    "ReduceSum",
    "ReduceMax",
    "Gather",
    "Slice",
    "Split",
    "Concat",
    "Pad",
    "Reshape",
    "Transpose",
    "Expand",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Shape",
    "ConstantOfShape",
    "Range",
    "Tile",
    "LSTM",
    "GRU",
    "Dropout",
    "Resize",
    "Loop",
    "Identity",
];

const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    3,
    7,
    13,
    100,
    255,
    1 << 20,
    1 << 31,
    1 << 40,
    i64::MAX as u64,
    i64::MIN as u64,
    u64::MAX,
];

/// Which field, how, and with what.
type Mutation = (usize, u8, usize);

fn mutate(model: &mut Vec<Field>, (pick, how, with): Mutation) {
    let mut found = Vec::new();
    places(model, Kind::Model, &mut Vec::new(), &mut found);
    let Some((path, kind)) = found.get(pick % found.len().max(1)) else {
        return;
    };
    let at = path[path.len() - 1];
    // Another field of the same meaning, for what is rewired.
    let field = parent(model, path)[at].clone();
    let mut alike: Vec<Field> = Vec::new();
    for (other, other_kind) in &found {
        let other = &parent(model, other)[other[other.len() - 1]];
        if other_kind == kind && other.number == field.number {
            alike.push(other.clone());
        }
    }
    let other = alike[with % alike.len()].clone();
    let fields = parent(model, path);
    match how {
        0 => drop(fields.remove(at)),
        1 => fields.insert(at, other),
        2 => {
            let to = with % fields.len();
            fields.swap(at, to);
        }
        3 => fields[at] = other,
        _ => match &mut fields[at].content {
            Content::Varint(value) => *value = NUMBERS[with % NUMBERS.len()],
            Content::Bytes(bytes) if *kind == Kind::Node && field.number == 4 => {
                *bytes = OPERATORS[with % OPERATORS.len()].into();
            }
            // A packed list, or a name.
            Content::Bytes(bytes) if !bytes.is_empty() => {
                let i = with % bytes.len();
                bytes[i] = (with >> 8) as u8 & 127;
            }
            _ => fields[at] = other,
        },
    }
}

/// How far the mutants came.
#[derive(Default)]
struct Reached {
    decoded: usize,
    /// Refused for a node or a tensor: behind the decoder.
    refused: usize,
    read: usize,
    written: usize,
}

fn check(bytes: &[u8], reached: &mut Reached) -> Result<(), TestCaseError> {
    reached.decoded += usize::from(onnx::inputs(bytes).is_ok());
    let model = match onnx::read(bytes, &ReadOptions::default()) {
        Ok(model) => model,
        Err(error) => {
            reached.refused += usize::from(!matches!(
                error,
                OnnxError::Wire { .. } | OnnxError::Limit { .. }
            ));
            return Ok(());
        }
    };
    reached.read += 1;
    prop_assert!(model.graph.verify().is_ok());
    let tensors = model.tensors.iter();
    let tensors = tensors.map(|tensor| (tensor.name.as_str(), tensor.data.as_slice()));
    if let Ok(written) = onnx::write(&model.graph, &tensors.collect()) {
        reached.written += 1;
        let again = onnx::read(&written, &ReadOptions::default());
        prop_assert!(
            again.is_ok(),
            "what was written isn't read: {:?}",
            again.err()
        );
    }
    Ok(())
}

#[test]
fn mutants_are_models_or_errors() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/golden/onnx");
    let names = [
        "mlp",
        "cnn",
        "resnet",
        "unet",
        "encoder",
        "decoder_script",
        "lstm_both_ways",
        "masked",
    ];
    let models: Vec<Vec<Field>> = names
        .iter()
        .map(|name| std::fs::read(folder.join(format!("{name}.onnx"))).unwrap())
        .map(|bytes| {
            let fields = parse(&bytes, Kind::Model);
            assert_eq!(encode(&fields), bytes);
            fields
        })
        .collect();
    const CASES: u32 = 4000;
    let mut runner = TestRunner::new(ProptestConfig {
        cases: CASES,
        ..ProptestConfig::default()
    });
    let mutation = (any::<usize>(), 0..6u8, any::<usize>());
    let strategy = (0..models.len(), prop::collection::vec(mutation, 1..4));
    let reached = std::cell::RefCell::new(Reached::default());
    let result = runner.run(&strategy, |(which, mutations)| {
        let mut model = models[which].clone();
        mutations
            .into_iter()
            .for_each(|change| mutate(&mut model, change));
        check(&encode(&model), &mut reached.borrow_mut())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let reached = reached.into_inner();
    println!(
        "of {CASES} mutants {} are decoded, {} refused behind the decoder, {} read, {} written",
        reached.decoded, reached.refused, reached.read, reached.written
    );
    let share = |count: usize| count as f64 / f64::from(CASES);
    assert!(
        share(reached.decoded) > 0.9,
        "{} are decoded",
        reached.decoded
    );
    assert!(
        share(reached.refused) > 0.2,
        "{} are refused",
        reached.refused
    );
    assert!(share(reached.read) > 0.1, "{} are read", reached.read);
    assert!(
        share(reached.written) > 0.1,
        "{} are written",
        reached.written
    );
}
