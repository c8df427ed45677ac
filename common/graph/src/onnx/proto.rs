//! The messages of ONNX that are read (onnx.proto of the ONNX repository): borrowed from the file's
//! bytes, with caps on what a few bytes could make large.
//!
//! There are no nested graphs: a node that has one (`If`, `Loop`, `Scan`) is refused when it is used,
//! so that nothing here is recursive.

use super::error::OnnxError;
use super::wire::{Reader, Wire};

/// The most bytes of a model file: protobuf's own limit.
pub const MODEL_BYTES_MAX: usize = (1 << 31) - 1;
/// The most nodes, attributes, names, tensors and dimensions of a model together.
pub const ITEMS_MAX: usize = 1 << 19;

/// The most inputs, and the most initializers, of a model.
pub const TENSORS_MAX: usize = 1 << 15;

/// Counts what is decoded.
struct Budget(usize);

impl Budget {
    fn spend(&mut self) -> Result<(), OnnxError> {
        self.0 = self.0.checked_sub(1).ok_or(OnnxError::Limit {
            what: "nodes, attributes, names, tensors and dimensions",
            max: ITEMS_MAX,
        })?;
        Ok(())
    }

    fn push<T>(&mut self, to: &mut Vec<T>, item: T) -> Result<(), OnnxError> {
        self.spend()?;
        to.push(item);
        Ok(())
    }
}

#[derive(Debug, Default)]
pub(super) struct Model<'a> {
    /// Domain and version.
    pub opsets: Vec<(&'a str, i64)>,
    pub graph: Option<Graph<'a>>,
}

#[derive(Debug, Default)]
pub(super) struct Graph<'a> {
    pub name: &'a str,
    pub nodes: Vec<Node<'a>>,
    pub initializers: Vec<Tensor<'a>>,
    pub inputs: Vec<ValueInfo<'a>>,
    pub outputs: Vec<ValueInfo<'a>>,
    pub value_info: Vec<ValueInfo<'a>>,
    pub has_sparse: bool,
}

#[derive(Debug, Default)]
pub(super) struct Node<'a> {
    pub name: &'a str,
    pub op_type: &'a str,
    pub domain: &'a str,
    pub inputs: Vec<&'a str>,
    pub outputs: Vec<&'a str>,
    pub attributes: Vec<Attribute<'a>>,
}

#[derive(Debug)]
pub(super) struct Attribute<'a> {
    pub name: &'a str,
    pub value: AttributeValue<'a>,
}

#[derive(Debug, Default)]
pub(super) enum AttributeValue<'a> {
    Int(i64),
    Float(f32),
    Text(&'a [u8]),
    Tensor(Box<Tensor<'a>>),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<&'a [u8]>),
    /// A graph, a sparse tensor: by what it is called.
    #[default]
    Other,
}

#[derive(Debug, Default)]
pub(super) struct Tensor<'a> {
    pub name: &'a str,
    pub dims: Vec<i64>,
    pub data_type: i64,
    pub raw: Option<&'a [u8]>,
    pub floats: Vec<f32>,
    pub ints: Vec<i64>,
    pub doubles: Vec<f64>,
    pub external: Option<External<'a>>,
}

/// Where a tensor's data stand outside of the model file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct External<'a> {
    /// The path, relative to the model file's folder.
    pub location: &'a str,
    /// The first byte.
    pub offset: usize,
    /// The number of bytes; `None`: up to the end of the file.
    pub length: Option<usize>,
}

#[derive(Debug, Default)]
pub(super) struct ValueInfo<'a> {
    pub name: &'a str,
    /// `None` if it isn't a tensor.
    pub elem_type: Option<i64>,
    /// `None` if the number of dimensions isn't known.
    pub dims: Option<Vec<Extent<'a>>>,
    /// What PyTorch's exporter says that it is: `PARAMETER`, `BUFFER`, …
    pub torch_kind: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent<'a> {
    Fixed(i64),
    Named(&'a str),
    Unknown,
}

/// Decodes a message: `$arm`s by field number, everything else is skipped.
macro_rules! fields {
    ($reader:ident, { $($number:literal => |$wire:ident| $arm:expr,)* }) => {
        while let Some((number, wire)) = $reader.field()? {
            match number {
                $($number => {
                    let $wire: Wire<'_> = wire;
                    $arm;
                })*
                _ => {}
            }
        }
    };
}

