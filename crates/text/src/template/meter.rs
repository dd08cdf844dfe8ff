//! What a rendering may cost.
//!
//! The virtual machine counts instructions (fuel), but one instruction can copy a gigabyte: forty times `x = x ~ x` is 160
//! instructions and a terabyte. So every operation whose cost depends on its operands is charged here in bytes *before* it
//! runs, from one purse per rendering. All memory that a template obtains is paid for, so the purse also bounds memory.
//!
//! The second bound is on shape: a value that a template builds has at most [`MAX_DEPTH`] levels and [`MAX_NODES`] elements,
//! counted with repetition, so that nothing that walks a value recurses too deep or meets `[x, x]` nested forty times.

use std::sync::LazyLock;

use minijinja::value::{DynObject, Tuple, Value, ValueKind};
use minijinja::{Error, State};

use super::error::{TemplateError, failed, stop};

/// The purse of one rendering, in bytes.
pub(super) const WORK: u64 = 256 << 20;
/// What one element of a list or map costs.
pub(super) const ELEMENT: usize = 32;
/// The deepest value that a template may build or be given.
pub(super) const MAX_DEPTH: usize = 128;
/// The most elements a value that a template builds may have, counted through all levels.
const MAX_NODES: usize = 1 << 20;

/// The purse. It lives in the state of the rendering, which macros and loops share.
struct Meter {
    left: u64,
}

/// Pays for `bytes` of copying, comparing or searching.
pub(super) fn charge(state: &mut State<'_, '_>, bytes: usize) -> Result<(), Error> {
    let meter = state.get_or_insert_extension_with(|| Meter { left: WORK });
    match u64::try_from(bytes).ok().and_then(|bytes| meter.left.checked_sub(bytes)) {
        Some(left) => {
            meter.left = left;
            Ok(())
        }
        None => Err(stop(TemplateError::TooMuchWork { limit: WORK })),
    }
}

/// What is left in the purse, in bytes.
pub(super) fn left(state: &mut State<'_, '_>) -> usize {
    let meter = state.get_or_insert_extension_with(|| Meter { left: WORK });
    usize::try_from(meter.left).unwrap_or(usize::MAX)
}

/// The size of a string, or nothing for all that is not a string: the cost of operations that look at strings only. Named
/// arguments count as their values.
pub(super) fn text_len(value: &Value) -> usize {
    match value.as_object() {
        Some(named) if value.is_kwargs() => {
            named.try_iter_pairs().into_iter().flatten().map(|(_, value)| text_len(&value)).sum()
        }
        _ => value.as_str().map_or(0, str::len),
    }
}

/// The cost of reading all of `value` (comparing, sorting or hashing it), which is paid here.
pub(super) fn charge_deep(state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.as_object().is_none() {
        return charge(state, text_len(value));
    }
    let mut walk = Walk { nodes: left(state) / ELEMENT, bytes: left(state) };
    match walk.read(value, 0) {
        Some(()) => {
            let spent = left(state).saturating_sub(walk.bytes);
            charge(state, spent)
        }
        None => Err(stop(TemplateError::TooMuchWork { limit: WORK })),
    }
}

struct Walk {
    nodes: usize,
    bytes: usize,
}

impl Walk {
    fn read(&mut self, value: &Value, depth: usize) -> Option<()> {
        self.nodes = self.nodes.checked_sub(1)?;
        self.bytes = self.bytes.checked_sub(ELEMENT + text_len(value))?;
        if depth > 2 * MAX_DEPTH {
            return None;
        }
        let Some(object) = value.as_object() else { return Some(()) };
        match value.kind() {
            ValueKind::Map => {
                for (key, item) in object.try_iter_pairs()? {
                    self.read(&key, depth + 1)?;
                    self.read(&item, depth + 1)?;
                }
            }
            ValueKind::Seq | ValueKind::Iterable => {
                for item in object.try_iter()? {
                    self.read(&item, depth + 1)?;
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// Checks that `value`, which a template is about to keep inside another one, is plain data of bounded shape, and pays.
///
/// Namespaces and loops are refused: they can be changed later, so they could be made to contain themselves.
pub(super) fn hold(state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.as_object().is_none() {
        return Ok(());
    }
    let mut nodes = MAX_NODES;
    measure(value, MAX_DEPTH - 1, &mut nodes)?;
    charge(state, (MAX_NODES - nodes).saturating_mul(ELEMENT))
}

fn measure(value: &Value, depth: usize, nodes: &mut usize) -> Result<(), Error> {
    *nodes = nodes.checked_sub(1).ok_or_else(|| {
        failed(format!("a template cannot build a value of more than {MAX_NODES} elements"))
    })?;
    let Some(object) = value.as_object() else { return Ok(()) };
    let below = || {
        depth.checked_sub(1).ok_or_else(|| {
            failed(format!("a template cannot build a value of more than {MAX_DEPTH} levels"))
        })
    };
    if is_list(value) {
        for item in object.try_iter().into_iter().flatten() {
            measure(&item, below()?, nodes)?;
        }
    } else if is_dict(value) {
        for (_, item) in object.try_iter_pairs().into_iter().flatten() {
            measure(&item, below()?, nodes)?;
        }
    } else if value.kind() != ValueKind::Plain {
        return Err(failed("a namespace, a loop or a macro cannot be kept inside another value"));
    }
    Ok(())
}

/// A list or a tuple.
pub(super) fn is_list(value: &Value) -> bool {
    value.downcast_object_ref::<Vec<Value>>().is_some()
        || value.downcast_object_ref::<Tuple>().is_some()
}

/// A dict; not a namespace, a loop or a macro, which look like maps.
pub(super) fn is_dict(value: &Value) -> bool {
    static DICT: LazyLock<Option<&'static str>> = LazyLock::new(|| {
        let dict = Value::from_pairs(std::iter::empty::<(Value, Value)>());
        dict.as_object().map(DynObject::type_name)
    });
    value.as_object().is_some_and(|object| Some(object.type_name()) == *DICT)
}
