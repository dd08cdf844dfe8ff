//! Jinja's operators, with Python's meaning and a price.
//!
//! [`lower`](super::lower) turns every operator whose cost depends on its operands into a call of one of these filters. Their
//! names are operators, which no template can write as the name of a filter.

use std::cmp::Ordering;

use minijinja::value::{Rest, Tuple, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State};

use super::error::failed;
use super::meter::{ELEMENT, charge, charge_deep, hold, is_dict, is_list, text_len};
use super::python::{text_of, type_name};

/// Registers the operators.
pub(super) fn register(env: &mut Environment<'_>) {
    env.add_filter("+", add);
    env.add_filter("*", multiply);
    env.add_filter("~", concatenate);
    env.add_filter("==", |state: &mut State<'_, '_>, a: &Value, b: &Value| equal(state, a, b));
    env.add_filter("!=", |state: &mut State<'_, '_>, a: &Value, b: &Value| {
        equal(state, a, b).map(|same| !same)
    });
    env.add_filter("<", |state: &mut State<'_, '_>, a: &Value, b: &Value| {
        Ok::<_, Error>(order(state, a, "<", b)?.is_lt())
    });
    env.add_filter("<=", |state: &mut State<'_, '_>, a: &Value, b: &Value| {
        Ok::<_, Error>(order(state, a, "<=", b)?.is_le())
    });
    env.add_filter(">", |state: &mut State<'_, '_>, a: &Value, b: &Value| {
        Ok::<_, Error>(order(state, a, ">", b)?.is_gt())
    });
    env.add_filter(">=", |state: &mut State<'_, '_>, a: &Value, b: &Value| {
        Ok::<_, Error>(order(state, a, ">=", b)?.is_ge())
    });
    env.add_filter("in", |state: &mut State<'_, '_>, a: &Value, b: &Value| contains(state, a, b));
    env.add_filter("[]", item);
    env.add_filter("[:]", slice);
    env.add_filter("[...]", |state: &mut State<'_, '_>, items: Rest<ValueOrKwargs>| {
        Ok::<_, Error>(Value::from(held(state, items)?))
    });
    env.add_filter("(...)", |state: &mut State<'_, '_>, items: Rest<ValueOrKwargs>| {
        Ok::<_, Error>(Value::from(Tuple::from(held(state, items)?)))
    });
    env.add_filter("{...}", dict);
    env.add_filter("for", iterate);
    env.add_filter("text", |state: &mut State<'_, '_>, value: ValueOrKwargs| {
        charge(state, text_len(&value))?;
        Ok::<_, Error>(value.into_value())
    });
    env.add_filter("cost", |state: &mut State<'_, '_>, value: Value| {
        charge_deep(state, &value)?;
        Ok::<_, Error>(value)
    });
    env.add_filter(".x=", |state: &mut State<'_, '_>, value: Value| {
        hold(state, &value)?;
        Ok::<_, Error>(value)
    });
}

fn undefined() -> Error {
    Error::new(ErrorKind::UndefinedError, "an undefined variable is used")
}

/// A copy of a list's or tuple's elements, paid.
pub(super) fn elements(state: &mut State<'_, '_>, value: &Value) -> Result<Vec<Value>, Error> {
    charge(state, value.len().unwrap_or(0).saturating_mul(ELEMENT))?;
    Ok(value.try_iter()?.collect())
}

fn same_kind(value: &Value, items: Vec<Value>) -> Value {
    if value.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) }
}

