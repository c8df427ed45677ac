//! The file that says what all ranks did when.

use std::collections::BTreeMap;

use super::*;

#[test]
fn a_timeline_has_every_rank_and_what_it_did() {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    let path = fixture.dir.path().join("sub/timeline.json");
    fixture.spec.output.timeline = Some(path.to_str().unwrap().to_owned());
    fixture.spec.cluster.overlap = Overlap::On;
    fixture.spec.cluster.bucket_bytes = 1;
    fixture.spec.cluster.replicas = 6;
    fixture.spec.train.accumulate = 2;
    fixture.spec.train.duration = TrainDuration::Steps(20);
    let ran = summary(fixture.train(3, 1).0);
    let text = std::fs::read_to_string(&path).unwrap();
    let trace: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let mut counts: BTreeMap<(u64, String), usize> = BTreeMap::new();
    for event in trace.iter().filter(|event| event["ph"] != "M") {
        assert!(event["ts"].as_f64().unwrap() >= 0.0, "{event}");
        assert!(event["ph"] != "X" || event["dur"].as_f64().unwrap() >= 0.0);
        let key = (event["pid"].as_u64().unwrap(), event["name"].to_string());
        *counts.entry(key).or_default() += 1;
    }
    // Besides those of gradients one of the loss; the fixture has no running statistics.
    let buckets = ran.execution.buckets as usize + 1;
    assert!(buckets > 2);
    for rank in 0..3 {
        let count = |name: &str| counts[&(rank, format!("{name:?}"))];
        assert_eq!(count("optimizer"), 20);
        assert_eq!(count("wait for sums"), 20);
        assert_eq!(count("bucket"), 20 * buckets);
        assert_eq!(count("bucket waits"), 2 * 20 * buckets);
        // Two replicas, and up to two rounds each.
        assert!(count("backward") > 40 && count("backward") == count("forward"));
        assert!(count("evaluation") >= 1);
    }
    // It changes nothing.
    fixture.spec.output.timeline = None;
    assert_eq!(
        summary(fixture.train(3, 1).0).weights_blake3,
        ran.weights_blake3
    );
}

#[test]
fn a_timeline_that_cannot_be_written_is_found_before_training() {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    let file = fixture.dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    fixture.spec.output.timeline = Some(format!("{}/timeline.json", file.to_str().unwrap()));
    let (results, log) = fixture.train(1, 1);
    let error = results.into_iter().next().unwrap().unwrap_err();
    assert!(error.to_string().contains("file"), "{error}");
    assert!(log.losses().is_empty());
}
