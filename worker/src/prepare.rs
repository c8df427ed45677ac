//! Getting ready to join a job that runs: its data is loaded beside whatever else the host does.

use ringfold_collective::AbortSignal;
use ringfold_common::clock::UnixMillis;
use ringfold_common::dataset::DatasetInfo;
use ringfold_common::ids::{JobId, SpecHash};
use ringfold_common::job::JobSpec;
use ringfold_proto::v1::session_request::Message;
use ringfold_proto::{FieldError, required_field, required_hash, v1};
use tokio::sync::oneshot;

use crate::data::JobData;
use crate::kept::Key;
use crate::rank::RankContext;

/// What the coordinator asks a slot to get ready for, checked on receive.
#[derive(Clone, Debug)]
pub(crate) struct Preparation {
    job: JobId,
    submitted: UnixMillis,
    spec: JobSpec,
    dataset: DatasetInfo,
    spec_hash: SpecHash,
}

impl TryFrom<v1::Prepare> for Preparation {
    type Error = FieldError;

    fn try_from(prepare: v1::Prepare) -> Result<Self, FieldError> {
        Ok(Self {
            job: JobId(prepare.job),
            submitted: UnixMillis(prepare.submitted_unix_ms),
            spec: required_field(prepare.spec, "spec")?.try_into()?,
            dataset: required_field(prepare.dataset, "dataset")?.try_into()?,
            spec_hash: SpecHash(required_hash(&prepare.spec_hash, "spec_hash")?),
        })
    }
}

/// A slot that gets ready.
pub(crate) struct Preparing {
    abort: AbortSignal,
    ended: oneshot::Receiver<()>,
}

impl Preparing {
    /// Starts a thread that loads the data, keeps it, and says so.
    ///
    /// # Errors
    /// If the system has no thread, or no descriptors, left.
    pub fn start(preparation: Preparation, context: RankContext) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("can't get ready: {error}");
        let abort = AbortSignal::new().map_err(|error| failed(&error))?;
        let (ended_sender, ended) = oneshot::channel();
        let stop = abort.clone();
        std::thread::Builder::new()
            .name(format!("prepare-{}", preparation.job.0))
            .spawn(move || {
                preparation.run(&context, &stop);
                let _ = ended_sender.send(());
            })
            .map_err(|error| failed(&error))?;
        Ok(Self { abort, ended })
    }

    /// Stops it, if it has not ended yet.
    pub async fn stop(mut self, reason: &str) {
        self.abort.abort(reason);
        let _ = (&mut self.ended).await;
    }
}

impl Preparation {
    fn run(&self, context: &RankContext, abort: &AbortSignal) {
        let key = Key::new(self.job, self.submitted, self.spec_hash);
        let mut kept = context.shelf.take(key);
        let mut error = String::new();
        if kept.dataset.is_none() {
            let data = JobData {
                spec: &self.spec,
                dataset: &self.dataset,
                spec_hash: self.spec_hash,
            };
            match data.load(abort) {
                Ok(dataset) => kept.dataset = Some(dataset),
                Err(cause) => error = cause.to_string(),
            }
        }
        context.shelf.put(key, kept);
        if abort.reason().is_none() {
            let prepared = v1::Prepared {
                job: self.job.0,
                error,
            };
            // A session that has ended takes nothing.
            let _ = context.outgoing.blocking_send(v1::SessionRequest {
                message: Some(Message::Prepared(prepared)),
            });
        }
    }
}

/// Says that a slot can't get ready at all.
pub(crate) fn refusal(job: u64, error: &dyn std::fmt::Display) -> Message {
    Message::Prepared(v1::Prepared {
        job,
        error: error.to_string(),
    })
}
