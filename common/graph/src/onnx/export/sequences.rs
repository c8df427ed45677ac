//! Recurrent layers and attention as ONNX nodes.

use super::Attribute::{Int, Ints, Text};
use super::Exporter;
use crate::graph::Node;
use crate::op::{Attention, AttentionLayout, Cell, Recurrent};
use crate::shape::DType;

impl Exporter<'_> {
    /// Rows of gates in ONNX's order, with a first dimension of one direction.
    fn onnx_gates(&mut self, x: &str, cell: Cell) -> String {
        let order: &[usize] = match cell {
            Cell::Lstm => &[0, 3, 1, 2],
            Cell::Gru | Cell::GruResetFirst => &[1, 0, 2],
        };
        let parts: Vec<String> = order.iter().map(|_| self.fresh()).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let count = Int(order.len() as i64);
        self.emit(
            "Split",
            &[x],
            &parts,
            &[("axis", Int(0)), ("num_outputs", count)],
        );
        let ordered: Vec<&str> = order.iter().map(|&gate| parts[gate]).collect();
        self.step("Concat", &ordered, &[("axis", Int(0))])
    }

    fn with_first(&mut self, x: &str) -> String {
        let first = self.ints(&[0]);
        self.step("Unsqueeze", &[x, &first], &[])
    }

    pub(super) fn recurrent(&mut self, node: &Node, op: &Recurrent, x: &[&str]) {
        let cell = op.cell;
        let sequence = match op.time_first {
            true => x[0].to_owned(),
            false => self.step("Transpose", &[x[0]], &[("perm", Ints(&[1, 0, 2]))]),
        };
        let mut inputs = vec![sequence];
        for weight in &x[1..3] {
            let weight = self.onnx_gates(weight, cell);
            inputs.push(self.with_first(&weight));
        }
        let halves = [self.onnx_gates(x[3], cell), self.onnx_gates(x[4], cell)];
        let bias = self.step("Concat", &[&halves[0], &halves[1]], &[("axis", Int(0))]);
        inputs.push(self.with_first(&bias));
        inputs.push(String::new());
        for state in &x[5..5 + cell.states()] {
            inputs.push(self.with_first(state));
        }
        let hidden = self.dims(node.operands[2])[1].bind(1) as i64;
        let direction = if op.reverse { "reverse" } else { "forward" };
        let mut attributes = vec![("hidden_size", Int(hidden)), ("direction", Text(direction))];
        let name = match cell {
            Cell::Lstm => "LSTM",
            Cell::Gru | Cell::GruResetFirst => {
                let before = i64::from(cell == Cell::Gru);
                attributes.push(("linear_before_reset", Int(before)));
                "GRU"
            }
        };
        let results: Vec<String> = (0..1 + cell.states()).map(|_| self.fresh()).collect();
        let results: Vec<&str> = results.iter().map(String::as_str).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.emit(name, &inputs, &results, &attributes);
        // y is [t, 1, n, h], the states [1, n, h].
        let (first, second) = (self.ints(&[0]), self.ints(&[1]));
        let y = self.name(node.results[0]);
        if op.time_first {
            self.emit("Squeeze", &[results[0], &second], &[&y], &[]);
        } else {
            let flat = self.step("Squeeze", &[results[0], &second], &[]);
            self.emit("Transpose", &[&flat], &[&y], &[("perm", Ints(&[1, 0, 2]))]);
        }
        for (i, result) in results.iter().enumerate().skip(1) {
            let state = self.name(node.results[i]);
            self.emit("Squeeze", &[result, &first], &[&state], &[]);
        }
    }

    /// Attention of small operators; `None` for grouped queries and ranks other than those of a batch of
    /// sequences.
    pub(super) fn attention(
        &mut self,
        node: &Node,
        op: &Attention,
        x: &[&str],
        y: &str,
    ) -> Option<()> {
        let dims = self.dims(node.operands[0]).to_vec();
        let (q, k, v, width, lens) = match op.layout {
            AttentionLayout::Heads => {
                let keys = self.dims(node.operands[1]).to_vec();
                let (&[_, heads, t, d], &[_, groups, s, _]) = (dims.as_slice(), keys.as_slice())
                else {
                    return None;
                };
                if heads != groups {
                    return None;
                }
                let [q, k, v] = [x[0], x[1], x[2]].map(str::to_owned);
                (q, k, v, d.fixed()?, [t.fixed(), s.fixed()])
            }
            AttentionLayout::Packed { heads, groups } => {
                let &[_, t, all] = dims.as_slice() else {
                    return None;
                };
                if heads != groups {
                    return None;
                }
                let width = all.fixed()? / (3 * heads);
                let (t, heads, d) = (t.fixed()? as i64, heads as i64, width as i64);
                let split = self.ints(&[-1, t, 3 * heads, d]);
                let rows = self.step("Reshape", &[x[0], &split], &[]);
                let rows = self.step("Transpose", &[&rows], &[("perm", Ints(&[0, 2, 1, 3]))]);
                let [q, k, v] = [self.fresh(), self.fresh(), self.fresh()];
                let attributes = [("axis", Int(1)), ("num_outputs", Int(3))];
                self.emit("Split", &[&rows], &[&q, &k, &v], &attributes);
                (q, k, v, width, [Some(t as usize); 2])
            }
        };
        let mask = node.operands.get(op.sources()).copied();
        let columns = self.step("Transpose", &[&k], &[("perm", Ints(&[0, 1, 3, 2]))]);
        let scores = self.step("MatMul", &[&q, &columns], &[]);
        let scale = op.scale.unwrap_or(1.0 / (width as f64).sqrt());
        let scale = self.scalar(scale);
        let mut scores = self.step("Mul", &[&scores, &scale], &[]);
        if let Some(mask) = mask {
            let name = self.name(mask);
            scores = match self.ty(mask).dtype {
                DType::Bool => {
                    let never = self.scalar(f64::NEG_INFINITY);
                    self.step("Where", &[&name, &scores, &never], &[])
                }
                _ => self.step("Add", &[&scores, &name], &[]),
            };
        }
        if op.causal {
            let [Some(t), Some(s)] = lens else {
                return None;
            };
            let never = |i: usize| {
                if i % s > i / s {
                    f64::NEG_INFINITY
                } else {
                    0.0
                }
            };
            let raw = self.float_bytes((0..t * s).map(never));
            let mask = self.fresh();
            let dtype = self.graph.dtype();
            self.tensor(&mask, dtype, &[t, s], &raw);
            scores = self.step("Add", &[&scores, &mask], &[]);
        }
        let weights = self.step("Softmax", &[&scores], &[("axis", Int(-1))]);
        match op.layout {
            AttentionLayout::Heads => self.emit("MatMul", &[&weights, &v], &[y], &[]),
            AttentionLayout::Packed { heads, .. } => {
                let mixed = self.step("MatMul", &[&weights, &v], &[]);
                let rows = self.step("Transpose", &[&mixed], &[("perm", Ints(&[0, 2, 1, 3]))]);
                let t = dims[1].fixed()? as i64;
                let flat = self.ints(&[-1, t, (heads * width) as i64]);
                self.emit("Reshape", &[&rows, &flat], &[y], &[]);
            }
        }
        Some(())
    }
}
