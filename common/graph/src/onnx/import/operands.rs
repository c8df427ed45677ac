//! Operands of the graph's nodes, from what names of the model stand for.

use super::call::{Refusal, Term, because};
use super::{ImportedTensor, Importer, Made, TensorKind};
use crate::graph::{ConstantData, ValueId};
use crate::init::Initialiser;
use crate::onnx::error::OnnxError;
use crate::onnx::known::{self, ElementType, FOLDED_TOTAL_MAX, Known, RANK_MAX, Tensor};
use crate::op::{Op, Reshape};
use crate::shape::{DType, Dim, Shape, TensorType};

/// What the readers of operators use.
impl Importer<'_, '_, '_> {
    pub(super) fn apply(
        &mut self,
        op: impl Into<Op>,
        operands: &[ValueId],
    ) -> Result<ValueId, Refusal> {
        Ok(self.graph.apply(op, operands)?)
    }

    /// Kernels take up to so many dimensions, and at least one element.
    pub(super) fn check_size(&self, term: &Term) -> Result<(), Refusal> {
        let (rank, is_empty) = match term {
            Term::Value(value) => {
                let shape = self.shape(*value);
                (shape.rank(), shape.dims().contains(&Dim::Fixed(0)))
            }
            Term::Known(known) => (known.0.shape.len(), false),
            Term::Weight(_) => (0, false),
        };
        if is_empty {
            return because("a result without elements");
        }
        if rank > RANK_MAX {
            return because(format!("a result of {rank} dimensions"));
        }
        Ok(())
    }

    /// Counts elements that are computed while the model is read.
    pub(super) fn spend(&mut self, elements: usize) -> Result<(), Refusal> {
        let left = self.folded_left.checked_sub(elements);
        self.folded_left = left.ok_or(OnnxError::Limit {
            what: "elements that are computed while the model is read",
            max: FOLDED_TOTAL_MAX,
        })?;
        Ok(())
    }

    pub(super) fn shape(&self, value: ValueId) -> &Shape {
        &self.graph.value(value).ty.shape
    }

    pub(super) fn dtype(&self, value: ValueId) -> DType {
        self.graph.value(value).ty.dtype
    }

    /// The elements, if they are known now.
    pub(super) fn known(&self, term: &Term) -> Result<Option<Known>, Refusal> {
        Ok(match term {
            Term::Value(_) => None,
            Term::Known(known) => Some(known.0.clone()),
            Term::Weight(i) => match self.known_initializer(*i)? {
                Term::Known(known) => Some(known.0.clone()),
                _ => None,
            },
        })
    }

    /// The elements, which must be known.
    pub(super) fn needs_known(&self, term: &Term, what: &str) -> Result<Known, Refusal> {
        match self.known(term)? {
            Some(known) => Ok(known),
            None => because(format!("{what} that isn't known before the model runs")),
        }
    }

    /// Fixed integers, which must be known.
    pub(super) fn needs_ints(&self, term: &Term, what: &str) -> Result<Vec<i64>, Refusal> {
        match self.needs_known(term, what)?.as_ints() {
            Some(ints) => Ok(ints),
            None => because(format!("{what} that depends on the batch")),
        }
    }

    pub(super) fn constant(&mut self, known: &Known) -> Result<ValueId, Refusal> {
        let Some(data) = known.constant() else {
            return because("numbers that depend on the batch, other than in a shape");
        };
        let dtype = match known.elements {
            ElementType::Float16 | ElementType::BFloat16 => {
                return because("computing with 16-bit floats");
            }
            e if e.is_float() => self.graph.dtype(),
            ElementType::Int32 => DType::I32,
            ElementType::Bool => DType::Bool,
            _ => DType::I64,
        };
        if data.is_empty() {
            return because("an operand without elements");
        }
        let ty = TensorType::new(dtype, Shape::fixed(&known.shape));
        Ok(self.graph.add_constant(ty, data)?)
    }

    /// The value of the graph; an initializer becomes a parameter.
    pub(super) fn value(&mut self, term: &Term) -> Result<ValueId, Refusal> {
        match term {
            Term::Value(value) => Ok(*value),
            Term::Known(known) => match known.1.get() {
                Some(value) => Ok(value),
                None => {
                    let value = self.constant(&known.0)?;
                    known.1.set(Some(value));
                    Ok(value)
                }
            },
            Term::Weight(i) => self.parameter(*i),
        }
    }

    pub(super) fn parameter(&mut self, i: usize) -> Result<ValueId, Refusal> {
        if let Made::Value(value) = self.made[i] {
            return Ok(value);
        }
        let tensor = &self.source.initializers[i];
        let decoded = known::decode(tensor, self.options.resolver)?;
        let name = self.parameter_names.take(tensor.name);
        let shape = Shape::fixed(&decoded.shape);
        let value = self.graph.add_parameter(&name, shape, Initialiser::Zeros)?;
        self.keep(name, tensor.name, TensorKind::Parameter, decoded);
        self.made[i] = Made::Value(value);
        Ok(value)
    }

    pub(super) fn keep(&mut self, name: String, onnx_name: &str, kind: TensorKind, tensor: Tensor) {
        let data = match tensor.data {
            ConstantData::Float(data) => data.iter().map(|&x| x as f32).collect(),
            _ => Vec::new(),
        };
        self.tensors.push(ImportedTensor {
            name,
            onnx_name: onnx_name.to_owned(),
            kind,
            shape: tensor.shape,
            data,
        });
    }

    /// The value of an operand in arithmetic: single numbers and masks are constants.
    pub(super) fn arithmetic(&mut self, term: &Term) -> Result<ValueId, Refusal> {
        let Term::Weight(i) = *term else {
            return self.value(term);
        };
        if let Made::Value(value) = self.made[i] {
            return Ok(value);
        }
        let name = self.source.initializers[i].name;
        let known = self.needs_known(term, "an initializer")?;
        match self.frozen_by_use(name, &known) {
            None => self.parameter(i),
            Some(why) => {
                self.notice(name, why);
                let value = self.constant(&known)?;
                self.made[i] = Made::Value(value);
                Ok(value)
            }
        }
    }

    /// An operand of floats in arithmetic.
    pub(super) fn float(&mut self, term: &Term) -> Result<ValueId, Refusal> {
        let value = self.arithmetic(term)?;
        match self.dtype(value) {
            dtype if dtype.is_float() => Ok(value),
            dtype => because(format!("elements of {dtype}")),
        }
    }

    pub(super) fn reshape(&mut self, x: ValueId, shape: Shape) -> Result<ValueId, Refusal> {
        if *self.shape(x) == shape {
            return Ok(x);
        }
        self.apply(Reshape { shape }, &[x])
    }

    pub(super) fn scalar(&mut self, number: f64) -> Result<ValueId, Refusal> {
        Ok(self.graph.add_scalar(number)?)
    }
}
