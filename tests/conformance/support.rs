//! Reading golden files, and the comparison.

use std::path::Path;

use ringfold_compute::Element;
use serde_json::Value;

/// The parsed file `golden/NAME`.
pub fn read(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("conformance/golden")
        .join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A list of floats.
pub fn floats<T: Element>(value: &Value) -> Vec<T> {
    let list = value.as_array().expect("a list");
    let number = |x: &Value| T::from_f64(x.as_f64().expect("a number"));
    list.iter().map(number).collect()
}

/// A list of integers.
pub fn ints(value: &Value) -> Vec<i32> {
    let list = value.as_array().expect("a list");
    let number = |x: &Value| i32::try_from(x.as_i64().expect("an integer")).expect("32 bits");
    list.iter().map(number).collect()
}

/// A list of sizes.
pub fn sizes(value: &Value) -> Vec<usize> {
    ints(value).into_iter().map(|n| n as usize).collect()
}

/// Fails where `|got - expected| > tolerance · (1 + |expected|)`.
pub fn assert_close<T: Element>(what: &str, got: &[T], expected: &[T], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let (got, expected) = (got.to_f64(), expected.to_f64());
        let error = (got - expected).abs() / (1.0 + expected.abs());
        assert!(
            error <= tolerance,
            "{what}[{i}]: expected {expected}, got {got} (error {error:e})"
        );
    }
}
