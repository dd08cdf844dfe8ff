//! The filters of chat templates, each with a price.
//!
//! Three kinds: those that look at a bounded part of their operand are the library's own; those that read or copy all of it are
//! the library's behind a charge; those that can expand (`join`, `replace`, `indent`, `tojson`, …) are written here. Results
//! are never lazy views: a view of a view of a view is a chain that recurses.

use minijinja::filters as library;
use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, State};

use super::error::failed;
use super::meter::{ELEMENT, charge, charge_deep, is_dict, is_list, text_len};
use super::methods::charge_format;
use super::ops::{elements, item};
use super::python::{JsonStyle, Sink, text_of, type_name, write_escaped, write_json, write_str};
use super::screen::OPERAND;

/// Every filter that a template may name.
pub(super) const NAMES: [&str; 40] = [
    "abs",
    "attr",
    "bool",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "format",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    OPERAND,
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "sort",
    "string",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
];

/// What reading the operand costs.
#[derive(Clone, Copy)]
enum Price {
    /// A character or an element.
    Nothing,
    /// The length of its text.
    Text,
    /// Once through its elements, with the arguments looked up in each.
    Elements,
    /// Everything inside it, as often as sorting does.
    Sorting,
}

/// Registers the filters.
pub(super) fn register(env: &mut Environment<'_>) {
    let mut add = |name: &'static str, price: Price, filter: Value| {
        env.add_filter(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            pay(state, price, &args)?;
            let result = filter.call(state, &args)?;
            eager(state, result)
        });
    };
    add("abs", Price::Nothing, Value::from_function(library::abs));
    add("bool", Price::Nothing, Value::from_function(library::bool));
    add("capitalize", Price::Text, Value::from_function(library::capitalize));
    add("d", Price::Nothing, Value::from_function(library::default));
    add("default", Price::Nothing, Value::from_function(library::default));
    add("dictsort", Price::Sorting, Value::from_function(library::dictsort));
    add("first", Price::Nothing, Value::from_function(library::first));
    add("items", Price::Elements, Value::from_function(library::items));
    add("last", Price::Nothing, Value::from_function(library::last));
    add("lower", Price::Text, Value::from_function(library::lower));
    add("map", Price::Elements, Value::from_function(library::map));
    add("max", Price::Sorting, Value::from_function(library::max));
    add("min", Price::Sorting, Value::from_function(library::min));
    add("reject", Price::Elements, Value::from_function(library::reject));
    add("rejectattr", Price::Elements, Value::from_function(library::rejectattr));
    add("reverse", Price::Elements, Value::from_function(library::reverse));
    add("round", Price::Nothing, Value::from_function(library::round));
    add("select", Price::Elements, Value::from_function(library::select));
    add("selectattr", Price::Elements, Value::from_function(library::selectattr));
    add("sort", Price::Sorting, Value::from_function(library::sort));
    add("title", Price::Text, Value::from_function(library::title));
    add("unique", Price::Sorting, Value::from_function(library::unique));
    add("upper", Price::Text, Value::from_function(library::upper));
    env.add_filter("attr", item);
    env.add_filter("e", escape);
    env.add_filter("escape", escape);
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("safe", string);
    env.add_filter(OPERAND, ValueOrKwargs::into_value);
    env.add_filter("count", length);
    env.add_filter("length", length);
    env.add_filter("list", list);
    env.add_filter("string", string);
    env.add_filter("trim", trim);
    env.add_filter("join", join);
    env.add_filter("replace", replace);
    env.add_filter("indent", indent);
    env.add_filter("tojson", tojson);
    let format = Value::from_function(library::format);
    env.add_filter("format", move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        if let Some((text, rest)) = args.split_first() {
            charge_format(state, text.as_str().unwrap_or_default(), '%', rest)?;
        }
        format.call(state, &args)
    });
}

fn pay(state: &mut State<'_, '_>, price: Price, args: &[Value]) -> Result<(), Error> {
    let Some((operand, rest)) = args.split_first() else { return Ok(()) };
    let texts: usize = rest.iter().map(text_len).sum();
    match price {
        Price::Nothing => Ok(()),
        Price::Text if operand.as_object().is_none() => {
            // Case and escapes expand a character to six bytes at most.
            charge(state, text_len(operand).saturating_mul(6) + texts)
        }
        Price::Text => Err(failed(format!("a filter expects a str, not {}", type_name(operand)))),
        Price::Elements if operand.as_object().is_none() => {
            charge(state, (ELEMENT * text_len(operand)).saturating_add(texts))
        }
        // For each element, a filter or test may be called.
        Price::Elements => {
            charge(state, operand.len().unwrap_or(0).saturating_mul(4 * ELEMENT + texts))
        }
        Price::Sorting => {
            let count = operand.len().unwrap_or(0);
            let rounds = usize::BITS - count.leading_zeros();
            (0..=rounds).try_for_each(|_| charge_deep(state, operand))?;
            charge(state, count.saturating_mul(ELEMENT + texts))
        }
    }
}

