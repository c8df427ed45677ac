//! Numbers that may be infinite or not numbers at all: a loss that diverged must survive JSON,
//! which has no word for it. A finite number is a number; the others are `"nan"`, `"inf"` and
//! `"-inf"`.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserializer, Serializer};

pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() {
        serializer.serialize_f64(*value)
    } else if value.is_nan() {
        serializer.serialize_str("nan")
    } else if *value > 0.0 {
        serializer.serialize_str("inf")
    } else {
        serializer.serialize_str("-inf")
    }
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    struct AnyFloat;

    impl Visitor<'_> for AnyFloat {
        type Value = f64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number, \"nan\", \"inf\" or \"-inf\"")
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<f64, E> {
            Ok(value)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<f64, E> {
            Ok(value as f64)
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<f64, E> {
            Ok(value as f64)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<f64, E> {
            match text {
                "nan" => Ok(f64::NAN),
                "inf" => Ok(f64::INFINITY),
                "-inf" => Ok(f64::NEG_INFINITY),
                other => Err(E::invalid_value(serde::de::Unexpected::Str(other), &self)),
            }
        }
    }

    deserializer.deserialize_any(AnyFloat)
}

/// The same, for values by name.
pub(super) mod by_name {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Value(#[serde(with = "super")] f64);

    pub(in super::super) fn serialize<S: Serializer>(
        values: &BTreeMap<String, f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(values.iter().map(|(name, value)| (name, Value(*value))))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, f64>, D::Error> {
        let values = BTreeMap::<String, Value>::deserialize(deserializer)?;
        Ok(values
            .into_iter()
            .map(|(name, Value(v))| (name, v))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::ids::{Epoch, Step};
    use crate::job::Evaluation;

    #[test]
    fn a_diverged_metric_survives_json() {
        let metrics = [
            ("finite", 0.25),
            ("inf", f64::INFINITY),
            ("minus", f64::NEG_INFINITY),
            ("nan", f64::NAN),
            ("whole", 3.0),
        ];
        let metrics: BTreeMap<_, _> = metrics.map(|(name, value)| (name.to_owned(), value)).into();
        let evaluation = Evaluation {
            step: Step(1),
            epoch: Epoch(0),
            records: 1,
            metrics,
        };
        let json = serde_json::to_string(&evaluation).unwrap();
        let back: Evaluation = serde_json::from_str(&json).unwrap();
        assert!(back.metrics["nan"].is_nan(), "{json}");
        for name in ["finite", "inf", "minus", "whole"] {
            assert_eq!(back.metrics[name], evaluation.metrics[name], "{json}");
        }
        assert!(serde_json::from_str::<Evaluation>(&json.replace("\"nan\",", "\"x\",")).is_err());
    }
}
