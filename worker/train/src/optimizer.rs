//! Update rules over the flat arenas.
//!
//! Each rule reads and writes parameters, gradients and state once an update; LAMB, which needs two
//! norms of a parameter before it can move it, and Barzilai–Borwein, which measures its step, read
//! some of them twice. Formulas are those of PyTorch's `torch.optim` where it has the rule, in
//! single precision. Padding stays zero under every rule, since its gradient is zero.
//!
//! | module | the rule | arenas of state |
//! |---|---|---|
//! | `sgd` | gradient descent; momentum, dampening, Nesterov | 0, with momentum 1 |
//! | `rmsprop` | RMSProp; centred; momentum | 1 to 3 |
//! | `adagrad` | AdaGrad | 1 |
//! | `adam` | Adam, AdamW; AMSGrad | 2, with AMSGrad 3 |
//! | `lamb` | LAMB | 2 |
//! | `lion` | Lion | 1 |
//! | `barzilai_borwein` | gradient descent with measured steps | 2 or 3 |
//! | [`segments`](Segment) | which elements have which learning rate and weight decay | |
//! | [`clip`](global_norm) | clipping by norm and by value | |

mod adagrad;
mod adam;
mod barzilai_borwein;
mod clip;
mod lamb;
mod lion;
mod rmsprop;
mod segments;
mod sgd;

use std::collections::BTreeMap;
use std::fmt;

use ringfold_common::job::OptimizerSpec;
use ringfold_compute::cpu::parallel::for_units;
use ringfold_compute::cpu::simd::widest;

pub use clip::{clip_scale, clip_values, global_norm};
pub use segments::{Segment, segments};

/// Lanes of sums: each lane is summed in order, and the lanes at the end, so that a sum vectorises
/// and yet has one order.
const LANES: usize = 16;

/// Elements that a rule updates at a time; a thread has some of these pieces.
const PIECE: usize = 1 << 14;

/// Calls `f` for pieces of equally long slices and the gradients beside them, on the team of the
/// calling thread, compiled for the widest vectors. Neither shows in the bits of a rule that takes
/// each element alone.
fn each_piece<const N: usize>(
    slices: [&mut [f32]; N],
    g: &[f32],
    f: impl Fn([&mut [f32]; N], &[f32]) + Sync,
) {
    let pieces = g.len().div_ceil(PIECE);
    for_units(0..pieces, slices, [PIECE; N], pieces, &|piece, slices| {
        let start = piece * PIECE;
        let g = &g[start..(start + PIECE).min(g.len())];
        widest(|| f(slices, g));
    });
}

/// One update, as a rule sees it.
#[derive(Clone, Copy, Debug)]
struct Update {
    /// The learning rate of the schedule.
    rate: f64,
    /// What gradients are multiplied by.
    scale: f32,
    /// From 1.
    number: u64,
}

impl Update {
    /// βᵗ in update *t*.
    fn power(&self, beta: f64) -> f64 {
        beta.powi(i32::try_from(self.number).unwrap_or(i32::MAX))
    }
}

/// An update rule with its state.
trait Rule: fmt::Debug + Send {
    /// Updates the elements of all `segments`.
    fn update(&mut self, update: Update, segments: &[Segment], w: &mut [f32], g: &[f32]);

    /// The arenas of state by name, in one order.
    fn slots(&self) -> Vec<Slot<'_>>;

    /// The same arenas, to be restored.
    fn slots_mut(&mut self) -> Vec<&mut [f32]>;

    /// What is kept beside the arenas, by name.
    fn scalars(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }

    /// Takes what was kept under a name; false if there is no such name.
    fn restore(&mut self, _name: &str, _value: f64) -> bool {
        false
    }
}

/// An arena of state that a rule keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slot<'a> {
    /// Its name, which no other of the rule has.
    pub name: &'static str,
    /// As long as the parameters, and laid out as they are.
    pub values: &'a [f32],
}

/// Those of `arenas` that are kept: the others are empty.
fn kept<'a, const N: usize>(arenas: [(&'static str, &'a [f32]); N]) -> Vec<Slot<'a>> {
    let kept = arenas.into_iter().filter(|(_, values)| !values.is_empty());
    kept.map(|(name, values)| Slot { name, values }).collect()
}

/// [`kept`], to be restored.
fn kept_mut<const N: usize>(arenas: [&mut [f32]; N]) -> Vec<&mut [f32]> {
    let arenas = arenas.into_iter();
    arenas.filter(|values| !values.is_empty()).collect()
}

/// An update rule over the segments of the arenas.
#[derive(Debug)]
pub struct Optimizer {
    rule: Box<dyn Rule>,
    segments: Vec<Segment>,
    updates: u64,
}

