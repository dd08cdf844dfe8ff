//! What tools mean for prompt, output and answer, however an endpoint spells them.

use folio_core::params::Params;
use folio_text::{Tool, ToolFormat, enforce, guide};
use serde_json::{Map, Value, json};

use crate::error::{ApiError, quote};
use crate::generate::reading::Reading;
use crate::request::structured::{Wanted, refuse_beams};
use crate::state::Served;

/// The most tools of a request, as OpenAI bounds it.
const MOST_TOOLS: usize = 128;
/// The longest name of a tool, in bytes.
const LONGEST_NAME: usize = 64;

/// The tools of a request.
#[derive(Debug)]
pub(crate) struct Declared {
    /// As the template sees them.
    shown: Value,
    list: Vec<Tool>,
}

/// Which tools are to be called.
#[derive(Debug)]
pub(crate) enum Choice {
    /// None; the template shows them all the same.
    None,
    /// As the model likes.
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named {
        /// The tool's.
        name: String,
        /// The field it was named in.
        field: &'static str,
    },
}

/// What a request says about tools, thoughts and the form of its answer.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) tools: Option<Declared>,
    pub(crate) choice: Option<Choice>,
    /// Whether there may be more than one call.
    pub(crate) parallel: bool,
    pub(crate) shows_reasoning: bool,
    /// The most tokens of thoughts.
    pub(crate) thoughts: Option<u32>,
    /// The grammar of the answer.
    pub(crate) wanted: Option<Wanted>,
}

/// What is expected of an answer.
#[derive(Debug)]
pub(crate) struct Answering {
    /// How it is read.
    pub(crate) reading: Reading,
    /// What it has to be.
    pub(crate) wanted: Option<Wanted>,
    /// The most tokens of thoughts before it.
    pub(crate) thoughts: Option<u32>,
}

/// What is asked, as the tools that the template shows and what is expected of the answer.
///
/// # Errors
/// 400 that names the first field that cannot be served with this model.
pub(crate) fn plan(
    asked: Asked,
    params: &Params,
    served: &Served,
) -> Result<(Option<Value>, Answering), ApiError> {
    let Asked { tools, choice, parallel, shows_reasoning, thoughts, wanted } = asked;
    let reasoning = served.texts.reasoning;
    let reading = Reading { reasoning, shows_reasoning, ..Reading::default() };
    let Some(Declared { shown, list }) = tools else {
        return match choice {
            None | Some(Choice::None) => Ok((None, Answering { reading, wanted, thoughts })),
            Some(_) => Err(ApiError::field("tool_choice", "needs `tools`")),
        };
    };
    let tools = Some(shown);
    let (list, named) = match choice.unwrap_or(Choice::Auto) {
        Choice::None => return Ok((tools, Answering { reading, wanted, thoughts })),
        Choice::Auto => {
            let format = served.texts.tools.ok_or_else(|| {
                ApiError::field(
                    "tool_choice",
                    "cannot be `auto`: how this model writes its calls is not known; start the server with \
                     --tool-call-parser, or demand a call",
                )
            })?;
            let reading = Reading { tools: Some(format), parallel, ..reading };
            let wanted = match wanted {
                None if list.iter().any(|tool| tool.strict) => {
                    refuse_beams(params, "tools")?;
                    guide(format, &list, &served.texts.tokenizer)
                        .map_err(|error| ApiError::field("tools", error.to_string()))?
                        .map(|grammar| Wanted::whole("tools", grammar))
                }
                // Whatever it is, it leaves no room for calls.
                own => own,
            };
            return Ok((tools, Answering { reading, wanted, thoughts }));
        }
        Choice::Required => (list, false),
        Choice::Named { name, field } => {
            let only: Vec<Tool> = list.into_iter().filter(|tool| tool.name == name).collect();
            if only.is_empty() {
                let problem = format!("is {}, which is none of `tools`", quote(&name));
                return Err(ApiError::field(field, problem));
            }
            (only, true)
        }
    };
    // Clients send a format along for what is said; here nothing is.
    if wanted.is_some_and(|wanted| !wanted.is_format) {
        let problem = "cannot be combined with `structured_outputs` unless it is `auto` or `none`";
        return Err(ApiError::field("tool_choice", problem));
    }
    refuse_beams(params, "tool_choice")?;
    // Whatever the model is used to, a grammar makes it write this one.
    let format = served.texts.tools.unwrap_or(ToolFormat::Llama3);
    let parallel = parallel && !named;
    let grammar = enforce(format, &list, parallel, &served.texts.tokenizer)
        .map_err(|error| ApiError::field("tools", error.to_string()))?;
    let reading = Reading { tools: Some(format), parallel, named, ..reading };
    let wanted = Some(Wanted::whole("tools", grammar));
    Ok((tools, Answering { reading, wanted, thoughts }))
}

