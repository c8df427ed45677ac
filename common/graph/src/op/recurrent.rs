//! Recurrent layers over whole sequences, with their gradients through time.

use super::{Op, Operator};
use crate::autodiff::Rule;
use crate::error::GraphError;
use crate::graph::ValueId;
use crate::infer::{Inferred, Operands};
use crate::shape::{Dim, Shape};

/// What one step computes. σ is the sigmoid, · the product of elements; gates lie one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Long short-term memory with a forget gate (Gers, Schmidhuber, Cummins: "Learning to forget",
    /// 2000), PyTorch's order of gates i, f, g, o: `c' = f · c + i · g`, `h' = o · tanh c'`, with
    /// `i, f, o = σ(..)` and `g = tanh(..)` of `W_ih x + b_ih + W_hh h + b_hh`.
    Lstm,
    /// Gated recurrent unit (Cho et al., 2014) in PyTorch's form and order r, z, n (ONNX:
    /// `linear_before_reset` = 1): `r, z = σ(W_ih x + b_ih + W_hh h + b_hh)`, `n = tanh(W_in x + b_in +
    /// r · (W_hn h + b_hn))`, `h' = (1 - z) · n + z · h`.
    Gru,
    /// The unit in the form that was first published (ONNX's default, `linear_before_reset` = 0): as
    /// [`Cell::Gru`], but `n = tanh(W_in x + b_in + W_hn (r · h) + b_hn)`.
    GruResetFirst,
}

impl Cell {
    /// The number of gates: 4 or 3.
    #[must_use]
    pub fn gates(self) -> usize {
        match self {
            Self::Lstm => 4,
            Self::Gru | Self::GruResetFirst => 3,
        }
    }

    /// What is carried from step to step: h and c, or h.
    #[must_use]
    pub fn states(self) -> usize {
        match self {
            Self::Lstm => 2,
            Self::Gru | Self::GruResetFirst => 1,
        }
    }
}

/// `(x [n, t, i], w_ih [gates · h, i], w_hh [gates · h, h], b_ih [gates · h], b_hh [gates · h], h0
/// [n, h], c0 [n, h] if LSTM) -> (y [n, t, h], h_n [n, h], c_n [n, h] if LSTM, the gates [n, t, gates ·
/// h], kept [n, t, h])`: one layer in one direction. The last two are for backward: the gates after
/// their functions; the cells c of an LSTM, `W_hn h + b_hn` of a GRU, `r · h` of one that resets first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recurrent {
    /// The cell.
    pub cell: Cell,
    /// x, y and what is kept are `[t, n, ..]`.
    pub time_first: bool,
    /// From the last step to the first; `y` at each step's own place, `h_n` after the first step.
    pub reverse: bool,
}

/// `(x, w_ih, w_hh, h0, c0 if LSTM, y, gates, kept, then those of dy, dh_n, dc_n that are given) ->
/// (dx, dw_ih, dw_hh, db_ih, db_hh, dh0, dc0 if LSTM)`: the gradient of [`Recurrent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecurrentGrad {
    /// The layer.
    pub recurrent: Recurrent,
    /// Which of dy, dh_n and dc_n are operands; the others are 0.
    pub given: [bool; 3],
}

/// The sizes that shapes follow from.
struct Sizes {
    recurrent: Recurrent,
    batch: Dim,
    time: usize,
    inputs: usize,
    hidden: usize,
}

impl Sizes {
    fn sequence(&self, len: usize) -> Shape {
        let (n, t, len) = (self.batch, Dim::Fixed(self.time), Dim::Fixed(len));
        Shape::new(match self.recurrent.time_first {
            true => vec![t, n, len],
            false => vec![n, t, len],
        })
    }

    fn state(&self) -> Shape {
        Shape::new(vec![self.batch, Dim::Fixed(self.hidden)])
    }

    /// Of the gates together.
    fn rows(&self) -> usize {
        self.hidden.saturating_mul(self.recurrent.cell.gates())
    }

    fn weights(&self) -> [Shape; 2] {
        [self.inputs, self.hidden].map(|columns| Shape::fixed(&[self.rows(), columns]))
    }

    fn states(&self) -> Vec<Shape> {
        vec![self.state(); self.recurrent.cell.states()]
    }
}

impl Recurrent {
    fn names(&self) -> (&'static str, &'static str) {
        match self.cell {
            Cell::Lstm => ("lstm", "lstm_grad"),
            Cell::Gru => ("gru", "gru_grad"),
            Cell::GruResetFirst => ("gru_reset_first", "gru_reset_first_grad"),
        }
    }

