//! Einstein sums: products of two operands at a time, each a product of stacks of matrices.

use std::collections::BTreeSet;

use super::Importer;
use super::call::{Call, Refusal, Term, because};
use super::fold::merged;
use super::layout::transpose;
use crate::graph::ValueId;
use crate::op::{MatMul, Reduce, Reduction};
use crate::shape::{Dim, Shape};

/// A letter, or from here on a dimension of the ellipsis.
type Label = u32;
const ELLIPSIS: Label = 1 << 16;

/// A tensor whose dimensions have labels.
struct Labelled {
    value: ValueId,
    labels: Vec<Label>,
}

pub(super) fn build(
    importer: &mut Importer<'_, '_, '_>,
    call: &Call<'_, '_>,
) -> Result<Option<Vec<Term>>, Refusal> {
    if call.node.op_type != "Einsum" {
        return Ok(None);
    }
    let equation = call.text("equation", "")?.replace(' ', "");
    let (inputs, output) = match equation.split_once("->") {
        Some((inputs, output)) => (inputs, Some(output)),
        None => (equation.as_str(), None),
    };
    let texts: Vec<&str> = inputs.split(',').collect();
    if texts.len() != call.args().len() {
        return because(format!("equation {equation:?} of other than its operands"));
    }
    let mut operands = Vec::with_capacity(texts.len());
    for (position, text) in texts.iter().enumerate() {
        let value = importer.float(call.arg(position)?)?;
        let labels = labels(text, Some(importer.shape(value).rank()), 0)?;
        let distinct: BTreeSet<Label> = labels.iter().copied().collect();
        if distinct.len() != labels.len() {
            return because(format!("a diagonal in equation {equation:?}"));
        }
        operands.push(Labelled { value, labels });
    }
    let all = || operands.iter().flat_map(|operand| operand.labels.iter());
    let wide = all().filter(|&&label| label >= ELLIPSIS);
    let wide: BTreeSet<Label> = wide.copied().collect();
    let output = match output {
        Some(output) => labels(output, None, wide.len())?,
        // Without a result, the ellipsis and then what stands once, by letter.
        None => {
            let once = |label: &Label| all().filter(|&other| other == label).count() == 1;
            let letters: BTreeSet<Label> = all().copied().filter(|&l| l < ELLIPSIS).collect();
            let letters = letters.into_iter().filter(once);
            let wide = wide.iter().rev().copied();
            wide.chain(letters).collect()
        }
    };
    let mut rest = operands.into_iter();
    let Some(mut product) = rest.next() else {
        return because("no inputs");
    };
    let rest: Vec<Labelled> = rest.collect();
    for (i, operand) in rest.iter().enumerate() {
        let later = rest[i + 1..].iter().flat_map(|operand| &operand.labels);
        let keep: BTreeSet<Label> = output.iter().chain(later).copied().collect();
        product = contract(importer, product, operand, &keep)?;
    }
    let keep: BTreeSet<Label> = output.iter().copied().collect();
    let product = summed(importer, product, |label| keep.contains(&label))?;
    let mut order = Vec::with_capacity(output.len());
    for label in &output {
        match product.labels.iter().position(|other| other == label) {
            Some(axis) if !order.contains(&axis) => order.push(axis),
            _ => {
                return because(format!(
                    "equation {equation:?}, whose result isn't of its operands"
                ));
            }
        }
    }
    let y = transpose(importer, product.value, order)?;
    Ok(Some(vec![Term::Value(y)]))
}

/// Labels of an operand of this rank, or of the result, whose ellipsis has `wide` dimensions. Those of
/// an ellipsis count from its end.
fn labels(text: &str, rank: Option<usize>, wide: usize) -> Result<Vec<Label>, Refusal> {
    let (before, after) = text.split_once("...").unwrap_or((text, ""));
    let has_ellipsis = text.contains("...");
    let letters = before.chars().chain(after.chars());
    if let Some(odd) = letters.clone().find(|c| !c.is_ascii_alphabetic()) {
        return because(format!("an equation with {odd:?}"));
    }
    let count = letters.count();
    let wide = match (rank, has_ellipsis) {
        (_, false) => 0,
        (Some(rank), true) => rank.saturating_sub(count),
        (None, true) => wide,
    };
    if rank.is_some_and(|rank| rank != count + wide) {
        return because(format!(
            "{text:?} for an operand of {} dimensions",
            rank.unwrap_or(0)
        ));
    }
    let letters = |text: &str| text.chars().map(u32::from).collect::<Vec<Label>>();
    let mut labels = letters(before);
    labels.extend((0..wide as Label).rev().map(|i| ELLIPSIS + i));
    labels.extend(letters(after));
    Ok(labels)
}

