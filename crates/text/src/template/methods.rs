//! Calls: methods of Python's `str`, `dict` and `list`, and the functions that templates expect.
//!
//! A method call arrives as the filter `.()` (see [`lower`](super::lower)), so every call is paid before it runs. The methods
//! themselves are those of `minijinja-contrib`, except the ones that can expand and the ones it lacks. Methods that change
//! their object do not exist, as in the sandbox that `transformers` renders in.

use minijinja::value::{
    DynObject, Kwargs, Rest, Tuple, Value, ValueKind, ValueOrKwargs, from_args,
};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::error::{TemplateError, clip, failed, stop};
use super::filters::{eager, join_into, replace_text};
use super::meter::{ELEMENT, charge, charge_deep, hold, is_dict, is_list, text_len};
use super::python::{Sink, text_of, type_name};
use super::strftime::{DateTime, strftime};

/// The longest list that `range` makes, as in Jinja's sandbox.
const MAX_RANGE: usize = 100_000;

/// Registers method calls and functions.
pub(super) fn register(env: &mut Environment<'_>) {
    env.set_unknown_method_callback(method);
    env.add_filter(".()", call);
    env.add_function("range", range);
    let library_dict = Value::from_function(minijinja::functions::dict);
    env.add_function("dict", move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        kept(state, &library_dict, args)
    });
    let library_namespace = Value::from_function(minijinja::functions::namespace);
    env.add_function("namespace", move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        kept(state, &library_namespace, args)
    });
    env.add_function(
        "raise_exception",
        |state: &mut State<'_, '_>, message: Value| -> Result<Value, Error> {
            let message = clip(&text_of(state, &message)?);
            Err(stop(TemplateError::Raised { message }))
        },
    );
}

/// The function `strftime_now` of a rendering that happens at `now`.
pub(super) fn strftime_now(now: DateTime) -> Value {
    Value::from_function(move |state: &mut State<'_, '_>, format: &str| {
        // A code of two characters expands to 24 at most, and takes about as long as copying a kilobyte.
        charge(state, format.len().saturating_mul(512))?;
        Ok::<_, Error>(Value::from(strftime(&now, format)))
    })
}

/// Calls `dict` or `namespace`, which keep their arguments inside another value.
fn kept(
    state: &mut State<'_, '_>,
    function: &Value,
    args: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let args = args.into_values();
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    for value in positional {
        hold(state, value)?;
        charge(state, value.len().unwrap_or(0).saturating_mul(ELEMENT))?;
    }
    for name in kwargs.args() {
        hold(state, &kwargs.peek::<Value>(name)?)?;
        charge(state, ELEMENT)?;
    }
    function.call(state, &args)
}

fn range(
    state: &mut State<'_, '_>,
    first: i64,
    second: Option<i64>,
    step: Option<i64>,
) -> Result<Value, Error> {
    let (start, end) = second.map_or((0, first), |end| (first, end));
    let step = i128::from(step.unwrap_or(1));
    let span = i128::from(end) - i128::from(start);
    if step == 0 {
        return Err(failed("range() arg 3 must not be zero"));
    }
    let length =
        if (span > 0) == (step > 0) { (span.abs() + step.abs() - 1) / step.abs() } else { 0 };
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_RANGE);
    let Some(length) = length else {
        return Err(failed(format!("a range cannot have more than {MAX_RANGE} elements")));
    };
    charge(state, length * ELEMENT)?;
    let items = (0..length)
        .map_while(|i| i64::try_from(i128::from(start) + i128::try_from(i).ok()? * step).ok());
    Ok(items.map(Value::from).collect())
}

/// `object.name(arguments…)`; the arguments of the filter are the object, the arguments, the name.
fn call(state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let [object, args @ .., name] = args.as_slice() else {
        return Err(failed("a method call without a method"));
    };
    let name = name.as_str().unwrap_or_default();
    let texts: usize = args.iter().map(text_len).sum();
    charge(state, text_len(object).saturating_add(texts))?;
    match name {
        // The library divides by the number of arguments.
        "cycle" if args.is_empty() => return Err(failed("no items for cycling given")),
        "changed" | "count" => {
            charge_deep(state, object)?;
            args.iter().try_for_each(|arg| charge_deep(state, arg))?;
        }
        _ => {}
    }
    let result = object.call_method(state, name, args)?;
    eager(state, result)
}

