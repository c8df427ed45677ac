//! `[train.optimizer]` and `[[train.group]]`: update rules and their options.
//!
//! The defaults in each `new` are those of the job file, and PyTorch's where PyTorch has the rule.

use serde::{Deserialize, Serialize};

/// `[train.optimizer]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerSpec {
    /// `"sgd"`, with or without momentum.
    Sgd(SgdOptions),
    /// `"rmsprop"`.
    RmsProp(RmsPropOptions),
    /// `"adagrad"`.
    AdaGrad(AdaGradOptions),
    /// `"adam"`: weight decay is added to the gradient.
    Adam(AdamOptions),
    /// `"adamw"`: weight decay is taken off the weights (Loshchilov and Hutter, 2019).
    AdamW(AdamOptions),
    /// `"lamb"`.
    Lamb(LambOptions),
    /// `"lion"`.
    Lion(LionOptions),
    /// `"barzilai_borwein"`.
    BarzilaiBorwein(BarzilaiBorweinOptions),
}

impl OptimizerSpec {
    /// `train.optimizer.kind`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sgd(_) => "sgd",
            Self::RmsProp(_) => "rmsprop",
            Self::AdaGrad(_) => "adagrad",
            Self::Adam(_) => "adam",
            Self::AdamW(_) => "adamw",
            Self::Lamb(_) => "lamb",
            Self::Lion(_) => "lion",
            Self::BarzilaiBorwein(_) => "barzilai_borwein",
        }
    }

    /// The learning rate before any schedule.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        match self {
            Self::Sgd(options) => options.learning_rate,
            Self::RmsProp(options) => options.learning_rate,
            Self::AdaGrad(options) => options.learning_rate,
            Self::Adam(options) | Self::AdamW(options) => options.learning_rate,
            Self::Lamb(options) => options.learning_rate,
            Self::Lion(options) => options.learning_rate,
            Self::BarzilaiBorwein(options) => options.learning_rate,
        }
    }

    /// The weight decay of parameters for which nothing else is said.
    #[must_use]
    pub fn weight_decay(&self) -> f64 {
        match self {
            Self::Sgd(options) => options.weight_decay,
            Self::RmsProp(options) => options.weight_decay,
            Self::AdaGrad(options) => options.weight_decay,
            Self::Adam(options) | Self::AdamW(options) => options.weight_decay,
            Self::Lamb(options) => options.weight_decay,
            Self::Lion(options) => options.weight_decay,
            Self::BarzilaiBorwein(options) => options.weight_decay,
        }
    }
}

/// Stochastic gradient descent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SgdOptions {
    /// Step size.
    pub learning_rate: f64,
    /// The share of the velocity kept, in [0, 1).
    pub momentum: f64,
    /// The share of the gradient that the velocity does not take, in [0, 1); needs momentum.
    pub dampening: f64,
    /// Nesterov's look-ahead; needs momentum, and no dampening.
    pub nesterov: bool,
    /// Times the weights, added to the gradient.
    pub weight_decay: f64,
}

impl SgdOptions {
    /// Plain gradient descent.
    #[must_use]
    pub fn new(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            momentum: 0.0,
            dampening: 0.0,
            nesterov: false,
            weight_decay: 0.0,
        }
    }
}

/// RMSProp (Tieleman and Hinton, 2012, lecture 6.5), centred on demand (Graves, 2013, equations
/// 38 to 45).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RmsPropOptions {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the mean square, in [0, 1).
    pub alpha: f64,
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// The share of the velocity kept, in [0, 1).
    pub momentum: f64,
    /// True to divide by the standard deviation instead of the root mean square.
    pub centered: bool,
    /// Times the weights, added to the gradient.
    pub weight_decay: f64,
}

impl RmsPropOptions {
    /// The rule with its defaults.
    #[must_use]
    pub fn new(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            alpha: 0.99,
            epsilon: 1e-8,
            momentum: 0.0,
            centered: false,
            weight_decay: 0.0,
        }
    }
}

/// AdaGrad (Duchi, Hazan and Singer, 2011, the diagonal form).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdaGradOptions {
    /// Step size.
    pub learning_rate: f64,
    /// The rate of update *t* (from 1) is divided by 1 + (*t* − 1) times this.
    pub rate_decay: f64,
    /// What the sum of squares starts at.
    pub initial_accumulator: f64,
    /// Added to the root of the sum of squares.
    pub epsilon: f64,
    /// Times the weights, added to the gradient.
    pub weight_decay: f64,
}

impl AdaGradOptions {
    /// The rule with its defaults.
    #[must_use]
    pub fn new(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            rate_decay: 0.0,
            initial_accumulator: 0.0,
            epsilon: 1e-10,
            weight_decay: 0.0,
        }
    }
}

/// Adam (Kingma and Ba, 2015, algorithm 1).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamOptions {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// True to divide by the greatest second moment so far (Reddi, Kale and Kumar, 2018).
    pub amsgrad: bool,
    /// See [`OptimizerSpec`].
    pub weight_decay: f64,
}

impl AdamOptions {
    /// The defaults of `"adam"`.
    #[must_use]
    pub fn adam(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            amsgrad: false,
            weight_decay: 0.0,
        }
    }

    /// The defaults of `"adamw"`.
    #[must_use]
    pub fn adamw(learning_rate: f64) -> Self {
        Self {
            weight_decay: 0.01,
            ..Self::adam(learning_rate)
        }
    }
}

