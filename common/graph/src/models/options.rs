//! Checks of options that models have in common.

use super::{LAYERS_MAX, UNITS_MAX};
use crate::error::GraphError;

/// The error of an option.
pub(super) fn refuse(
    option: &'static str,
    expected: &'static str,
    got: impl ToString,
) -> GraphError {
    GraphError::ModelOption {
        option,
        expected,
        got: got.to_string(),
    }
}

fn check(
    ok: bool,
    option: &'static str,
    expected: &'static str,
    got: impl ToString,
) -> Result<(), GraphError> {
    if ok {
        return Ok(());
    }
    Err(refuse(option, expected, got))
}

/// Sizes of dimensions: 1 to [`UNITS_MAX`].
pub(super) fn check_sizes(sizes: &[(&'static str, usize)]) -> Result<(), GraphError> {
    let mut sizes = sizes.iter();
    sizes.try_for_each(|&(option, size)| {
        check(
            (1..=UNITS_MAX).contains(&size),
            option,
            "1 to 16777216",
            size,
        )
    })
}

/// A number of layers, from `min` to [`LAYERS_MAX`].
pub(super) fn check_layers(
    option: &'static str,
    layers: usize,
    min: usize,
) -> Result<(), GraphError> {
    let expected = if min == 0 {
        "at most 1024 layers"
    } else {
        "1 to 1024 layers"
    };
    check(
        (min..=LAYERS_MAX).contains(&layers),
        option,
        expected,
        layers,
    )
}

/// The share of elements that dropout zeroes.
pub(super) fn check_dropout(option: &'static str, rate: f64) -> Result<(), GraphError> {
    let ok = (0.0..1.0).contains(&rate);
    check(ok, option, "a number in [0, 1)", rate)
}

/// The factor of the penalty on weights.
pub(super) fn check_l2(l2: f64) -> Result<(), GraphError> {
    let ok = l2.is_finite() && l2 >= 0.0;
    check(ok, "l2", "a finite number of at least 0", l2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_named() {
        let named = |result: Result<(), GraphError>| result.map_err(|error| error.field());
        assert_eq!(check_sizes(&[("width", 1), ("heads", UNITS_MAX)]), Ok(()));
        for size in [0, UNITS_MAX + 1] {
            let sizes = [("width", 1), ("heads", size)];
            assert_eq!(named(check_sizes(&sizes)), Err("model.heads".to_owned()));
        }
        assert_eq!(check_layers("hidden", 0, 0), Ok(()));
        assert_eq!(check_layers("layers", LAYERS_MAX, 1), Ok(()));
        for (layers, min) in [(0, 1), (LAYERS_MAX + 1, 0)] {
            let result = check_layers("layers", layers, min);
            assert_eq!(named(result), Err("model.layers".to_owned()));
        }
        assert_eq!(check_dropout("dropout", 0.0), Ok(()));
        for rate in [-0.1, 1.0, f64::NAN] {
            let field = "model.dropout".to_owned();
            assert_eq!(named(check_dropout("dropout", rate)), Err(field));
        }
        assert_eq!(check_l2(0.0), Ok(()));
        for l2 in [-1.0, f64::INFINITY, f64::NAN] {
            assert_eq!(named(check_l2(l2)), Err("train.l2".to_owned()));
        }
    }
}
