//! `[model]` of networks over text.

use super::{SpecError, check, check_count, check_share, limits};
use crate::job::{Architecture, DataSource, GptSpec, LstmSpec};

pub(super) fn validate_gpt(gpt: &GptSpec) -> Result<(), SpecError> {
    let layers_max = limits::TEXT_LAYERS_MAX.into();
    let width_max = limits::WIDTH_MAX.into();
    check_count("model.layers", gpt.layers.into(), 1, layers_max)?;
    check_count("model.width", gpt.width.into(), 1, width_max)?;
    check(
        gpt.heads > 0 && gpt.width.is_multiple_of(gpt.heads),
        "model.heads",
        gpt.heads,
        format!("a divisor of model.width ({})", gpt.width),
    )?;
    check_share("model.dropout", gpt.dropout)?;
    check_share("model.attention_dropout", gpt.attention_dropout)
}

pub(super) fn validate_lstm(lstm: &LstmSpec) -> Result<(), SpecError> {
    let layers_max = limits::TEXT_LAYERS_MAX.into();
    let width_max = limits::WIDTH_MAX.into();
    check_count("model.embedding", lstm.embedding.into(), 0, width_max)?;
    check_count("model.hidden", lstm.hidden.into(), 1, width_max)?;
    check_count("model.layers", lstm.layers.into(), 1, layers_max)?;
    check_share("model.dropout", lstm.dropout)
}

/// Networks over text take text, and others don't.
pub(super) fn validate_kind(model: &Architecture, data: &DataSource) -> Result<(), SpecError> {
    let is_text = matches!(data, DataSource::Text(_));
    if let Architecture::Lstm(lstm) = model {
        return check(
            lstm.takes_text() == is_text,
            "model.embedding",
            match lstm.embedding {
                0 => "missing or 0".to_owned(),
                embedding => embedding.to_string(),
            },
            if is_text {
                "a whole number from 1, for data.format \"text\""
            } else {
                "none, unless data.format is \"text\": numbers have no embedding"
            },
        );
    }
    check(
        model.takes_text() == is_text,
        "model.kind",
        format!("{:?}", model.kind()),
        if is_text {
            "\"gpt\" or \"lstm\" for data.format \"text\""
        } else {
            "a model of numbers, such as \"mlp\", unless data.format is \"text\""
        },
    )
}
