//! One node while it is read: its arguments and attributes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use super::super::error::OnnxError;
use super::super::known::{self, Known};
use super::super::proto::{AttributeValue, Node};
use crate::error::GraphError;
use crate::graph::ValueId;

/// What a name of the model stands for.
#[derive(Clone, Debug)]
pub(super) enum Term {
    /// A value of the graph.
    Value(ValueId),
    /// A tensor whose elements are known; the value if it is a constant of the graph already.
    Known(Rc<(Known, Cell<Option<ValueId>>)>),
    /// The initializer of floats at this position, of which its first use makes a parameter, a
    /// constant or a state.
    Weight(usize),
}

impl Term {
    pub(super) fn known(known: Known) -> Self {
        Self::Known(Rc::new((known, Cell::new(None))))
    }
}

/// Why a node isn't read.
#[derive(Debug)]
pub(super) enum Refusal {
    /// What isn't supported.
    Because(String),
    /// What the graph refused.
    Graph(GraphError),
    /// Anything else.
    Onnx(OnnxError),
}

impl From<GraphError> for Refusal {
    fn from(error: GraphError) -> Self {
        Self::Graph(error)
    }
}

impl From<OnnxError> for Refusal {
    fn from(error: OnnxError) -> Self {
        Self::Onnx(error)
    }
}

/// A refusal that says what isn't supported.
pub(super) fn because<T>(what: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Because(what.into()))
}

/// What a node becomes: a term for each of its results, or of the first ones.
pub(super) type Terms = Result<Vec<Term>, Refusal>;

/// A node with its arguments.
pub(super) struct Call<'n, 'a> {
    pub node: &'n Node<'a>,
    pub opset: i64,
    args: Vec<Option<Term>>,
    read: RefCell<BTreeSet<&'static str>>,
}

impl<'n, 'a> Call<'n, 'a> {
    pub(super) fn new(node: &'n Node<'a>, opset: i64, args: Vec<Option<Term>>) -> Self {
        Self {
            node,
            opset,
            args,
            read: RefCell::default(),
        }
    }

    pub(super) fn args(&self) -> &[Option<Term>] {
        &self.args
    }

    /// The argument at `position`, if it is given.
    pub(super) fn optional(&self, position: usize) -> Option<&Term> {
        self.args.get(position)?.as_ref()
    }

    pub(super) fn arg(&self, position: usize) -> Result<&Term, Refusal> {
        let missing = || Refusal::Because(format!("input {position} isn't given"));
        self.optional(position).ok_or_else(missing)
    }

    /// True if a result at `position` is asked for.
    pub(super) fn wants(&self, position: usize) -> bool {
        let name = self.node.outputs.get(position);
        name.is_some_and(|name| !name.is_empty())
    }

    fn attribute(&self, name: &'static str) -> Option<&AttributeValue<'a>> {
        self.read.borrow_mut().insert(name);
        let mut attributes = self.node.attributes.iter();
        attributes.find(|a| a.name == name).map(|a| &a.value)
    }

    /// An attribute that has no effect on what is computed.
    pub(super) fn ignore(&self, name: &'static str) {
        self.read.borrow_mut().insert(name);
    }

    pub(super) fn has(&self, name: &'static str) -> bool {
        self.attribute(name).is_some()
    }

    pub(super) fn int(&self, name: &'static str) -> Result<Option<i64>, Refusal> {
        match self.attribute(name) {
            None => Ok(None),
            Some(AttributeValue::Int(value)) => Ok(Some(*value)),
            Some(_) => because(format!("attribute {name} isn't an integer")),
        }
    }

    pub(super) fn flag(&self, name: &'static str, default: bool) -> Result<bool, Refusal> {
        Ok(self.int(name)?.map_or(default, |value| value != 0))
    }

    pub(super) fn float(&self, name: &'static str, default: f64) -> Result<f64, Refusal> {
        match self.attribute(name) {
            None => Ok(default),
            // Shortest decimals: 0.01 is meant, not the nearest float's digits.
            Some(AttributeValue::Float(value)) => Ok(value.to_string().parse().unwrap_or(default)),
            Some(_) => because(format!("attribute {name} isn't a float")),
        }
    }

    pub(super) fn ints(&self, name: &'static str) -> Result<Option<Vec<i64>>, Refusal> {
        match self.attribute(name) {
            None => Ok(None),
            Some(AttributeValue::Ints(values)) => Ok(Some(values.clone())),
            Some(_) => because(format!("attribute {name} isn't a list of integers")),
        }
    }

    pub(super) fn floats(&self, name: &'static str) -> Result<Option<Vec<f32>>, Refusal> {
        match self.attribute(name) {
            None => Ok(None),
            Some(AttributeValue::Floats(values)) => Ok(Some(values.clone())),
            Some(_) => because(format!("attribute {name} isn't a list of floats")),
        }
    }

    pub(super) fn text(
        &self,
        name: &'static str,
        default: &'static str,
    ) -> Result<String, Refusal> {
        match self.attribute(name) {
            None => Ok(default.to_owned()),
            Some(AttributeValue::Text(bytes)) => Ok(String::from_utf8_lossy(bytes).into_owned()),
            Some(_) => because(format!("attribute {name} isn't a text")),
        }
    }

    pub(super) fn texts(&self, name: &'static str) -> Result<Option<Vec<String>>, Refusal> {
        let text = |bytes: &&[u8]| String::from_utf8_lossy(bytes).into_owned();
        match self.attribute(name) {
            None => Ok(None),
            Some(AttributeValue::Texts(texts)) => Ok(Some(texts.iter().map(text).collect())),
            Some(_) => because(format!("attribute {name} isn't a list of texts")),
        }
    }

    pub(super) fn tensor(
        &self,
        name: &'static str,
        resolver: Option<known::Resolver<'_>>,
    ) -> Result<Option<Known>, Refusal> {
        match self.attribute(name) {
            None => Ok(None),
            Some(AttributeValue::Tensor(tensor)) => {
                Ok(Some(known::decode(tensor, resolver)?.into()))
            }
            Some(_) => because(format!("attribute {name} isn't a tensor")),
        }
    }

    /// The attribute must have its default, or be absent.
    pub(super) fn only(&self, name: &'static str, value: i64) -> Result<(), Refusal> {
        match self.int(name)? {
            Some(got) if got != value => because(format!("attribute {name} = {got}")),
            _ => Ok(()),
        }
    }

    /// Fails if the node has an attribute that wasn't read.
    pub(super) fn check_attributes(&self) -> Result<(), Refusal> {
        let read = self.read.borrow();
        let mut attributes = self.node.attributes.iter();
        match attributes.find(|a| !read.contains(a.name)) {
            Some(attribute) => because(format!("attribute {:?}", attribute.name)),
            None => Ok(()),
        }
    }
}

/// The position that `axis` means among `rank` dimensions.
pub(super) fn axis_of(axis: i64, rank: usize) -> Result<usize, Refusal> {
    let signed = rank as i64;
    let from_start = if axis < 0 {
        axis.saturating_add(signed)
    } else {
        axis
    };
    match usize::try_from(from_start) {
        Ok(axis) if axis < rank => Ok(axis),
        _ => because(format!("axis {axis} of {rank} dimensions")),
    }
}

/// The positions of several axes, ascending.
pub(super) fn axes_of(axes: &[i64], rank: usize) -> Result<Vec<usize>, Refusal> {
    let axes: Result<BTreeSet<usize>, Refusal> =
        axes.iter().map(|&axis| axis_of(axis, rank)).collect();
    Ok(axes?.into_iter().collect())
}
