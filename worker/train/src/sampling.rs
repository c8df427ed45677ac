//! Which token follows, given the scores of all.

use ringfold_common::random::{Domain, Stream, stream_key};

use crate::evaluate::argmax;

/// How tokens are drawn. Fields that are not set leave all tokens in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingOptions {
    /// What scores are divided by before softmax, finite and 0 or more. 0: the most likely token is
    /// taken, the first of equals.
    pub temperature: f64,
    /// Only so many of the most likely tokens are drawn from; at least 1.
    pub top_k: Option<usize>,
    /// Only the most likely tokens are drawn from that together have this probability, in (0, 1]
    /// (Holtzman et al.: "The curious case of neural text degeneration", 2020, section 3.1).
    pub top_p: Option<f64>,
    /// The same seed draws the same tokens.
    pub seed: u64,
}

impl Default for SamplingOptions {
    /// The model's own distribution, under seed 0.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: None,
            seed: 0,
        }
    }
}

/// Draws one token after the other.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    stream: Stream,
    drawn: u64,
    /// Tokens and their scores, then probabilities, most likely first.
    candidates: Vec<(f64, usize)>,
}

impl Sampler {
    /// A sampler that has drawn nothing yet.
    #[must_use]
    pub fn new(options: SamplingOptions) -> Self {
        let key = stream_key(options.seed, Domain::Sampling, 0, 0);
        Self {
            options,
            stream: Stream::new(key, 0),
            drawn: 0,
            candidates: Vec::new(),
        }
    }

    /// The next token, given the scores (logits) of all. A score that is not a number is never
    /// drawn unless all are.
    pub fn draw(&mut self, logits: &[f32]) -> usize {
        let uniform = self.stream.uniform(self.drawn);
        self.drawn += 1;
        if self.options.temperature == 0.0 {
            return argmax(logits);
        }
        self.candidates.clear();
        let scores = logits.iter().map(|&logit| f64::from(logit));
        let numbers = scores.zip(0..).filter(|(score, _)| !score.is_nan());
        self.candidates.extend(numbers);
        // Ties in the order of tokens: the order is total.
        self.candidates
            .sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        if let Some(top_k) = self.options.top_k {
            self.candidates.truncate(top_k.max(1));
        }
        let total = self.soften();
        let total = self
            .options
            .top_p
            .map_or(total, |top_p| self.cut(top_p * total));
        let mut left = uniform * total;
        for &(weight, token) in &self.candidates {
            if left < weight {
                return token;
            }
            left -= weight;
        }
        // Rounding may leave something over.
        self.candidates.last().map_or(0, |&(_, token)| token)
    }

    /// Scores become weights in proportion to their probabilities; their sum.
    fn soften(&mut self) -> f64 {
        let max = self.candidates.first().map_or(0.0, |&(score, _)| score);
        let mut total = 0.0;
        for (weight, _) in &mut self.candidates {
            // Equal infinities have no difference.
            let below = if *weight == max { 0.0 } else { *weight - max };
            *weight = (below / self.options.temperature).exp();
            total += *weight;
        }
        total
    }

    /// Keeps the first candidates whose weights sum to at least `enough`, one in any case; the sum.
    fn cut(&mut self, enough: f64) -> f64 {
        let mut total = 0.0;
        let mut kept = 0;
        for &(weight, _) in &self.candidates {
            total += weight;
            kept += 1;
            if total >= enough {
                break;
            }
        }
        self.candidates.truncate(kept);
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 2.0, 1.0, -1.0];

    fn counts(options: SamplingOptions) -> [u32; 4] {
        let mut sampler = Sampler::new(options);
        let mut counts = [0; 4];
        for _ in 0..20_000 {
            counts[sampler.draw(&LOGITS)] += 1;
        }
        counts
    }

    fn assert_shares(counts: [u32; 4], weights: [f64; 4]) {
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.into_iter().zip(weights) {
            let (got, expected) = (f64::from(count) / 20_000.0, weight / total);
            // Five standard deviations of a share.
            let tolerance = 5.0 * (expected * (1.0 - expected) / 20_000.0).sqrt();
            assert!(
                (got - expected).abs() <= tolerance,
                "{counts:?}: {weights:?}"
            );
        }
    }

    #[test]
    fn tokens_are_drawn_in_proportion_to_their_probabilities() {
        let options = SamplingOptions::default();
        let exp = |temperature: f64| LOGITS.map(|x| (f64::from(x) / temperature).exp());
        assert_shares(counts(options), exp(1.0));
        for temperature in [0.5, 3.0] {
            let options = SamplingOptions {
                temperature,
                ..options
            };
            assert_shares(counts(options), exp(temperature));
        }
    }

    #[test]
    fn only_the_most_likely_are_drawn_from() {
        let options = SamplingOptions::default();
        let [a, b, c, _] = LOGITS.map(|x| f64::from(x).exp());
        let top_k = |k| SamplingOptions {
            top_k: Some(k),
            ..options
        };
        assert_shares(counts(top_k(2)), [0.0, b, c, 0.0]);
        assert_shares(counts(top_k(3)), [a, b, c, 0.0]);
        // Probabilities are 0.64, 0.24, 0.09 and 0.03.
        let top_p = |p| SamplingOptions {
            top_p: Some(p),
            ..options
        };
        assert_shares(counts(top_p(0.6)), [0.0, b, 0.0, 0.0]);
        assert_shares(counts(top_p(0.7)), [0.0, b, c, 0.0]);
        assert_eq!(counts(top_p(1.0)), counts(options));
    }

    #[test]
    fn a_seed_draws_the_same_and_zero_temperature_the_greatest() {
        let draw = |seed, temperature| {
            let options = SamplingOptions {
                seed,
                temperature,
                ..SamplingOptions::default()
            };
            let mut sampler = Sampler::new(options);
            let draws = (0..50).map(|_| sampler.draw(&LOGITS));
            draws.collect::<Vec<_>>()
        };
        assert_eq!(draw(3, 1.0), draw(3, 1.0));
        assert_ne!(draw(3, 1.0), draw(4, 1.0));
        assert_eq!(draw(3, 0.0), vec![1; 50]);
    }

    #[test]
    fn what_is_no_number_is_not_drawn() {
        let mut sampler = Sampler::new(SamplingOptions::default());
        for _ in 0..100 {
            assert_eq!(sampler.draw(&[f32::NAN, 0.0, f32::NEG_INFINITY]), 1);
        }
        assert_eq!(sampler.draw(&[f32::INFINITY, 0.0]), 0);
        assert_eq!(sampler.draw(&[f32::NAN; 3]), 0);
    }
}
