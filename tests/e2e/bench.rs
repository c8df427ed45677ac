//! `ringfold bench`.

use crate::support::{args, ringfold};

#[test]
fn the_all_reduce_is_measured_over_every_transport() {
    let none: &[&str] = &[];
    for (transport, mode, more) in [
        ("shm", "fast", none),
        ("shm", "reproducible", none),
        ("tcp", "reproducible", none),
        ("tcp", "fast", none),
        ("tcp", "fast", &["--tls"][..]),
        ("tcp", "fast", &["--hosts", "a,a,b"][..]),
        ("mem", "fast", none),
    ] {
        let output = ringfold(&args(&[
            &["bench", "allreduce", "--json", "--bytes", "64,4096"],
            &[
                "--seconds",
                "0.01",
                "--transport",
                transport,
                "--mode",
                mode,
            ],
            &["--ranks", "3", "--explain"],
            more,
        ]))
        .succeeded();
        let lines = output.json_lines();
        let bytes: Vec<_> = lines.iter().map(|line| line["bytes"].as_u64()).collect();
        assert_eq!(bytes, [Some(64), Some(4096)], "{output}");
        for key in [
            "median_us",
            "p90_us",
            "algbw_gbps",
            "busbw_gbps",
            "copy_gbps",
        ] {
            let values = lines.iter().map(|line| line[key].as_f64());
            assert!(
                values.flatten().filter(|&value| value > 0.0).count() == 2,
                "{key}: {output}"
            );
        }
        assert!(
            output
                .stderr
                .contains("all-reduce of 4096 bytes over 3 ranks"),
            "{output}"
        );
    }
}

#[test]
fn compressed_sums_are_measured_with_the_bytes_that_they_save() {
    for (kind, transport, sent) in [
        ("bf16", "shm", 4096),
        ("f16", "tcp", 4096),
        ("int8=128", "mem", 2 * (1024 + 4 * 8)),
        ("topk=0.5", "tcp", 8 * 1024),
        // One matrix of 45 by 45, and 23 numbers.
        ("powersgd=2", "shm", 4 * (23 + 2 * 45 + 2 * 45)),
    ] {
        let output = ringfold(&args(&[
            &["bench", "allreduce", "--json", "--bytes", "8192"],
            &["--seconds", "0.01", "--transport", transport],
            &["--ranks", "2", "--compression", kind],
        ]))
        .succeeded();
        let line = output.json();
        assert_eq!(line["sent_bytes"], sent, "{output}");
        assert_eq!(line["saved_bytes"], 8192 - sent, "{output}");
        assert!(line["median_us"].as_f64().is_some_and(|us| us > 0.0));
    }
}

#[test]
fn what_can_not_be_measured_is_refused() {
    for (flags, expected) in [
        (["--bytes", "6"], "--bytes: expected multiples of 4"),
        (["--seconds", "0"], "--seconds: expected a number above 0"),
        (
            ["--replicas", "1"],
            "--replicas: expected at least as many as ranks",
        ),
        (["--tls", "--json"], "--tls: expected --transport tcp"),
        (["--hosts", "a,b"], "--hosts: expected a name for each rank"),
    ] {
        let error = ringfold(&args(&[&["bench", "allreduce"], &flags])).error(2);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn training_steps_are_measured_with_their_share_of_the_peak() {
    let flags = [
        "bench", "train", "--json", "--model", "softmax", "--steps", "20",
    ];
    for cluster in [
        ["--workers", "2", "--threads", "1"],
        ["--workers", "1", "--threads", "2"],
    ] {
        let output = ringfold(&args(&[&flags, &cluster, &["--replicas", "2"]])).succeeded();
        let line = output.json();
        assert_eq!(
            (&line["model"], &line["batch"]),
            (&"softmax".into(), &256.into())
        );
        // 256 rows of 1,000 pixels to 10 classes: a product forward and one backward.
        let flops = line["flops_per_sample"].as_f64().expect("a number");
        assert!((40_000.0..42_000.0).contains(&flops), "{output}");
        for key in [
            "samples_per_second",
            "peak_gflops",
            "peak_share",
            "arena_bytes",
            "parameters_bytes",
        ] {
            assert!(
                line[key].as_f64().is_some_and(|value| value > 0.0),
                "{key}: {output}"
            );
        }
    }
    let error = ringfold(&[
        "bench",
        "train",
        "--model",
        "softmax",
        "--set",
        "nonsense=1",
    ])
    .error(2);
    assert!(error.contains("nonsense"), "{error}");
}
