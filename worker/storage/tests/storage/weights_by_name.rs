//! Weights from files of other programs, by name.

use std::fs;

use ringfold_storage::{StorageError, check_weights, read_weights};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize};

fn file(dir: &std::path::Path, dtype: Dtype) -> std::path::PathBuf {
    let weight: Vec<u8> = [1.5f32, -2.0]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    let count = 7i64.to_le_bytes();
    let tensors = [
        (
            "fc.weight",
            TensorView::new(dtype, vec![1, 2], &weight).unwrap(),
        ),
        (
            "bn.count",
            TensorView::new(Dtype::I64, vec![], &count).unwrap(),
        ),
    ];
    let path = dir.join("w.safetensors");
    fs::write(&path, serialize(tensors, None).unwrap()).unwrap();
    path
}

#[test]
fn tensors_come_by_name_and_counts_become_floats() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), Dtype::F32);
    let tensors = read_weights(&path, &[("fc.weight", &[1, 2]), ("bn.count", &[])]).unwrap();
    assert_eq!(tensors[0].name, "bn.count");
    assert_eq!(tensors[0].values, [7.0]);
    assert_eq!(tensors[1].values, [1.5, -2.0]);
}

#[test]
fn what_is_missing_too_much_or_of_another_shape_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), Dtype::F32);
    let what = |error| match error {
        StorageError::TensorMissing { name, .. } => format!("missing {name}"),
        StorageError::TensorExtra { name, .. } => format!("extra {name}"),
        StorageError::TensorShape { name, got, .. } => format!("shape {name} {got:?}"),
        other => other.to_string(),
    };
    let named = |expected: &[(&str, &[usize])]| {
        let read = what(read_weights(&path, expected).unwrap_err());
        let expected: Vec<_> = expected.iter().map(|(n, s)| (*n, s.to_vec())).collect();
        // The header alone says the same.
        assert_eq!(what(check_weights(&path, &expected).unwrap_err()), read);
        read
    };
    let count: (&str, &[usize]) = ("bn.count", &[]);
    assert_eq!(named(&[count]), "extra fc.weight");
    assert_eq!(named(&[count, ("fc.w", &[1, 2])]), "missing fc.w");
    assert_eq!(
        named(&[count, ("fc.weight", &[2, 1])]),
        "shape fc.weight [1, 2]"
    );
    let path = file(dir.path(), Dtype::U32);
    let error = read_weights(&path, &[count, ("fc.weight", &[1, 2])]).unwrap_err();
    assert!(matches!(error, StorageError::TensorDtype { name, .. } if name == "fc.weight"));
}

#[test]
fn a_header_says_whether_the_file_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), Dtype::F32);
    let expected = [("fc.weight", vec![1, 2]), ("bn.count", vec![])];
    check_weights(&path, &expected).unwrap();
    let bytes = fs::read(&path).unwrap();
    for len in [0, 7, 8, 20, bytes.len() - 1] {
        fs::write(&path, &bytes[..len]).unwrap();
        let error = check_weights(&path, &expected).unwrap_err();
        assert!(
            matches!(error, StorageError::Weights { .. }),
            "{len}: {error}"
        );
    }
    let mut long = bytes.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, &long).unwrap();
    let error = check_weights(&path, &expected).unwrap_err();
    assert!(matches!(error, StorageError::Weights { .. }), "{error}");
}
