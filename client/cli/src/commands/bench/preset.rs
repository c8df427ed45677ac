//! The models of `ringfold bench train`, as job files have them.

use crate::args::BenchModel;

/// The records that a model takes.
pub enum Data {
    /// Bytes of these dimensions, with a class.
    Images {
        /// Channels, rows, columns; or less.
        dims: &'static [u32],
        /// Classes.
        classes: u32,
    },
    /// Windows of a text.
    Text {
        /// Characters of a window.
        context: u32,
        /// Different characters, at most 75.
        letters: u32,
    },
}

/// A model with what it is trained on.
pub struct Preset {
    /// `[model]`.
    pub model: &'static str,
    /// `[train.optimizer]`.
    pub optimizer: &'static str,
    /// The records.
    pub data: Data,
    /// Samples of a step, unless the user says otherwise.
    pub batch: u32,
    /// Steps, likewise.
    pub steps: u64,
}

const SGD: &str = "[train.optimizer]\nkind = \"sgd\"\nlearning_rate = 0.001\nmomentum = 0.9\n";
const ADAMW: &str = "[train.optimizer]\nkind = \"adamw\"\nlearning_rate = 0.0003\n";

impl Preset {
    pub fn of(model: BenchModel) -> Self {
        let images = |dims| Data::Images { dims, classes: 10 };
        let (model, data, batch, steps) = match model {
            BenchModel::Mlp => (
                "[model]\nkind = \"mlp\"\nhidden = [512, 512]\nloss = \"cross_entropy\"",
                images(&[28, 28]),
                128,
                1000,
            ),
            BenchModel::Cnn => (
                "[model]\nkind = \"cnn\"\nloss = \"cross_entropy\"",
                images(&[1, 28, 28]),
                128,
                100,
            ),
            BenchModel::Resnet18 => (
                "[model]\nkind = \"resnet18\"\nstem = \"cifar\"\nloss = \"cross_entropy\"",
                images(&[3, 32, 32]),
                64,
                20,
            ),
            BenchModel::Softmax => (
                "[model]\nkind = \"softmax\"\nloss = \"cross_entropy\"",
                images(&[1000]),
                256,
                2000,
            ),
            BenchModel::Gpt => (
                "[model]\nkind = \"gpt\"\nlayers = 6\nheads = 6\nwidth = 384",
                Data::Text {
                    context: 256,
                    letters: 65,
                },
                8,
                20,
            ),
        };
        let optimizer = match data {
            Data::Images { .. } => SGD,
            Data::Text { .. } => ADAMW,
        };
        Self {
            model,
            optimizer,
            data,
            batch,
            steps,
        }
    }

    /// `[data]`.
    pub fn data_table(&self) -> String {
        match self.data {
            Data::Images { .. } => "[data]\nformat = \"idx\"\nimages = \"images\"\n\
                                    labels = \"labels\"\nscale = { divide = 255.0 }"
                .to_owned(),
            Data::Text { context, .. } => format!(
                "[data]\nformat = \"text\"\npath = \"text\"\ntokeniser = \"character\"\n\
                 context = {context}"
            ),
        }
    }
}
