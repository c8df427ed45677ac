//! Jobs whose matrix products take operands rounded to bfloat16.

use super::*;

/// `examples/digits/job.toml` for three epochs.
fn digits(precision: Precision) -> Fixture {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/digits/digits.csv.gz"
    );
    fixture.spec.data.source = DataSource::Csv(CsvSource {
        path: path.to_owned(),
        label: ColumnRef::Index(64),
        header: false,
        delimiter: b',',
    });
    fixture.spec.data.scale = Scale::Divide(16.0);
    fixture.spec.model.architecture = Architecture::Mlp(MlpSpec {
        hidden: vec![256, 128],
        activation: Activation::Relu,
        dropout: 0.0,
        initialiser: Initialiser::HeUniform,
    });
    let train = &mut fixture.spec.train;
    train.duration = TrainDuration::Epochs(3);
    train.global_batch = 64;
    train.optimizer = OptimizerSpec::Adam(AdamOptions::adam(0.002));
    train.l2 = 0.0;
    train.precision = precision;
    fixture
}

#[test]
fn digits_learn_as_in_f32() {
    if let Err(error) = ringfold_compute::cpu::gemm::check_bf16::<f32>() {
        let (mut results, _) = digits(Precision::Bf16).train(1, 1);
        let refused = results.remove(0).unwrap_err();
        assert!(format!("{refused:?}").contains("Bf16"), "{refused:?}");
        println!("skipped: {error}");
        return;
    }
    let [full, bf16] = [Precision::F32, Precision::Bf16].map(|precision| {
        let fixture = digits(precision);
        let (results, log) = fixture.train(1, 1);
        (log.losses(), summary(results).metrics["test_loss"])
    });
    assert_ne!(full.0, bf16.0);
    let apart = full.0.iter().zip(&bf16.0).map(|(a, b)| (a - b).abs());
    let most = apart.fold(0.0, f64::max);
    println!(
        "training losses differ by at most {most}; the test's are {} and {}",
        full.1, bf16.1
    );
    assert!(most < 0.02, "{most}");
    assert!((full.1 - bf16.1).abs() < 0.01);
}