/// The sum over all labels that aren't kept.
fn summed(
    importer: &mut Importer<'_, '_, '_>,
    x: Labelled,
    keeps: impl Fn(Label) -> bool,
) -> Result<Labelled, Refusal> {
    let axes = x.labels.iter().enumerate();
    let axes: Vec<usize> = axes
        .filter(|(_, label)| !keeps(**label))
        .map(|(axis, _)| axis)
        .collect();
    if axes.is_empty() {
        return Ok(x);
    }
    let sum = Reduce {
        reduction: Reduction::Sum,
        axes,
        keep: false,
    };
    let value = importer.apply(sum, &[x.value])?;
    let labels = x.labels.into_iter().filter(|&label| keeps(label)).collect();
    Ok(Labelled { value, labels })
}

/// Without the dimensions of 1 that the other operand stretches.
fn narrowed(
    importer: &mut Importer<'_, '_, '_>,
    x: Labelled,
    other: &Labelled,
) -> Result<Labelled, Refusal> {
    let dims = importer.shape(x.value).dims().to_vec();
    let stretches = |label: &Label, dim: &Dim| {
        let there = other.labels.iter().position(|l| l == label);
        let there = there.map(|axis| importer.shape(other.value).dims()[axis]);
        *dim == Dim::Fixed(1) && there.is_some_and(|there| there != Dim::Fixed(1))
    };
    let pairs = x.labels.iter().copied().zip(dims);
    let (labels, dims) = pairs.filter(|(label, dim)| !stretches(label, dim)).unzip();
    let value = importer.reshape(x.value, Shape::new(dims))?;
    Ok(Labelled { value, labels })
}

/// The product of two, summed over the labels of both that aren't kept.
fn contract(
    importer: &mut Importer<'_, '_, '_>,
    a: Labelled,
    b: &Labelled,
    keep: &BTreeSet<Label>,
) -> Result<Labelled, Refusal> {
    let b = Labelled {
        value: b.value,
        labels: b.labels.clone(),
    };
    let b = narrowed(importer, b, &a)?;
    let a = narrowed(importer, a, &b)?;
    let others = b.labels.clone();
    let a = summed(importer, a, |l| keep.contains(&l) || others.contains(&l))?;
    let others = a.labels.clone();
    let b = summed(importer, b, |l| keep.contains(&l) || others.contains(&l))?;
    let shared = a.labels.iter().filter(|label| b.labels.contains(label));
    let (stack, inner): (Vec<Label>, Vec<Label>) = shared.partition(|label| keep.contains(label));
    let own = |of: &Labelled, other: &Labelled| -> Vec<Label> {
        let labels = of.labels.iter().copied();
        labels
            .filter(|label| !other.labels.contains(label))
            .collect()
    };
    let (rows, columns) = (own(&a, &b), own(&b, &a));
    let (first, leading, m) = matrices(importer, &a, [&stack, &rows, &inner])?;
    let (second, there, n) = matrices(importer, &b, [&stack, &inner, &columns])?;
    if leading != there {
        return because("dimensions of one label and different sizes");
    }
    let y = importer.apply(MatMul::default(), &[first, second])?;
    let dims = [leading, m[0].clone(), n[1].clone()].concat();
    Ok(Labelled {
        value: importer.reshape(y, Shape::new(dims))?,
        labels: [stack, rows, columns].concat(),
    })
}

/// A stack of matrices, the stack's dimensions, and those of rows and columns.
#[expect(clippy::type_complexity, reason = "it is taken apart where it is made")]
fn matrices(
    importer: &mut Importer<'_, '_, '_>,
    x: &Labelled,
    [stack, rows, columns]: [&[Label]; 3],
) -> Result<(ValueId, Vec<Dim>, [Vec<Dim>; 2]), Refusal> {
    let dims = importer.shape(x.value).dims().to_vec();
    let axes = |labels: &[Label]| -> Vec<usize> {
        let axis = |label: &Label| x.labels.iter().position(|other| other == label);
        labels.iter().filter_map(axis).collect()
    };
    let of = |axes: &[usize]| axes.iter().map(|&axis| dims[axis]).collect::<Vec<Dim>>();
    let parts = [stack, rows, columns].map(axes);
    let [leading, m, n] = [of(&parts[0]), of(&parts[1]), of(&parts[2])];
    let turned = transpose(importer, x.value, parts.concat())?;
    let (Some(rows), Some(columns)) = (merged(&m), merged(&n)) else {
        return because("a product over the batch twice");
    };
    let mut shape = leading.clone();
    shape.extend([rows, columns]);
    let value = importer.reshape(turned, Shape::new(shape))?;
    Ok((value, leading, [m, n]))
}