/// LAMB (You et al., 2020, algorithm 2): AdamW whose step is scaled, parameter by parameter, to the
/// norm of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LambOptions {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Times the weights, added to the step before it is scaled.
    pub weight_decay: f64,
}

impl LambOptions {
    /// The rule with its defaults, those of the paper.
    #[must_use]
    pub fn new(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-6,
            weight_decay: 0.01,
        }
    }
}

/// Lion (Chen et al., 2023, algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LionOptions {
    /// Step size.
    pub learning_rate: f64,
    /// The share of the momentum in the step's direction, in [0, 1).
    pub beta1: f64,
    /// Decay of the momentum, in [0, 1).
    pub beta2: f64,
    /// Times the rate and the weights, taken off the weights.
    pub weight_decay: f64,
}

impl LionOptions {
    /// The rule with its defaults, those of the paper.
    #[must_use]
    pub fn new(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            beta1: 0.9,
            beta2: 0.99,
            weight_decay: 0.0,
        }
    }
}

/// Gradient descent whose step size is measured once a period: the inverse of the curvature along
/// the way that the weights went (Barzilai and Borwein, 1988; with mini-batches Tan et al., 2016,
/// algorithm 2).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BarzilaiBorweinOptions {
    /// Step size until one was measured.
    pub learning_rate: f64,
    /// Which of the two formulas.
    pub formula: BarzilaiBorweinFormula,
    /// Updates between two measurements; unset for those of an epoch.
    pub period_steps: Option<u64>,
    /// The least step size.
    pub min_rate: f64,
    /// The greatest step size.
    pub max_rate: f64,
    /// Times the weights, added to the gradient.
    pub weight_decay: f64,
}

impl BarzilaiBorweinOptions {
    /// The rule with its defaults.
    #[must_use]
    pub fn new(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            formula: BarzilaiBorweinFormula::Alternate,
            period_steps: None,
            min_rate: 1e-6,
            max_rate: 10.0,
            weight_decay: 0.0,
        }
    }
}

/// `train.optimizer.formula`: how a step size follows from the change *s* of the weights and the
/// change *y* of the gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BarzilaiBorweinFormula {
    /// One after the other, the long step first.
    Alternate,
    /// sᵀs / sᵀy, the long step (ibid., equation 6).
    Long,
    /// sᵀy / yᵀy, the short step (ibid., equation 5).
    Short,
}

/// `[[train.group]]`: parameters that are updated in their own way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// Which parameters, by name: `*` stands for any characters, `?` for one.
    pub pattern: String,
    /// Their weight decay; unset for that of the optimizer.
    pub weight_decay: Option<f64>,
    /// What the learning rate is multiplied by for them; 0 freezes them, but for decay.
    pub learning_rate_factor: f64,
}

impl GroupSpec {
    /// True if a parameter of this name is of the group.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        glob(self.pattern.as_bytes(), name.as_bytes())
    }
}

/// A group that no parameter is of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} matches no parameter; there are: {}", shortened(.names))]
pub struct IdleGroup {
    /// Its position in the list, from 0.
    pub index: usize,
    /// Its pattern.
    pub pattern: String,
    /// The parameters of the model.
    pub names: Vec<String>,
}

impl IdleGroup {
    /// Checks that each group has a parameter among those of these names.
    ///
    /// # Errors
    /// The first group that has none.
    pub fn check<'a>(
        groups: &[GroupSpec],
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<(), Self> {
        let idle = |group: &GroupSpec| !names.clone().any(|name| group.matches(name));
        match groups.iter().position(idle) {
            None => Ok(()),
            Some(index) => Err(Self {
                index,
                pattern: groups[index].pattern.clone(),
                names: names.map(str::to_owned).collect(),
            }),
        }
    }

    /// The key of its pattern in the job file.
    #[must_use]
    pub fn field(&self) -> String {
        format!("train.group[{}].match", self.index)
    }
}

/// As many names as a line can hold.
fn shortened(names: &[String]) -> String {
    const SHOWN_MAX: usize = 50;
    let shown = names[..names.len().min(SHOWN_MAX)].join(", ");
    match names.len().saturating_sub(SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Whether `pattern` describes all of `name`. Goes back to the last `*` alone, so that the time is
/// at most the product of the lengths.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where the last `*` is, and how far the name goes that it stands for.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_describe_whole_names() {
        let cases = [
            ("*.bias", "layers.0.bias", true),
            ("*.bias", "layers.0.bias2", false),
            ("layers.?.weight", "layers.3.weight", true),
            ("layers.?.weight", "layers.13.weight", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "a.b.b.c", true),
            ("a*b*c", "a.b.b", false),
            ("*aaaa*b", "aaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("norm", "layers.norm", false),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(group(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    fn group(pattern: &str) -> GroupSpec {
        GroupSpec {
            pattern: pattern.into(),
            weight_decay: None,
            learning_rate_factor: 1.0,
        }
    }

    #[test]
    fn a_group_without_a_parameter_is_named_with_the_parameters() {
        let names = ["a.weight", "a.bias"];
        let check = |groups: &[GroupSpec]| IdleGroup::check(groups, names.into_iter());
        assert_eq!(check(&[group("*.bias"), group("a.*")]), Ok(()));
        let idle = check(&[group("*.bias"), group("norm.*")]).unwrap_err();
        assert_eq!(idle.field(), "train.group[1].match");
        assert_eq!(
            idle.to_string(),
            "\"norm.*\" matches no parameter; there are: a.weight, a.bias"
        );
    }
}
