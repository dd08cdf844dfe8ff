//! The document as a page for people.

use std::fmt::Write;

use serde_json::{Map, Value};

const HEAD: &str = "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width\"><title>folio</title><style>\
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
h2{font:600 1rem ui-monospace,monospace;margin:2rem 0 0}p{margin:.2rem 0 .6rem}\
table{border-collapse:collapse;width:100%}td{border-top:1px solid #ddd;padding:.2rem .6rem .2rem 0;vertical-align:top}\
td:first-child{font-family:ui-monospace,monospace;white-space:nowrap}td:last-child{color:#666}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}td{border-color:#333}td:last-child{color:#999}}\
</style>";

/// The page of a document.
pub(super) fn of(document: &Value) -> String {
    let mut page = String::from(HEAD);
    let info = &document["info"];
    let text = |value: &Value| escape(value.as_str().unwrap_or_default());
    // Writing to a string cannot fail, here and below.
    let _ = write!(
        page,
        "<h1>folio {}</h1><p>{}</p>",
        text(&info["version"]),
        text(&info["description"])
    );
    page.push_str("<p>The same for programs: <a href=\"openapi.json\">openapi.json</a></p>");
    for (path, methods) in members(&document["paths"]) {
        for (method, operation) in members(methods) {
            let method = method.to_uppercase();
            let summary = text(&operation["summary"]);
            let _ = write!(page, "<h2>{method} {}</h2><p>{summary}</p>", escape(path));
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            table(&mut page, schema);
        }
    }
    page.push_str("</html>");
    page
}

fn table(page: &mut String, schema: &Value) {
    let members: Vec<_> = members(&schema["properties"]).collect();
    if members.is_empty() {
        return;
    }
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    page.push_str("<table>");
    for (name, schema) in members {
        let star = if required.iter().any(|it| it == name) { ", required" } else { "" };
        let about = schema["description"].as_str().unwrap_or_default();
        let _ = write!(
            page,
            "<tr><td>{}<td>{}{star}<td>{}",
            escape(name),
            escape(&words(schema)),
            escape(about)
        );
    }
    page.push_str("</table>");
}

/// What a schema takes, in a few words. That everything may be `null` goes without saying.
fn words(schema: &Value) -> String {
    if let Some(either) = schema["anyOf"].as_array() {
        let mut all: Vec<String> = either.iter().map(words).filter(|word| word != "null").collect();
        all.dedup();
        return all.join(" or ");
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.first().cloned().unwrap_or_default(),
        kind => kind.clone(),
    };
    match kind.as_str() {
        Some("array") if schema["maxItems"] == 0 => "an empty list".to_owned(),
        Some("object") if schema["maxProperties"] == 0 => "an empty object".to_owned(),
        Some("array") => format!("list of {}", words(&schema["items"])),
        Some("object") => {
            let names: Vec<&str> =
                members(&schema["properties"]).map(|(name, _)| name.as_str()).collect();
            if names.is_empty() { "object".to_owned() } else { format!("{{{}}}", names.join(", ")) }
        }
        Some(kind) => kind.to_owned(),
        None => "anything".to_owned(),
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