impl<'a> Model<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, OnnxError> {
        if bytes.len() > MODEL_BYTES_MAX {
            return Err(OnnxError::Limit {
                what: "bytes of the model",
                max: MODEL_BYTES_MAX,
            });
        }
        let mut budget = Budget(ITEMS_MAX);
        let mut model = Self::default();
        let mut r = Reader::new(bytes);
        fields!(r, {
            7 => |w| model.graph = Some(Graph::decode(w.bytes(&r)?, &mut budget)?),
            8 => |w| {
                let opset = opset(w.bytes(&r)?)?;
                budget.push(&mut model.opsets, opset)?
            },
        });
        Ok(model)
    }
}

fn opset(mut r: Reader<'_>) -> Result<(&str, i64), OnnxError> {
    let (mut domain, mut version) = ("", 0);
    fields!(r, {
        1 => |w| domain = w.text(&r)?,
        2 => |w| version = w.int(&r)?,
    });
    Ok((domain, version))
}

impl<'a> Graph<'a> {
    fn decode(mut r: Reader<'a>, budget: &mut Budget) -> Result<Self, OnnxError> {
        let mut graph = Self::default();
        let few = |len: usize| match len < TENSORS_MAX {
            true => Ok(()),
            false => Err(OnnxError::Limit {
                what: "inputs or initializers",
                max: TENSORS_MAX,
            }),
        };
        fields!(r, {
            1 => |w| {
                let node = Node::decode(w.bytes(&r)?, budget)?;
                budget.push(&mut graph.nodes, node)?
            },
            2 => |w| graph.name = w.text(&r)?,
            5 => |w| {
                few(graph.initializers.len())?;
                let tensor = Tensor::decode_in(w.bytes(&r)?, budget)?;
                budget.push(&mut graph.initializers, tensor)?
            },
            11 => |w| {
                few(graph.inputs.len())?;
                let info = ValueInfo::decode(w.bytes(&r)?, budget)?;
                budget.push(&mut graph.inputs, info)?
            },
            12 => |w| {
                let info = ValueInfo::decode(w.bytes(&r)?, budget)?;
                budget.push(&mut graph.outputs, info)?
            },
            13 => |w| {
                let info = ValueInfo::decode(w.bytes(&r)?, budget)?;
                budget.push(&mut graph.value_info, info)?
            },
            15 => |_w| graph.has_sparse = true,
        });
        Ok(graph)
    }
}

impl<'a> Node<'a> {
    fn decode(mut r: Reader<'a>, budget: &mut Budget) -> Result<Self, OnnxError> {
        let mut node = Self::default();
        fields!(r, {
            1 => |w| budget.push(&mut node.inputs, w.text(&r)?)?,
            2 => |w| budget.push(&mut node.outputs, w.text(&r)?)?,
            3 => |w| node.name = w.text(&r)?,
            4 => |w| node.op_type = w.text(&r)?,
            5 => |w| {
                let attribute = Attribute::decode(w.bytes(&r)?, budget)?;
                budget.push(&mut node.attributes, attribute)?
            },
            7 => |w| node.domain = w.text(&r)?,
        });
        Ok(node)
    }
}

impl<'a> Attribute<'a> {
    fn decode(mut r: Reader<'a>, budget: &mut Budget) -> Result<Self, OnnxError> {
        let (mut name, mut kind) = ("", 0);
        let (mut float, mut int, mut text) = (0.0, 0, [].as_slice());
        let (mut tensor, mut floats, mut ints) = (None, Vec::new(), Vec::new());
        let mut texts = Vec::new();
        fields!(r, {
            1 => |w| name = w.text(&r)?,
            2 => |w| float = w.float(&r)?,
            3 => |w| int = w.int(&r)?,
            4 => |w| text = w.bytes(&r)?.bytes(),
            5 => |w| tensor = Some(Box::new(Tensor::decode_in(w.bytes(&r)?, budget)?)),
            7 => |w| w.floats(&r, &mut floats)?,
            8 => |w| w.ints(&r, &mut ints)?,
            9 => |w| budget.push(&mut texts, w.bytes(&r)?.bytes())?,
            20 => |w| kind = w.int(&r)?,
        });
        let value = match (kind, tensor) {
            (1, _) => AttributeValue::Float(float),
            (2, _) => AttributeValue::Int(int),
            (3, _) => AttributeValue::Text(text),
            (4, Some(tensor)) => AttributeValue::Tensor(tensor),
            (6, _) => AttributeValue::Floats(floats),
            (7, _) => AttributeValue::Ints(ints),
            (8, _) => AttributeValue::Texts(texts),
            _ => AttributeValue::Other,
        };
        Ok(Self { name, value })
    }
}