/// A lazy result as a list.
pub(super) fn eager(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    let lazy =
        value.kind() == ValueKind::Iterable || (value.kind() == ValueKind::Seq && !is_list(&value));
    if lazy { Ok(Value::from(elements(state, &value)?)) } else { Ok(value) }
}

fn length(state: &mut State<'_, '_>, value: &Value) -> Result<usize, Error> {
    charge(state, text_len(value))?;
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| failed(format!("object of type '{}' has no len()", type_name(value))))
}

fn list(state: &mut State<'_, '_>, value: &Value) -> Result<Value, Error> {
    if !(is_list(value) || is_dict(value) || value.as_str().is_some() || value.is_undefined()) {
        return Err(failed(format!("'{}' object is not iterable", type_name(value))));
    }
    Ok(Value::from(elements(state, value)?))
}

fn string(state: &mut State<'_, '_>, value: &Value) -> Result<Value, Error> {
    if value.as_str().is_some() {
        Ok(value.clone())
    } else {
        Ok(Value::from(text_of(state, value)?.into_owned()))
    }
}

/// As `markupsafe` does it. Its result is a plain text: templates of chats are not escaped otherwise.
fn escape(state: &mut State<'_, '_>, value: &Value) -> Result<Value, Error> {
    let text = text_of(state, value)?;
    let mut sink = Sink::new(state);
    write_escaped(&mut sink, &text, |c| {
        let escaped = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '"' => "&#34;",
            '\'' => "&#39;",
            _ => return None,
        };
        Some(escaped.to_owned())
    })?;
    Ok(Value::from(sink.finish(state)?))
}

/// The number that a text is written as in Python.
fn parse(text: &str) -> Option<f64> {
    text.trim().replace('_', "").parse().ok()
}

fn int(state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (value, options) = Options::split(&args)?;
    let default = options.get(0, "default")?.unwrap_or_else(|| Value::from(0));
    let base = options.get(1, "base")?.map_or(Ok(10), u32::try_from)?;
    options.named.assert_all_used()?;
    if value.is_integer() {
        return Ok(value.clone());
    }
    let text = text_of(state, value)?;
    charge(state, text.len().saturating_mul(8))?;
    let digits = text.trim().to_ascii_lowercase().replace('_', "");
    let prefix = [(2, "0b"), (8, "0o"), (16, "0x")].iter().find(|(of, _)| *of == base);
    let digits = prefix.and_then(|(_, prefix)| digits.strip_prefix(prefix)).unwrap_or(&digits);
    if (2..=36).contains(&base)
        && let Ok(whole) = i64::from_str_radix(digits, base)
    {
        return Ok(Value::from(whole));
    }
    if value.kind() == ValueKind::Bool {
        return Ok(Value::from(i64::from(value.is_true())));
    }
    // Beyond 2^53 a float is whole, and its text has an exponent or all its digits.
    let whole = parse(&text)
        .filter(|x| x.is_finite())
        .and_then(|x| format!("{:.0}", x.trunc()).parse::<i128>().ok());
    Ok(whole.map_or(default, |whole| {
        i64::try_from(whole).map_or_else(|_| Value::from(whole), Value::from)
    }))
}

fn float(state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (value, options) = Options::split(&args)?;
    let default = options.get(0, "default")?.unwrap_or_else(|| Value::from(0.0));
    options.named.assert_all_used()?;
    if value.kind() == ValueKind::Bool {
        return Ok(Value::from(f64::from(u8::from(value.is_true()))));
    }
    let text = text_of(state, value)?;
    charge(state, text.len().saturating_mul(8))?;
    Ok(parse(&text).map_or(default, Value::from))
}

fn trim(state: &mut State<'_, '_>, value: &Value, chars: Option<&str>) -> Result<Value, Error> {
    let text = text_of(state, value)?;
    let trimmed = match chars {
        None => text.trim(),
        Some(chars) => {
            charge(state, text.len().saturating_mul(chars.len()))?;
            text.trim_matches(|c| chars.contains(c))
        }
    };
    Ok(Value::from(trimmed))
}

/// Appends the texts of `items` with `separator` between.
pub(super) fn join_into(
    sink: &mut Sink,
    items: &Value,
    separator: &str,
    attribute: Option<&Value>,
) -> Result<(), Error> {
    for (i, item) in items.try_iter()?.enumerate() {
        sink.push(if i > 0 { separator } else { "" })?;
        match attribute {
            Some(attribute) => write_str(sink, &item.get_item(attribute)?)?,
            None => write_str(sink, &item)?,
        }
    }
    Ok(())
}

