//! Tool calls as models write them: read out of their text, and enforced by a grammar.
//!
//! | format | how a call is written |
//! |---|---|
//! | Hermes, Qwen | `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, as often as wanted |
//! | Llama 3 | `{"name": …, "parameters": {…}}` as the whole answer, more of them after `;` |
//! | Mistral | `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, or `[TOOL_CALLS]name{…}`, or `[TOOL_CALLS]name[ARGS]{…}` |

mod call;
mod enforce;
mod parser;

pub use enforce::{Tool, enforce, guide};
pub use parser::{ToolDelta, ToolParser};

/// How a model writes its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// Hermes and Qwen.
    Hermes,
    /// Llama 3.
    Llama3,
    /// Mistral; all three ways are read.
    Mistral {
        /// Which of them is enforced.
        writes: MistralStyle,
    },
}

/// The ways of Mistral's models, older to newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MistralStyle {
    /// A list of objects.
    List,
    /// A name, `[ARGS]`, and an object.
    Args,
}

impl ToolFormat {
    /// The names of vLLM's `--tool-call-parser` that are known here.
    pub const NAMES: [&'static str; 3] = ["hermes", "llama3_json", "mistral"];

    /// The format that vLLM calls `name`; of Mistral's ways, the one that the template writes.
    #[must_use]
    pub fn named(name: &str, template: &str) -> Option<Self> {
        let args = template.contains("[ARGS]");
        match name {
            "hermes" => Some(Self::Hermes),
            "llama3_json" => Some(Self::Llama3),
            "mistral" => Some(Self::Mistral {
                writes: if args { MistralStyle::Args } else { MistralStyle::List },
            }),
            _ => None,
        }
    }

    /// The format that a chat template teaches its model, if it is one of those known here.
    #[must_use]
    pub fn of_template(template: &str) -> Option<Self> {
        if template.contains("[TOOL_CALLS]") {
            return Self::named("mistral", template);
        }
        // Qwen3-Coder and later put XML between the same markers.
        if template.contains("<tool_call>") && !template.contains("<function=") {
            return Some(Self::Hermes);
        }
        let llama = template.contains("<|start_header_id|>") && template.contains("ipython");
        (llama && template.contains("\"parameters\"")).then_some(Self::Llama3)
    }

    /// Whether calls are marked by control tokens, which a text must show then.
    #[must_use]
    pub fn needs_special_tokens(self) -> bool {
        matches!(self, Self::Mistral { .. } | Self::Llama3)
    }
}
