//! Rotary position embedding: which frequencies, from whichever of the two spellings the configuration uses.
//!
//! transformers 5 writes one object, `rope_parameters`; 4.x wrote `rope_theta`, `partial_rotary_factor` and
//! `rope_scaling` side by side, and GPT-NeoX `rotary_emb_base` and `rotary_pct`. Kinds that change with the length of the
//! sequence (dynamic, longrope) would make a token's key depend on what comes later, and are refused by name, as is every
//! kind that no golden answer pins.

use std::f64::consts::TAU;

pub use folio_kernels::RopeStyle;

use crate::error::ModelError;
use crate::fields::Fields;
use crate::spec::bounds;

/// The rotation of queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// How many channels of a head turn: the first ones; even.
    pub dims: usize,
    /// Which two channels turn together.
    pub style: RopeStyle,
    /// How wavelengths were stretched after training.
    pub scaling: RopeScaling,
}

/// How wavelengths were stretched to reach a longer context.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All alike.
    Linear {
        /// By how much.
        factor: f64,
    },
    /// Each by its own factor, one per pair of channels.
    PerPair(Vec<f32>),
    /// Long ones by `factor`, short ones not, and a ramp between.
    Llama3 {
        /// By how much.
        factor: f64,
        /// Wavelengths above `original_context / low_frequency` are stretched in full.
        low_frequency: f64,
        /// Wavelengths below `original_context / high_frequency` stay.
        high_frequency: f64,
        /// The context before stretching.
        original_context: f64,
    },
}

/// What a family assumes when the configuration is silent.
#[derive(Clone, Copy, Debug)]
pub struct RopeDefaults {
    /// Share of a head's channels that turn.
    pub partial: f64,
}

impl Rope {
    /// Reads either spelling.
    ///
    /// # Errors
    /// Unknown kinds and values out of range, by field.
    pub fn read(
        config: &Fields,
        head_dim: usize,
        defaults: RopeDefaults,
    ) -> Result<Self, ModelError> {
        let new = config.object("rope_parameters", "rope_parameters.")?;
        let scaling = match &new {
            Some(_) => None,
            None => config.object("rope_scaling", "rope_scaling.")?,
        };
        let none = Fields::none("config.json");
        let nested = new.as_ref().or(scaling.as_ref()).unwrap_or(&none);
        if let Some(layer_type) = nested.objects().next() {
            return Err(ModelError::config(
                "rope_parameters",
                format!("holds one set per layer type (`{layer_type}`), which is not supported"),
            ));
        }
        let theta = first_positive(
            &[(nested, "rope_theta"), (config, "rope_theta"), (config, "rotary_emb_base")],
            1e18,
        )?;
        let partial = first_positive(
            &[
                (nested, "partial_rotary_factor"),
                (config, "partial_rotary_factor"),
                (config, "rotary_pct"),
            ],
            1.0,
        )?;
        Ok(Self {
            theta: theta.unwrap_or(10_000.0),
            dims: share(head_dim, partial.unwrap_or(defaults.partial)),
            style: RopeStyle::Half,
            scaling: RopeScaling::read(nested)?,
        })
    }

    /// Checks what depends on the head and on the context.
    ///
    /// # Errors
    /// When the turning channels are none or odd in number, or an angle would be no number.
    #[expect(
        clippy::cast_precision_loss,
        reason = "where they are used, far positions are rounded, too"
    )]
    pub fn check(&self, head_dim: usize, context: usize) -> Result<(), ModelError> {
        if self.dims == 0 || !self.dims.is_multiple_of(2) || self.dims > head_dim {
            return Err(ModelError::config(
                "partial_rotary_factor",
                format!(
                    "makes {} of a head's {head_dim} channels turn; an even number is needed",
                    self.dims
                ),
            ));
        }
        if let RopeScaling::PerPair(factors) = &self.scaling
            && factors.len() != self.dims / 2
        {
            return Err(ModelError::config(
                "rope_scaling",
                format!("has {} factors for {} pairs of channels", factors.len(), self.dims / 2),
            ));
        }
        if !self.frequencies().iter().all(|frequency| (frequency * context as f32).is_finite()) {
            return Err(ModelError::config(
                "rope_parameters",
                "makes angles that are no finite numbers; its base or a factor of its scaling is too small",
            ));
        }
        Ok(())
    }

    /// Radians per position of each pair of channels, `dims / 2` of them.
    ///
    /// Rounded where the reference rounds: the angles of far positions inherit it.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "rounding to f32 is the point; dims is at most 512"
    )]
    pub fn frequencies(&self) -> Vec<f32> {
        (0..self.dims / 2)
            .map(|pair| {
                let exponent = (2 * pair) as f32 / self.dims as f32;
                let plain = 1.0 / (self.theta.powf(f64::from(exponent)) as f32);
                self.scaling.apply(pair, f64::from(plain)) as f32
            })
            .collect()
    }
}

impl RopeScaling {
    fn read(nested: &Fields) -> Result<Self, ModelError> {
        let kind = match nested.text("rope_type")? {
            Some(kind) => kind,
            None => nested.text("type")?.unwrap_or("default"),
        };
        let positive = |field: &str| {
            let value = nested.positive(field, 1e9)?;
            nested.required(field, value)
        };
        match kind {
            "default" => Ok(Self::None),
            "linear" => Ok(Self::Linear { factor: positive("factor")? }),
            "llama3" => {
                let scaling = Self::Llama3 {
                    factor: positive("factor")?,
                    low_frequency: positive("low_freq_factor")?,
                    high_frequency: positive("high_freq_factor")?,
                    original_context: positive("original_max_position_embeddings")?,
                };
                if positive("high_freq_factor")? <= positive("low_freq_factor")? {
                    return Err(ModelError::config(
                        "rope_scaling.high_freq_factor",
                        "must be above low_freq_factor",
                    ));
                }
                Ok(scaling)
            }
            other => Err(ModelError::config(
                "rope_type",
                format!(
                    "is `{other}`, which is not supported; `default`, `linear` and `llama3` are"
                ),
            )),
        }
    }

    fn apply(&self, pair: usize, frequency: f64) -> f64 {
        match self {
            Self::None => frequency,
            Self::PerPair(factors) => frequency / f64::from(factors[pair]),
            Self::Linear { factor } => frequency / factor,
            &Self::Llama3 { factor, low_frequency, high_frequency, original_context } => {
                let turns = original_context * frequency / TAU;
                if turns < low_frequency {
                    frequency / factor
                } else if turns > high_frequency {
                    frequency
                } else {
                    let smooth = (turns - low_frequency) / (high_frequency - low_frequency);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

fn first_positive(places: &[(&Fields, &str)], most: f64) -> Result<Option<f64>, ModelError> {
    for (fields, name) in places {
        if let Some(value) = fields.positive(name, most)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// `whole · part`, rounded down, for `part` in `(0, 1]`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "whole is at most HEAD_DIM squared and part at most one"
)]
fn share(whole: usize, part: f64) -> usize {
    debug_assert!(whole <= bounds::WIDTH);
    (whole as f64 * part) as usize
}