/// Arguments that may be given by position or by name.
struct Options<'a> {
    positional: &'a [Value],
    named: Kwargs,
}

impl<'a> Options<'a> {
    /// Splits the operand from the options.
    fn split(args: &'a [Value]) -> Result<(&'a Value, Self), Error> {
        let (args, named): (&[Value], Kwargs) = from_args(args)?;
        let Some((operand, positional)) = args.split_first() else {
            return Err(failed("a filter needs a value"));
        };
        Ok((operand, Self { positional, named }))
    }

    fn get(&self, position: usize, name: &str) -> Result<Option<Value>, Error> {
        let given = match self.positional.get(position) {
            Some(given) => Some(given.clone()),
            None => self.named.get::<Option<Value>>(name)?,
        };
        Ok(given.filter(|given| !given.is_none()))
    }

    fn flag(&self, position: usize, name: &str) -> Result<bool, Error> {
        Ok(self.get(position, name)?.is_some_and(|given| given.is_true()))
    }
}

fn join(state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (value, options) = Options::split(&args)?;
    let items = list(state, value)?;
    let separator = options.get(0, "d")?.unwrap_or_else(|| Value::from(""));
    let separator = text_of(state, &separator)?;
    let attribute = options.get(1, "attribute")?;
    options.named.assert_all_used()?;
    let mut sink = Sink::new(state);
    join_into(&mut sink, &items, &separator, attribute.as_ref())?;
    Ok(Value::from(sink.finish(state)?))
}

fn replace(
    state: &mut State<'_, '_>,
    value: &Value,
    from: &Value,
    to: &Value,
    count: Option<i64>,
) -> Result<Value, Error> {
    let (text, from, to) = (text_of(state, value)?, text_of(state, from)?, text_of(state, to)?);
    replace_text(state, &text, &from, &to, count.unwrap_or(-1))
}

/// `text.replace(from, to, count)`, paid; a negative `count` means all.
pub(super) fn replace_text(
    state: &mut State<'_, '_>,
    text: &str,
    from: &str,
    to: &str,
    count: i64,
) -> Result<Value, Error> {
    charge(state, text.len())?;
    let limit = usize::try_from(count).unwrap_or(usize::MAX);
    let found = text.matches(from).take(limit).count();
    charge(state, text.len().saturating_add(found.saturating_mul(to.len())))?;
    Ok(Value::from(if count < 0 { text.replace(from, to) } else { text.replacen(from, to, limit) }))
}

fn indent(state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (value, options) = Options::split(&args)?;
    let margin = options.get(0, "width")?.map_or(Ok(" ".repeat(4)), |width| spaces(&width))?;
    let (first, blank) = (options.flag(1, "first")?, options.flag(2, "blank")?);
    options.named.assert_all_used()?;
    let text = text_of(state, value)?;
    let mut sink = Sink::new(state);
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let wanted = if i == 0 { first } else { blank || !line.trim().is_empty() };
        sink.push(if wanted { &margin } else { "" })?;
        sink.push(line)?;
    }
    Ok(Value::from(sink.finish(state)?))
}

/// An indentation given as a number of spaces or as a text.
fn spaces(width: &Value) -> Result<String, Error> {
    if let Some(text) = width.as_str() {
        return Ok(text.to_owned());
    }
    match i64::try_from(width.clone()) {
        Ok(width @ ..=1000) => Ok(" ".repeat(usize::try_from(width).unwrap_or(0))),
        _ => Err(failed("an indentation is a number up to 1000 or a str")),
    }
}

/// As `transformers` defines it: `json.dumps` without escaping HTML and, by default, without escaping what is not ASCII.
fn tojson(state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (value, options) = Options::split(&args)?;
    let ensure_ascii = options.flag(0, "ensure_ascii")?;
    let indent = options.get(1, "indent")?.map(|width| spaces(&width)).transpose()?;
    let separators = options.get(2, "separators")?;
    let sort_keys = options.flag(3, "sort_keys")?;
    options.named.assert_all_used()?;
    let mut item_separator = if indent.is_some() { "," } else { ", " }.to_owned();
    let mut key_separator = ": ".to_owned();
    if let Some(separators) = separators {
        let part = |i: usize| separators.get_item_by_index(i).ok()?.as_str().map(str::to_owned);
        let (Some(item), Some(key)) = (part(0), part(1)) else {
            return Err(failed("tojson's separators are a pair of strs"));
        };
        (item_separator, key_separator) = (item, key);
    }
    let mut sink = Sink::new(state);
    let style = JsonStyle { indent, item_separator, key_separator, ensure_ascii, sort_keys };
    write_json(&mut sink, value, &style, 0)?;
    Ok(Value::from(sink.finish(state)?))
}