impl<'a> Tensor<'a> {
    /// A tensor in a file of its own.
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, OnnxError> {
        Self::decode_in(Reader::new(bytes), &mut Budget(ITEMS_MAX))
    }

    fn decode_in(mut r: Reader<'a>, budget: &mut Budget) -> Result<Self, OnnxError> {
        let mut tensor = Self::default();
        let mut location = 0;
        let mut external = External::default();
        fields!(r, {
            1 => |w| w.ints(&r, &mut tensor.dims)?,
            2 => |w| tensor.data_type = w.int(&r)?,
            4 => |w| w.floats(&r, &mut tensor.floats)?,
            5 => |w| w.ints(&r, &mut tensor.ints)?,
            7 => |w| w.ints(&r, &mut tensor.ints)?,
            8 => |w| tensor.name = w.text(&r)?,
            9 => |w| tensor.raw = Some(w.bytes(&r)?.bytes()),
            10 => |w| w.doubles(&r, &mut tensor.doubles)?,
            11 => |w| w.ints(&r, &mut tensor.ints)?,
            13 => |w| {
                let (key, value) = entry(w.bytes(&r)?)?;
                budget.spend()?;
                let number = value.parse().ok();
                match key {
                    "location" => external.location = value,
                    "offset" => external.offset = number.unwrap_or(usize::MAX),
                    "length" => external.length = Some(number.unwrap_or(usize::MAX)),
                    _ => {}
                }
            },
            14 => |w| location = w.int(&r)?,
        });
        for _ in &tensor.dims {
            budget.spend()?;
        }
        tensor.external = (location == 1).then_some(external);
        Ok(tensor)
    }
}

fn entry(mut r: Reader<'_>) -> Result<(&str, &str), OnnxError> {
    let (mut key, mut value) = ("", "");
    fields!(r, {
        1 => |w| key = w.text(&r)?,
        2 => |w| value = w.text(&r)?,
    });
    Ok((key, value))
}

impl<'a> ValueInfo<'a> {
    fn decode(mut r: Reader<'a>, budget: &mut Budget) -> Result<Self, OnnxError> {
        const TORCH_KIND: &str = "pkg.torch.export.graph_signature.InputSpec.kind";
        let mut info = Self::default();
        fields!(r, {
            1 => |w| info.name = w.text(&r)?,
            2 => |w| {
                let mut ty = w.bytes(&r)?;
                fields!(ty, {
                    1 => |w| info.tensor_type(w.bytes(&ty)?, budget)?,
                });
            },
            4 => |w| {
                let (key, value) = entry(w.bytes(&r)?)?;
                if key == TORCH_KIND {
                    info.torch_kind = Some(value);
                }
            },
        });
        Ok(info)
    }

    fn tensor_type(&mut self, mut r: Reader<'a>, budget: &mut Budget) -> Result<(), OnnxError> {
        fields!(r, {
            1 => |w| self.elem_type = Some(w.int(&r)?),
            2 => |w| {
                let mut shape = w.bytes(&r)?;
                let mut dims = Vec::new();
                fields!(shape, {
                    1 => |w| budget.push(&mut dims, extent(w.bytes(&shape)?)?)?,
                });
                self.dims = Some(dims);
            },
        });
        Ok(())
    }
}

fn extent(mut r: Reader<'_>) -> Result<Extent<'_>, OnnxError> {
    let mut extent = Extent::Unknown;
    fields!(r, {
        1 => |w| extent = Extent::Fixed(w.int(&r)?),
        2 => |w| {
            let name = w.text(&r)?;
            if !name.is_empty() {
                extent = Extent::Named(name);
            }
        },
    });
    Ok(extent)
}
