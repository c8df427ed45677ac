//! Running statistics over ranks, rounds, averages and files.

use ringfold_common::dataset::Target;
use ringfold_common::job::EmaSpec;
use ringfold_compute::Mode;
use ringfold_graph::models::{DATA_LOSS, FEATURES, LABELS, LOGITS, LOSS, PROBABILITIES};
use ringfold_graph::op::{Dense, Softmax, SoftmaxCrossEntropy, Unary};
use ringfold_graph::{DType, Graph, InitialiserScheme, OutputRole, Shape, TensorType, layers};
use ringfold_storage::Tensor;

use super::*;

/// A classifier of four numbers: dense, batch norm, ReLU, dense.
pub(super) fn batch_norm_graph() -> Graph {
    let mut graph = Graph::new("bn", DType::F32).unwrap();
    let float = |dims: &[usize]| TensorType::new(DType::F32, Shape::batched(dims));
    let x = graph.add_input(FEATURES, float(&[4])).unwrap();
    let y = TensorType::new(DType::I32, Shape::batched(&[]));
    let y = graph.add_input(LABELS, y).unwrap();
    let dense = |graph: &mut Graph, name: &str, x, [out, inputs]: [usize; 2]| {
        let scheme = InitialiserScheme::HeNormal;
        let weight = scheme.weight(inputs, out);
        let w = graph
            .add_parameter(
                &format!("{name}.weight"),
                Shape::fixed(&[out, inputs]),
                weight,
            )
            .unwrap();
        let b = graph
            .add_parameter(
                &format!("{name}.bias"),
                Shape::fixed(&[out]),
                scheme.bias(inputs),
            )
            .unwrap();
        graph.apply(Dense::Affine, &[x, w, b]).unwrap()
    };
    let hidden = dense(&mut graph, "first", x, [16, 4]);
    let hidden = layers::batch_norm(&mut graph, "bn", hidden, 1e-5, 0.1).unwrap();
    let hidden = graph.apply(Unary::Relu, &[hidden]).unwrap();
    let logits = dense(&mut graph, "last", hidden, [3, 16]);
    let loss = graph
        .apply(SoftmaxCrossEntropy::Loss, &[logits, y])
        .unwrap();
    let probabilities = graph.apply(Softmax::Plain { axis: 1 }, &[logits]).unwrap();
    for (name, role, value) in [
        (LOSS, OutputRole::Loss, loss),
        (DATA_LOSS, OutputRole::Loss, loss),
        (LOGITS, OutputRole::Prediction, logits),
        (PROBABILITIES, OutputRole::Derived, probabilities),
    ] {
        graph.add_output(name, role, value).unwrap();
    }
    graph
}

/// Trains it in a world of `world`, and reads what rank 0 saved.
fn train_batch_norm(fixture: &Fixture, world: u32) -> (Summary, Vec<Tensor>, Log) {
    let dataset = fixture.dataset();
    let info = dataset.info();
    let mut spec = fixture.spec.clone();
    spec.cluster.workers = world;
    spec.cluster.replicas = world;
    let (log, clock, abort) = (
        Log::default(),
        SystemClock::new(),
        AbortSignal::new().unwrap(),
    );
    let results = run_ring(world, |mut ring| {
        let rank = ring.rank();
        let job = RankJob {
            spec: &spec,
            dataset: &dataset,
            rank,
            world,
            part: &RankPart::of(rank, world, world, info.test_records),
            threads: 1,
        };
        let network =
            Network::from_graph(&batch_norm_graph(), info.features as usize, &info.target, 1)
                .unwrap();
        Run::with_network(
            &job,
            (network, ModelSources::default()),
            &abort,
            &log,
            &clock,
        )?
        .train(&mut ring, &mut None)
    });
    let model = ModelFiles::read(&fixture.dir.path().join("out")).unwrap();
    (summary(results), model.tensors, log)
}

fn tensor<'a>(tensors: &'a [Tensor], name: &str) -> &'a [f32] {
    let found = tensors.iter().find(|tensor| tensor.name == name);
    &found.unwrap().values
}

fn fixture() -> Fixture {
    let mut fixture = Fixture::new(Loss::CrossEntropy);
    fixture.spec.train.check_steps = 1;
    fixture.spec.train.l2 = 0.0;
    fixture
}