/// The methods of values that are no objects of the template engine.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(Error::new(
            ErrorKind::UndefinedError,
            "a method of an undefined variable is called",
        ));
    }
    let missing = || {
        let kind = if value.kind() == ValueKind::Map { "dict" } else { type_name(value) };
        failed(format!("'{kind} object' has no attribute '{}'", clip(name)))
    };
    let result = match value.as_str() {
        Some(text) => text_method(state, value, text, name, args),
        None if is_dict(value) || is_list(value) || value.kind() == ValueKind::Map => {
            check_keys(args)?;
            unknown_method_callback(state, value, name, args)
        }
        None => return Err(missing()),
    };
    result.map_err(|error| match error.kind() {
        // Left to the engine where a namespace may hold a macro of this name.
        ErrorKind::UnknownMethod
            if is_dict(value) || is_list(value) || value.as_str().is_some() =>
        {
            missing()
        }
        _ => error,
    })
}

/// Keys must be scalars: looking up a list would have to read all of it.
fn check_keys(args: &[Value]) -> Result<(), Error> {
    match args.first() {
        Some(key) if key.as_object().is_some() && !key.is_kwargs() => {
            Err(failed(format!("cannot use '{}' as a dict key", type_name(key))))
        }
        _ => Ok(()),
    }
}

fn text_method(
    state: &mut State<'_, '_>,
    value: &Value,
    text: &str,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match name {
        "replace" => {
            let (from, to, count): (&str, &str, Option<i64>) = from_args(args)?;
            replace_text(state, text, from, to, count.unwrap_or(-1))
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            let mut sink = Sink::new(state);
            join_into(&mut sink, items, text, None)?;
            Ok(Value::from(sink.finish(state)?))
        }
        "split" | "rsplit" | "splitlines" => {
            charge(state, text.len().saturating_mul(ELEMENT))?;
            if name == "rsplit" {
                rsplit(text, args)
            } else {
                unknown_method_callback(state, value, name, args)
            }
        }
        "strip" | "lstrip" | "rstrip" => {
            let chars = args.first().map_or(0, text_len);
            charge(state, text.len().saturating_mul(chars))?;
            unknown_method_callback(state, value, name, args)
        }
        "format" => {
            charge_format(state, text, '{', args)?;
            unknown_method_callback(state, value, name, args)
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "partition" | "rpartition" => partition(text, name, args),
        // Six: the most that a change of case makes of a character's bytes.
        _ => {
            charge(state, text.len().saturating_mul(6))?;
            unknown_method_callback(state, value, name, args)
        }
    }
}

fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (&str, Option<i64>) = from_args(args)?;
    if separator.is_empty() {
        return Err(failed("empty separator"));
    }
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX - 1);
    let mut parts: Vec<Value> = text.rsplitn(most + 1, separator).map(Value::from).collect();
    parts.reverse();
    Ok(Value::from(parts))
}

fn partition(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(failed("empty separator"));
    }
    let parts = if name == "partition" {
        text.split_once(separator).map_or([text, "", ""], |(a, b)| [a, separator, b])
    } else {
        text.rsplit_once(separator).map_or(["", "", text], |(a, b)| [a, separator, b])
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// Pays for `'…'.format(…)` or `'…' | format(…)`: every field, which begins with `marker`, may hold the longest argument, and
/// every number may be a width.
pub(super) fn charge_format(
    state: &mut State<'_, '_>,
    format: &str,
    marker: char,
    args: &[Value],
) -> Result<(), Error> {
    let mut longest = 0;
    for arg in args {
        let named = arg.as_object().filter(|_| arg.is_kwargs());
        match named.and_then(DynObject::try_iter_pairs) {
            Some(pairs) => {
                for (_, value) in pairs {
                    longest = longest.max(text_of(state, &value)?.len());
                }
            }
            None => longest = longest.max(text_of(state, arg)?.len()),
        }
    }
    let fields = format.matches(marker).count();
    let widths: usize = format
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse().unwrap_or(usize::MAX))
        .fold(0, usize::saturating_add);
    charge(state, fields.saturating_mul(longest).saturating_add(widths.saturating_mul(4)))
}
