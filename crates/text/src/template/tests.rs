//! The tests of chat templates (`x is …`), as Python answers them.
//!
//! They are written here because Python and the library disagree (`'abc' is sequence` is true in Python) and because the
//! comparing ones need a price.

use minijinja::value::{Value, ValueKind};
use minijinja::{Environment, Error, State};

use super::error::failed;
use super::meter::{charge, is_dict, is_list, text_len};
use super::ops::{contains, equal, order};
use super::python::type_name;

/// Every test that a template may name.
pub(super) const NAMES: [&str; 36] = [
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "even",
    "false",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "true",
    "undefined",
    "upper",
];

/// Registers the tests.
pub(super) fn register(env: &mut Environment<'_>) {
    let mut plain = |name: &'static str, test: fn(&Value) -> bool| {
        env.add_test(name, move |value: &Value| test(value));
    };
    plain("boolean", |v| v.kind() == ValueKind::Bool);
    plain("callable", |v| matches!(type_name(v), "function" | "object"));
    plain("defined", |v| !v.is_undefined());
    plain("undefined", Value::is_undefined);
    plain("none", Value::is_none);
    plain("true", |v| v.kind() == ValueKind::Bool && v.is_true());
    plain("false", |v| v.kind() == ValueKind::Bool && !v.is_true());
    plain("integer", |v| v.kind() == ValueKind::Number && v.is_integer());
    plain("float", |v| v.kind() == ValueKind::Number && !v.is_integer());
    plain("number", |v| matches!(v.kind(), ValueKind::Number | ValueKind::Bool));
    plain("string", |v| v.kind() == ValueKind::String);
    plain("mapping", is_dict);
    plain("sequence", |v| is_list(v) || is_dict(v) || v.kind() == ValueKind::String);
    plain("iterable", |v| {
        is_list(v) || is_dict(v) || v.kind() == ValueKind::String || v.is_undefined()
    });
    for name in ["==", "eq", "equalto"] {
        env.add_test(name, |state: &mut State<'_, '_>, a: &Value, b: &Value| equal(state, a, b));
    }
    for name in ["!=", "ne"] {
        env.add_test(name, |state: &mut State<'_, '_>, a: &Value, b: &Value| {
            equal(state, a, b).map(|same| !same)
        });
    }
    let mut ordered =
        |names: &[&'static str], operator: &'static str, test: fn(std::cmp::Ordering) -> bool| {
            for name in names {
                env.add_test(*name, move |state: &mut State<'_, '_>, a: &Value, b: &Value| {
                    order(state, a, operator, b).map(test)
                });
            }
        };
    ordered(&["<", "lt", "lessthan"], "<", std::cmp::Ordering::is_lt);
    ordered(&["<=", "le"], "<=", std::cmp::Ordering::is_le);
    ordered(&[">", "gt", "greaterthan"], ">", std::cmp::Ordering::is_gt);
    ordered(&[">=", "ge"], ">=", std::cmp::Ordering::is_ge);
    env.add_test("in", |state: &mut State<'_, '_>, a: &Value, b: &Value| contains(state, a, b));
    env.add_test("sameas", |state: &mut State<'_, '_>, a: &Value, b: &Value| {
        Ok::<_, Error>(a.kind() == b.kind() && equal(state, a, b)?)
    });
    env.add_test("odd", |value: &Value| whole(value).map(|x| x % 2 != 0));
    env.add_test("even", |value: &Value| whole(value).map(|x| x % 2 == 0));
    env.add_test("divisibleby", |value: &Value, by: &Value| match whole(by)? {
        0 => Err(failed("division by zero")),
        by => Ok(whole(value)?.checked_rem(by) == Some(0)),
    });
    env.add_test("lower", |state: &mut State<'_, '_>, value: &Value| {
        cased(state, value, char::is_lowercase, char::is_uppercase)
    });
    env.add_test("upper", |state: &mut State<'_, '_>, value: &Value| {
        cased(state, value, char::is_uppercase, char::is_lowercase)
    });
}

fn whole(value: &Value) -> Result<i128, Error> {
    let integer = value.is_integer().then(|| i128::try_from(value.clone()).ok()).flatten();
    integer.ok_or_else(|| failed(format!("a test expects an int, not {}", type_name(value))))
}

fn cased(
    state: &mut State<'_, '_>,
    value: &Value,
    wanted: fn(char) -> bool,
    other: fn(char) -> bool,
) -> Result<bool, Error> {
    // Looking up a character's case costs more than copying it.
    charge(state, text_len(value).saturating_mul(8))?;
    let text = value.as_str().unwrap_or_default();
    Ok(text.chars().any(wanted) && !text.chars().any(other))
}