#[test]
fn every_rank_holds_the_same_running_statistics_and_they_are_used_and_saved() {
    for world in [1, 2, 3] {
        let fixture = fixture();
        // `check_steps = 1`: a rank whose state differs by a bit fails the job.
        let (summary, tensors, log) = train_batch_norm(&fixture, world);
        assert_eq!(
            tensor(&tensors, "bn.num_batches_tracked"),
            [summary.steps as f32],
            "world {world}"
        );
        assert!(
            tensor(&tensors, "bn.running_mean")
                .iter()
                .any(|&x| x.abs() > 0.05)
        );
        assert!(tensor(&tensors, "bn.running_var").iter().all(|&x| x > 0.0));
        assert!(
            summary.metrics["test_accuracy"] > 0.9,
            "world {world}: {summary:?}"
        );

        // A predictor of the saved tensors evaluates to the same.
        let dataset = fixture.dataset();
        let info = dataset.info();
        let network =
            Network::from_graph(&batch_norm_graph(), info.features as usize, &info.target, 1)
                .unwrap();
        let (parameters, state) = network.load(&tensors).unwrap();
        let evaluated = |state: &[f32]| {
            let sizes = network
                .chunks(0..info.test_records)
                .map(|chunk| (Mode::Evaluation, (chunk.end - chunk.start) as usize));
            evaluate(
                &mut network.plans(sizes).unwrap(),
                &network,
                (&parameters, state),
                (dataset.test(), dataset.scaler()),
                0..info.test_records,
                |_, _| {},
                || Ok(()),
            )
            .unwrap()
            .metrics("test")["test_loss"]
        };
        let last = log.evaluations.lock().unwrap().last().unwrap().metrics["test_loss"];
        assert!((evaluated(&state) - last).abs() < 1e-6);
        let fresh = network.states().initial::<f32>().unwrap();
        assert!((evaluated(&fresh) - last).abs() > 1e-3);
    }
}

/// A round is a part of a step as a rank is one: 16 samples over two ranks, or in two rounds.
#[test]
fn rounds_and_ranks_make_the_same_running_statistics() {
    let mut fixture = fixture();
    fixture.spec.train.duration = TrainDuration::Steps(7);
    let (_, ranks, _) = train_batch_norm(&fixture, 2);
    fixture.spec.train.accumulate = 2;
    let (_, rounds, _) = train_batch_norm(&fixture, 1);
    assert_eq!(ranks.len(), 9);
    for (a, b) in ranks.iter().zip(&rounds) {
        assert_eq!(a.name, b.name);
        for (a, b) in a.values.iter().zip(&b.values) {
            assert!((a - b).abs() < 2e-5 * (1.0 + a.abs()), "{a} {b}");
        }
    }
}

#[test]
fn an_average_of_the_weights_leaves_the_state_as_it_is() {
    let mut fixture = fixture();
    fixture.spec.train.duration = TrainDuration::Steps(20);
    let (_, plain, _) = train_batch_norm(&fixture, 2);
    fixture.spec.train.ema = Some(EmaSpec {
        decay: 0.9,
        warmup: false,
    });
    let (_, averaged, _) = train_batch_norm(&fixture, 2);
    for state in [
        "bn.running_mean",
        "bn.running_var",
        "bn.num_batches_tracked",
    ] {
        assert_eq!(tensor(&plain, state), tensor(&averaged, state), "{state}");
    }
    assert_ne!(
        tensor(&plain, "first.weight"),
        tensor(&averaged, "first.weight")
    );
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let target = Target::Classes(vec!["a".into(), "b".into(), "c".into()]);
    let network = Network::from_graph(&batch_norm_graph(), 4, &target, 1).unwrap();
    let (parameters, state) = (
        network.layout().initial(1).unwrap(),
        network.states().initial().unwrap(),
    );
    let tensors: Vec<Tensor> = network
        .tensors(&parameters, &state)
        .iter()
        .map(|tensor| Tensor {
            name: tensor.name.to_owned(),
            shape: tensor.shape.to_vec(),
            values: tensor.values.to_vec(),
        })
        .collect();
    assert_eq!(
        network.load(&tensors).unwrap().0.as_slice(),
        parameters.as_slice()
    );
    let refused = |change: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = tensors.clone();
        change(&mut tensors);
        network.load(&tensors).unwrap_err().to_string()
    };
    let at = |name: &str| {
        tensors
            .iter()
            .position(|tensor| tensor.name == name)
            .unwrap()
    };
    let mean = at("bn.running_mean");
    assert!(refused(&|t| drop(t.remove(mean))).contains("bn.running_mean"));
    assert!(refused(&|t| t[mean].shape = vec![4, 4]).contains("[4, 4]"));
    assert!(refused(&|t| t[mean].name = "bn.median".into()).contains("bn.median"));
    assert!(refused(&|t| t.push(t[mean].clone())).contains("bn.running_mean"));
}

#[test]
fn statistics_are_the_last_bucket() {
    let mut fixture = fixture();
    let bits = |fixture: &Fixture, world| {
        let (summary, tensors, _) = train_batch_norm(fixture, world);
        let mean = tensor(&tensors, "bn.running_mean").to_vec();
        (summary.weights_blake3, mean)
    };
    fixture.spec.cluster.mode = FoldMode::Reproducible;
    for (world, accumulate) in [(2, 1), (3, 2)] {
        fixture.spec.train.accumulate = accumulate;
        fixture.spec.cluster.overlap = Overlap::Off;
        let expected = bits(&fixture, world);
        fixture.spec.cluster.overlap = Overlap::On;
        for bucket_bytes in [0, 1] {
            fixture.spec.cluster.bucket_bytes = bucket_bytes;
            assert_eq!(bits(&fixture, world), expected, "{world} ranks");
        }
    }
}