/// How an endpoint writes down one tool: from the value of `tools[i]`, named by the second argument, to its function.
pub(crate) type ReadTool = fn(&Value, &str) -> Result<Tool, ApiError>;

/// The tools of a list, each read by `read`; `None` of an empty list.
///
/// # Errors
/// 400 that names the first member that is wrong.
pub(crate) fn declared(tools: Value, read: ReadTool) -> Result<Option<Declared>, ApiError> {
    let Value::Array(given) = &tools else {
        return Err(ApiError::field("tools", "must be a list"));
    };
    if given.len() > MOST_TOOLS {
        let count = given.len();
        return Err(ApiError::field("tools", format!("has {count} entries; at most {MOST_TOOLS}")));
    }
    let numbered = given.iter().enumerate();
    let list: Result<Vec<Tool>, ApiError> =
        numbered.map(|(index, tool)| read(tool, &format!("tools[{index}]"))).collect();
    let list = list?;
    Ok((!list.is_empty()).then_some(Declared { shown: tools, list }))
}

impl Declared {
    /// As the template sees them.
    pub(crate) fn shown(self) -> Value {
        self.shown
    }

    /// The same in the words of chat, which are those that templates know.
    pub(crate) fn in_words_of_chat(self, parameters: &str) -> Self {
        let in_chat = |tool: &Value| {
            let members = ["name", "description"].map(|name| (name, name));
            let function: Map<String, Value> = members
                .into_iter()
                .chain([("parameters", parameters)])
                .filter_map(|(name, theirs)| Some((name.to_owned(), tool.get(theirs)?.clone())))
                .collect();
            json!({ "type": "function", "function": function })
        };
        let shown = self.shown.as_array().into_iter().flatten().map(in_chat).collect();
        Self { shown, list: self.list }
    }
}

/// Refuses tools that are no functions, before fields of theirs are found to be unknown.
///
/// # Errors
/// 400 that names the type.
pub(crate) fn only_functions(tool: &Value, at: &str) -> Result<(), ApiError> {
    let problem = match tool.get("type").and_then(Value::as_str) {
        Some("function") => return Ok(()),
        Some(other) => format!("is {}: only tools of type `function` are served", quote(other)),
        None => "must be `function`".to_owned(),
    };
    Err(ApiError::field(format!("{at}.type"), problem))
}

/// The function that `members` describe; its schema is called `parameters`.
///
/// # Errors
/// 400 that names the member at fault within `at`.
pub(crate) fn function(
    members: &Map<String, Value>,
    at: &str,
    parameters: &str,
) -> Result<Tool, ApiError> {
    let name = members.get("name").and_then(Value::as_str).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(plain) {
        let problem = format!("must have 1 to {LONGEST_NAME} letters, digits, `_`, `-` and `.`");
        return Err(ApiError::field(format!("{at}.name"), problem));
    }
    let described = members.get("description").is_none_or(|it| it.is_string() || it.is_null());
    if !described {
        return Err(ApiError::field(format!("{at}.description"), "must be a string"));
    }
    let strict = match members.get("strict") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(strict)) => *strict,
        Some(_) => return Err(ApiError::field(format!("{at}.strict"), "must be true or false")),
    };
    let schema = match members.get(parameters) {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(_) => return Err(ApiError::field(format!("{at}.{parameters}"), "must be an object")),
    };
    Ok(Tool { name: name.to_owned(), parameters: schema, strict })
}

/// The members of an object that has no others than `names`.
///
/// # Errors
/// 400 that names the first other.
pub(crate) fn known<'a>(
    value: &'a Value,
    at: &str,
    names: &[&str],
) -> Result<&'a Map<String, Value>, ApiError> {
    let members = value.as_object().ok_or_else(|| ApiError::field(at, "must be an object"))?;
    match members.keys().find(|key| !names.contains(&key.as_str())) {
        Some(key) => Err(ApiError::field(format!("{at}.{key}"), "is an unknown field")),
        None => Ok(members),
    }
}

/// The words for choosing that OpenAI's endpoints share; `None` of any other value.
pub(crate) fn choice_in_words(given: &Value) -> Option<Choice> {
    match given.as_str()? {
        "none" => Some(Choice::None),
        "auto" => Some(Choice::Auto),
        "required" => Some(Choice::Required),
        _ => None,
    }
}