    fn printed(&self) -> Vec<(&'static str, String)> {
        vec![
            ("time_first", self.time_first.to_string()),
            ("reverse", self.reverse.to_string()),
        ]
    }

    /// The sizes that x and w_hh say; checks x and both weights.
    fn sizes(&self, o: &Operands<'_>) -> Result<Sizes, GraphError> {
        let x = o.float(0)?;
        let (batch, time, inputs) = match (x.dims(), self.time_first) {
            (&[n, Dim::Fixed(t), Dim::Fixed(i)], false)
            | (&[Dim::Fixed(t), n, Dim::Fixed(i)], true) => (n, t, i),
            _ => return Err(o.rank_error(0, "3, the batch not among steps and features")),
        };
        let [_, hidden] = o.matrix(2)?;
        let hidden = hidden.fixed().unwrap_or(1);
        let sizes = Sizes {
            recurrent: *self,
            batch,
            time,
            inputs,
            hidden,
        };
        for (operand, shape) in [1, 2].into_iter().zip(sizes.weights()) {
            o.float_shape(operand, shape.dims())?;
        }
        Ok(sizes)
    }
}

impl Operator for Recurrent {
    fn name(&self) -> &'static str {
        self.names().0
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        self.printed()
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        match self.cell {
            Cell::Lstm => o.count(7, 7, "7")?,
            Cell::Gru | Cell::GruResetFirst => o.count(6, 6, "6")?,
        }
        let sizes = self.sizes(o)?;
        for operand in [3, 4] {
            o.float_shape(operand, &[Dim::Fixed(sizes.rows())])?;
        }
        for operand in 5..o.len() {
            o.float_shape(operand, sizes.state().dims())?;
        }
        let mut shapes = vec![sizes.sequence(sizes.hidden)];
        shapes.extend(sizes.states());
        shapes.extend([sizes.sequence(sizes.rows()), sizes.sequence(sizes.hidden)]);
        o.floats(shapes)
    }

    fn gradient(&self, rule: &mut Rule<'_>) -> Result<(), GraphError> {
        let states = self.cell.states();
        let mut operands: Vec<ValueId> = [0, 1, 2].map(|i| rule.operand(i)).to_vec();
        operands.extend((0..states).map(|i| rule.operand(5 + i)));
        let kept = 1 + states;
        if rule.dy(kept).is_some() || rule.dy(kept + 1).is_some() {
            // What is kept is for backward alone.
            return Err(rule.not_differentiable());
        }
        operands.extend([0, kept, kept + 1].map(|result| rule.result(result)));
        let mut given = [false; 3];
        for (result, given) in given.iter_mut().enumerate().take(kept) {
            let dy = rule.dy(result);
            *given = dy.is_some();
            operands.extend(dy);
        }
        if given == [false; 3] {
            return Ok(());
        }
        let recurrent = *self;
        let grads = rule.emit_all(Op::from(RecurrentGrad { recurrent, given }), &operands)?;
        // Parameters first.
        for operand in (1..5 + states).chain([0]) {
            rule.give(operand, grads[operand])?;
        }
        Ok(())
    }
}

impl Operator for RecurrentGrad {
    fn name(&self) -> &'static str {
        self.recurrent.names().1
    }

    fn attributes(&self) -> Vec<(&'static str, String)> {
        let mut list = self.recurrent.printed();
        list.push(("given", format!("{:?}", self.given)));
        list
    }

    fn infer(&self, o: &Operands<'_>) -> Inferred {
        let cell = self.recurrent.cell;
        let states = cell.states();
        let given = self.given.iter().filter(|given| **given).count();
        let count = 6 + states + given;
        o.count(count, count, "those of the layer, what it kept, gradients")?;
        let fits = given > 0 && (states == 2 || !self.given[2]);
        o.attribute("given", "gradients of results", given as f64, fits)?;
        let sizes = self.recurrent.sizes(o)?;
        let (hidden, rows) = (sizes.hidden, sizes.rows());
        let mut expected = sizes.states();
        expected.extend([hidden, rows, hidden].map(|len| sizes.sequence(len)));
        let of_results = [sizes.sequence(hidden), sizes.state(), sizes.state()];
        let of_results = of_results.into_iter().zip(self.given);
        expected.extend(
            of_results
                .filter(|(_, given)| *given)
                .map(|(shape, _)| shape),
        );
        for (operand, shape) in (3..).zip(&expected) {
            o.float_shape(operand, shape.dims())?;
        }
        let mut shapes = vec![sizes.sequence(sizes.inputs)];
        shapes.extend(sizes.weights());
        shapes.extend([Shape::fixed(&[rows]), Shape::fixed(&[rows])]);
        shapes.extend(sizes.states());
        o.floats(shapes)
    }
}