impl Optimizer {
    /// The rule of `spec` for arenas that `parameters` cover without gaps, one segment a parameter.
    /// A Barzilai–Borwein step is measured every `steps_per_epoch` updates unless `spec` says
    /// otherwise.
    #[must_use]
    pub fn new(spec: &OptimizerSpec, parameters: Vec<Segment>, steps_per_epoch: u64) -> Self {
        let len = parameters.last().map_or(0, |segment| segment.range.end);
        let rule: Box<dyn Rule> = match *spec {
            OptimizerSpec::Sgd(options) => Box::new(sgd::Sgd::new(options, len)),
            OptimizerSpec::RmsProp(options) => Box::new(rmsprop::RmsProp::new(options, len)),
            OptimizerSpec::AdaGrad(options) => Box::new(adagrad::AdaGrad::new(options, len)),
            OptimizerSpec::Adam(options) => Box::new(adam::Adam::new(options, false, len)),
            OptimizerSpec::AdamW(options) => Box::new(adam::Adam::new(options, true, len)),
            OptimizerSpec::Lamb(options) => Box::new(lamb::Lamb::new(options, len)),
            OptimizerSpec::Lion(options) => Box::new(lion::Lion::new(options, len)),
            OptimizerSpec::BarzilaiBorwein(options) => {
                let period = options.period_steps.unwrap_or(steps_per_epoch).max(1);
                Box::new(barzilai_borwein::BarzilaiBorwein::new(options, period, len))
            }
        };
        let segments = match spec {
            // The trust ratio belongs to one parameter.
            OptimizerSpec::Lamb(_) => parameters,
            _ => segments::merged(parameters),
        };
        Self {
            rule,
            segments,
            updates: 0,
        }
    }

    /// Updates `parameters` by `gradients` at the learning rate `rate`. Gradients are multiplied by
    /// `gradient_scale` on the way, which clipping sets.
    ///
    /// # Panics
    /// If the lengths are not those of the state.
    pub fn update(
        &mut self,
        rate: f64,
        gradient_scale: f32,
        parameters: &mut [f32],
        gradients: &[f32],
    ) {
        let len = self.segments.last().map_or(0, |segment| segment.range.end);
        assert_eq!(parameters.len(), len, "the segments cover the parameters");
        assert_eq!(gradients.len(), len, "one gradient a parameter");
        self.updates += 1;
        let update = Update {
            rate,
            scale: gradient_scale,
            number: self.updates,
        };
        self.rule
            .update(update, &self.segments, parameters, gradients);
    }

    /// The arenas of state by name, in an order that depends on the rule alone. None of a model
    /// without parameters.
    #[must_use]
    pub fn slots(&self) -> Vec<Slot<'_>> {
        self.rule.slots()
    }

    /// The values of [`slots`](Self::slots), to be restored.
    pub fn slots_mut(&mut self) -> Vec<&mut [f32]> {
        self.rule.slots_mut()
    }

    /// Numbers that are kept beside the slots, by name. All are finite.
    #[must_use]
    pub fn scalars(&self) -> BTreeMap<String, f64> {
        let scalars = self.rule.scalars().into_iter();
        scalars
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Goes on after so many updates, with these [`scalars`](Self::scalars).
    ///
    /// # Errors
    /// The name of one that the rule doesn't have, or lacks. What was taken by then stays.
    pub fn restore(&mut self, updates: u64, scalars: &BTreeMap<String, f64>) -> Result<(), String> {
        for (name, &value) in scalars {
            if !value.is_finite() || !self.rule.restore(name, value) {
                return Err(name.clone());
            }
        }
        let own = self.rule.scalars();
        if let Some((name, _)) = own.iter().find(|(name, _)| !scalars.contains_key(*name)) {
            return Err((*name).to_owned());
        }
        self.updates = updates;
        Ok(())
    }
}

/// How many arenas of state a rule keeps, each as long as the parameters.
#[must_use]
pub fn state_arenas(spec: &OptimizerSpec, steps_per_epoch: u64) -> usize {
    match spec {
        OptimizerSpec::Sgd(options) => usize::from(options.momentum > 0.0),
        OptimizerSpec::RmsProp(options) => {
            1 + usize::from(options.centered) + usize::from(options.momentum > 0.0)
        }
        OptimizerSpec::AdaGrad(_) | OptimizerSpec::Lion(_) => 1,
        OptimizerSpec::Adam(options) | OptimizerSpec::AdamW(options) => {
            2 + usize::from(options.amsgrad)
        }
        OptimizerSpec::Lamb(_) => 2,
        OptimizerSpec::BarzilaiBorwein(options) => {
            let period = options.period_steps.unwrap_or(steps_per_epoch);
            2 + usize::from(period > 1)
        }
    }
}

#[cfg(test)]
mod tests;