fn float(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn integer(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

fn number(x: i128) -> Value {
    i64::try_from(x).map_or_else(|_| Value::from(x), Value::from)
}

fn add(state: &mut State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (integer(a), integer(b)) {
        return a.checked_add(b).map(number).ok_or_else(|| failed("the sum is too large"));
    }
    if let (Some(a), Some(b)) = (float(a), float(b)) {
        return Ok(Value::from(a + b));
    }
    if a.is_undefined() || b.is_undefined() {
        return Err(undefined());
    }
    let refused = || match a.kind() {
        ValueKind::String => {
            failed(format!("can only concatenate str (not \"{}\") to str", type_name(b)))
        }
        _ if is_list(a) => {
            let kind = type_name(a);
            failed(format!("can only concatenate {kind} (not \"{}\") to {kind}", type_name(b)))
        }
        _ => failed(format!(
            "unsupported operand type(s) for +: '{}' and '{}'",
            type_name(a),
            type_name(b)
        )),
    };
    if let (Some(left), Some(right)) = (a.as_str(), b.as_str()) {
        charge(state, left.len() + right.len())?;
        return Ok(Value::from([left, right].concat()));
    }
    if is_list(a) && is_list(b) && a.is_tuple() == b.is_tuple() {
        let mut items = elements(state, a)?;
        items.extend(elements(state, b)?);
        return Ok(same_kind(a, items));
    }
    Err(refused())
}

fn multiply(state: &mut State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (integer(a), integer(b)) {
        return a.checked_mul(b).map(number).ok_or_else(|| failed("the product is too large"));
    }
    if let (Some(a), Some(b)) = (float(a), float(b)) {
        return Ok(Value::from(a * b));
    }
    if a.is_undefined() || b.is_undefined() {
        return Err(undefined());
    }
    let (sequence, times) = if integer(b).is_some() { (a, b) } else { (b, a) };
    let Some(times) = integer(times) else {
        return Err(failed(format!("can't multiply {} by {}", type_name(a), type_name(b))));
    };
    // Below zero means none; beyond `usize` is refused by the purse.
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = sequence.as_str() {
        charge(state, text.len().saturating_mul(times))?;
        return Ok(Value::from(text.repeat(if text.is_empty() { 0 } else { times })));
    }
    if is_list(sequence) {
        let items = elements(state, sequence)?;
        charge(state, items.len().saturating_mul(ELEMENT).saturating_mul(times))?;
        let times = if items.is_empty() { 0 } else { times };
        return Ok(same_kind(
            sequence,
            std::iter::repeat_n(&items, times).flatten().cloned().collect(),
        ));
    }
    Err(failed(format!(
        "unsupported operand type(s) for *: '{}' and '{}'",
        type_name(a),
        type_name(b)
    )))
}

fn concatenate(state: &mut State<'_, '_>, a: &Value, b: &Value) -> Result<Value, Error> {
    let a = text_of(state, a)?;
    let b = text_of(state, b)?;
    charge(state, a.len() + b.len())?;
    Ok(Value::from([a, b].concat()))
}

pub(super) fn equal(state: &mut State<'_, '_>, a: &Value, b: &Value) -> Result<bool, Error> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        charge(state, a.len().min(b.len()))?;
        return Ok(a == b);
    }
    if a.as_object().is_some() && b.as_object().is_some() {
        charge_deep(state, a)?;
        charge_deep(state, b)?;
    }
    Ok(a == b)
}

pub(super) fn order(
    state: &mut State<'_, '_>,
    a: &Value,
    operator: &str,
    b: &Value,
) -> Result<Ordering, Error> {
    if a.is_undefined() || b.is_undefined() {
        return Err(undefined());
    }
    let numbers = || float(a).is_some() && float(b).is_some();
    let comparable = (a.as_str().is_some() && b.as_str().is_some())
        || numbers()
        || (is_list(a) && is_list(b) && a.is_tuple() == b.is_tuple());
    if !comparable {
        let (a, b) = (type_name(a), type_name(b));
        return Err(failed(format!(
            "'{operator}' not supported between instances of '{a}' and '{b}'"
        )));
    }
    charge_deep(state, a)?;
    charge_deep(state, b)?;
    match (float(a), float(b)) {
        // NaN is neither below nor above: as good as any answer for a template.
        (Some(x), Some(y)) if integer(a).is_none() || integer(b).is_none() => {
            Ok(x.partial_cmp(&y).unwrap_or(Ordering::Equal))
        }
        (Some(_), Some(_)) => Ok(integer(a).cmp(&integer(b))),
        _ => Ok(a.cmp(b)),
    }
}

/// `value in container`.
pub(super) fn contains(
    state: &mut State<'_, '_>,
    value: &Value,
    container: &Value,
) -> Result<bool, Error> {
    if let Some(text) = container.as_str() {
        let Some(part) = value.as_str() else {
            let kind = type_name(value);
            return Err(failed(format!(
                "'in <string>' requires string as left operand, not {kind}"
            )));
        };
        charge(state, text.len() + part.len())?;
        return Ok(text.contains(part));
    }
    if is_list(container) {
        charge_deep(state, value)?;
        charge_deep(state, container)?;
        return Ok(container.try_iter()?.any(|item| item == *value));
    }
    if container.kind() == ValueKind::Map {
        return Ok(!lookup(state, container, value)?.is_undefined());
    }
    if container.is_undefined() {
        return Ok(false);
    }
    Err(failed(format!("argument of type '{}' is not iterable", type_name(container))))
}

