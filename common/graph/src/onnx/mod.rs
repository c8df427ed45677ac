//! ONNX models in and out, opset 13 to 28.
//!
//! # Reading
//! [`read`] takes the bytes of a `ModelProto` and gives an [`Imported`]: a forward [`Graph`], the
//! initial values of its parameters and states, and a [`Report`] of what became of each initializer.
//! It is pure: data in other files come from the caller's [`Resolver`], or are an error that names the
//! tensor.
//!
//! - **Nodes.** Those that the chosen outputs depend on. An operator, an attribute or a use of them
//!   that Ringfold lacks is [`OnnxError::Unsupported`]: it names node, operator and opset.
//! - **Dimensions.** The first dimension of an input is the batch if it has a name or no number; any
//!   other dynamic dimension needs a number in [`ReadOptions::dims`]. What is computed from shapes is
//!   computed while reading; the batch stays a symbol in it, which may be multiplied, divided where
//!   that leaves no rest, and compared with what isn't a size.
//! - **Samples** stay apart, so that a batch may be cut into parts: whole batches are joined and cut along
//!   the first dimension (two views of each sample, say); a slice, margin or index of single samples is
//!   an error that says so. Where every dimension has a number there is no batch, and all is allowed.
//! - **Initializers** of 32-bit floats become parameters, in this order of precedence:
//!   those that match [`ReadOptions::freeze`] are constants; those that match [`ReadOptions::train`]
//!   are parameters; buffers by PyTorch's own notes are constants, and so are tensors with a number that
//!   isn't finite (masks), and single numbers in arithmetic that nothing calls a parameter (neither
//!   PyTorch's notes nor a name that ends in `weight` or `bias`). Everything else is a parameter,
//!   but for the ones and zeros of an instance normalisation that nothing calls parameters. Running
//!   statistics of batch normalisation are states. Exporters merge equal initializers, and PyTorch's
//!   may copy a shared one: what is shared in training is what is shared in the file.
//! - **Training.** Dropout and batch normalisation are active in training, whatever mode the model was
//!   exported in. New running statistics use the unbiased variance, as PyTorch's.
//! - **Jobs.** [`read_for_job`] puts rows of features before a model and a job's loss behind it.
//! - **Limits.** [`MODEL_BYTES_MAX`], [`ITEMS_MAX`], [`TENSORS_MAX`], [`FOLDED_ELEMENTS_MAX`],
//!   [`FOLDED_TOTAL_MAX`], [`RANK_MAX`].
//!
//! Messages are decoded by hand and not with prost: they borrow from the file, and one budget bounds what
//! a few hostile bytes can become, where prost takes some 200 bytes for each empty message of two.
//!
//! [`Graph`]: crate::Graph

mod error;
mod export;
mod import;
mod job;
mod known;
mod loss;
mod names;
mod proto;
#[cfg(test)]
mod tests;
mod wire;

pub use self::error::OnnxError;
pub use self::export::{OPSET_WRITTEN, Scaling, write, write_scaled};
pub use self::import::{Imported, ImportedTensor, Notice, ReadOptions, Report, TensorKind, read};
pub use self::job::read_for_job;
pub use self::known::{
    ElementType, FOLDED_ELEMENTS_MAX, FOLDED_TOTAL_MAX, RANK_MAX, Resolver, Tensor,
};
pub use self::loss::{Loss, append_loss};
pub use self::proto::{External, ITEMS_MAX, MODEL_BYTES_MAX, TENSORS_MAX};

/// The oldest operator set that is read.
pub const OPSET_MIN: i64 = 13;
/// The newest operator set that is read.
pub const OPSET_MAX: i64 = 28;

/// A tensor from a file of its own, a `TensorProto`; with its name.
///
/// # Errors
/// Broken bytes, elements that aren't read, data in another file.
pub fn read_tensor(bytes: &[u8]) -> Result<(String, Tensor), OnnxError> {
    let tensor = proto::Tensor::decode(bytes)?;
    Ok((tensor.name.to_owned(), known::decode(&tensor, None)?))
}

/// The names of a model's inputs in order, those that are initializers left out.
///
/// # Errors
/// Broken bytes, or what is over a cap.
pub fn inputs(bytes: &[u8]) -> Result<Vec<String>, OnnxError> {
    let model = proto::Model::decode(bytes)?;
    let Some(graph) = model.graph else {
        return Ok(Vec::new());
    };
    let initializers = graph.initializers.iter().map(|tensor| tensor.name);
    let initializers: std::collections::BTreeSet<&str> = initializers.collect();
    let names = graph.inputs.iter().map(|info| info.name);
    let own = names.filter(|name| !initializers.contains(name));
    Ok(own.map(str::to_owned).collect())
}