/// The value under `key`, or undefined. A list or dict as a key is an error, as in Python.
fn lookup(state: &mut State<'_, '_>, map: &Value, key: &Value) -> Result<Value, Error> {
    check_key(state, key)?;
    map.get_item(key)
}

fn check_key(state: &mut State<'_, '_>, key: &Value) -> Result<(), Error> {
    if key.as_object().is_some() {
        return Err(failed(format!("cannot use '{}' as a dict key", type_name(key))));
    }
    charge(state, text_len(key))
}

/// `value[key]`.
pub(super) fn item(state: &mut State<'_, '_>, value: &Value, key: &Value) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(undefined());
    }
    // Finding a character walks the string.
    charge(state, text_len(value))?;
    lookup(state, value, key)
}

/// `value[start:stop:step]`, always a copy: a view of a view of a view would be a chain to recurse through.
fn slice(
    state: &mut State<'_, '_>,
    value: &Value,
    start: &Value,
    stop: &Value,
    step: &Value,
) -> Result<Value, Error> {
    if value.is_undefined() {
        return Err(undefined());
    }
    let bound = |bound: &Value| match (bound.is_none(), integer(bound)) {
        (true, _) => Ok(None),
        (_, Some(x)) => Ok(Some(x)),
        _ => Err(failed("slice indices must be integers or None")),
    };
    let (start, stop) = (bound(start)?, bound(stop)?);
    let step = bound(step)?.unwrap_or(1);
    if step == 0 {
        return Err(failed("slice step cannot be zero"));
    }
    if let Some(text) = value.as_str() {
        charge(state, text.len().saturating_mul(5))?;
        let chars: Vec<char> = text.chars().collect();
        return Ok(Value::from(pick(&chars, start, stop, step).collect::<String>()));
    }
    if is_list(value) {
        let items = elements(state, value)?;
        return Ok(same_kind(value, pick(&items, start, stop, step).collect()));
    }
    Err(failed(format!("'{}' object is not subscriptable by a slice", type_name(value))))
}

/// The elements that Python's slice of `items` has. `step` is not zero.
fn pick<T: Clone>(
    items: &[T],
    start: Option<i128>,
    stop: Option<i128>,
    step: i128,
) -> Box<dyn Iterator<Item = T> + '_> {
    let length = i128::try_from(items.len()).unwrap_or(i128::MAX);
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp =
        |bound: i128| if bound < 0 { (bound + length).max(lowest) } else { bound.min(highest) };
    let start = start.map_or(if step > 0 { lowest } else { highest }, clamp);
    let stop = stop.map_or(if step > 0 { highest } else { lowest }, clamp);
    let indices = std::iter::successors(Some(start), move |i| i.checked_add(step))
        .take_while(move |&i| if step > 0 { i < stop } else { i > stop });
    Box::new(indices.filter_map(|i| usize::try_from(i).ok().and_then(|i| items.get(i)).cloned()))
}

fn held(state: &mut State<'_, '_>, items: Rest<ValueOrKwargs>) -> Result<Vec<Value>, Error> {
    let items = items.into_values();
    charge(state, items.len() * ELEMENT)?;
    // Measured as one value, so that a list of two large lists counts both.
    hold(state, &Value::from(items.clone()))?;
    Ok(items)
}

/// `{k: v, …}`; the arguments are keys and values in turn.
fn dict(state: &mut State<'_, '_>, parts: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let parts = parts.into_values();
    let mut pairs = Vec::with_capacity(parts.len() / 2);
    for pair in parts.chunks_exact(2) {
        check_key(state, &pair[0])?;
        pairs.push((pair[0].clone(), pair[1].clone()));
    }
    let dict = Value::from_pairs(pairs);
    charge(state, parts.len() * ELEMENT)?;
    hold(state, &dict)?;
    Ok(dict)
}

/// What `{% for %}` loops over.
fn iterate(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    if value.is_undefined() || is_list(&value) {
        return Ok(value);
    }
    charge(state, text_len(&value))?;
    if is_dict(&value) {
        charge(state, value.len().unwrap_or(0).saturating_mul(ELEMENT))?;
        return Ok(value);
    }
    if value.as_str().is_some() {
        return Ok(value);
    }
    Err(failed(format!("'{}' object is not iterable", type_name(&value))))
}
