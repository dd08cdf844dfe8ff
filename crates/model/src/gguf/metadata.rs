//! The metadata of a GGUF file: typed values by name.

use rustc_hash::FxHashMap;
use serde_json::{Map, Number, Value as Json};

use super::cursor::Cursor;
use crate::error::ModelError;
use crate::fields::Fields;

/// How messages call it.
pub(crate) const FILE: &str = "GGUF metadata";

/// Messages repeat keys. The format allows 64 KiB; no key that anybody writes has a hundred bytes.
const MOST_KEY_BYTES: usize = 1 << 10;
const MOST_TEXT_BYTES: usize = 64 << 20;
/// In all lists together: a number takes up to sixteen times its bytes in the file. The largest vocabularies need a million.
const MOST_ITEMS: usize = 1 << 22;
const MOST_VALUES: usize = 1 << 16;
/// A key's length, a value's kind, and a byte.
const LEAST_VALUE_BYTES: usize = 8 + 4 + 1;

/// What stands under a key. Lists of numbers keep what each needs, lists of lists do not occur.
#[derive(Clone, Debug, PartialEq)]
enum Item {
    Whole(i128),
    Float(f64),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Floats(Vec<f64>),
    Wholes(Vec<i128>),
}

/// The values of a file, by name.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    items: FxHashMap<String, Item>,
}

impl Metadata {
    pub(super) fn read(cursor: &mut Cursor<'_>, count: usize) -> Result<Self, ModelError> {
        let mut items = FxHashMap::default();
        let mut room = MOST_ITEMS;
        for _ in 0..count {
            let key = cursor.text("a metadata key", MOST_KEY_BYTES)?;
            let kind = cursor.u32()?;
            let item = read_item(cursor, key, kind, &mut room)?;
            if items.insert(key.to_owned(), item).is_some() {
                return Err(bad(key, "is there twice"));
            }
        }
        Ok(Self { items })
    }

    /// The bound on how many values are read, and on what each takes in the file.
    pub(super) const LIMITS: (usize, usize) = (LEAST_VALUE_BYTES, MOST_VALUES);

    /// Everything but long lists, for bounded access by name.
    pub(crate) fn fields(&self) -> Fields {
        const LONG: usize = 1024;
        let mut values = Map::new();
        for (key, item) in &self.items {
            let json = match item {
                Item::Whole(n) => whole(*n),
                Item::Float(x) => float(*x),
                Item::Flag(flag) => Json::Bool(*flag),
                Item::Text(text) => Json::String(text.clone()),
                Item::Wholes(list) if list.len() <= LONG => {
                    list.iter().map(|n| whole(*n)).collect()
                }
                Item::Floats(list) if list.len() <= LONG => {
                    list.iter().map(|x| float(*x)).collect()
                }
                Item::Texts(_) | Item::Wholes(_) | Item::Floats(_) => continue,
            };
            values.insert(key.clone(), json);
        }
        Fields::new(FILE, values)
    }

    /// A list of texts.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>, ModelError> {
        match self.items.get(key) {
            None => Ok(None),
            Some(Item::Texts(list)) => Ok(Some(list)),
            // An empty list has no kind that could be wrong.
            Some(Item::Floats(list)) if list.is_empty() => Ok(Some(&[])),
            Some(Item::Wholes(list)) if list.is_empty() => Ok(Some(&[])),
            Some(_) => Err(bad(key, "must be a list of texts")),
        }
    }

    /// A list of floats.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn floats(&self, key: &str) -> Result<Option<&[f64]>, ModelError> {
        match self.items.get(key) {
            None => Ok(None),
            Some(Item::Floats(list)) => Ok(Some(list)),
            Some(_) => Err(bad(key, "must be a list of floating-point numbers")),
        }
    }

    /// A list of whole numbers.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn wholes(&self, key: &str) -> Result<Option<&[i128]>, ModelError> {
        match self.items.get(key) {
            None => Ok(None),
            Some(Item::Wholes(list)) => Ok(Some(list)),
            Some(_) => Err(bad(key, "must be a list of whole numbers")),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.items.get(key) {
            None => Ok(None),
            Some(Item::Text(text)) => Ok(Some(text)),
            Some(_) => Err(bad(key, "must be a text")),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.items.get(key) {
            None => Ok(None),
            Some(Item::Flag(flag)) => Ok(Some(*flag)),
            Some(_) => Err(bad(key, "must be true or false")),
        }
    }

    /// A token id below `vocab`. −1 and the largest number mean "none" in files that had to write something.
    ///
    /// # Errors
    /// When something else stands there.
    pub fn token(&self, key: &str, vocab: usize) -> Result<Option<u32>, ModelError> {
        match self.items.get(key) {
            None | Some(Item::Whole(-1)) => Ok(None),
            Some(Item::Whole(id)) if *id == i128::from(u32::MAX) => Ok(None),
            Some(Item::Whole(id)) => {
                let id = u32::try_from(*id).ok().filter(|id| (*id as usize) < vocab);
                id.map(Some)
                    .ok_or_else(|| bad(key, format!("must be the id of one of the {vocab} tokens")))
            }
            Some(_) => Err(bad(key, "must be a token id")),
        }
    }
}

fn bad(key: &str, problem: impl Into<String>) -> ModelError {
    ModelError::Field { file: FILE, field: key.to_owned(), problem: problem.into() }
}

fn whole(n: i128) -> Json {
    match (u64::try_from(n), i64::try_from(n)) {
        (Ok(n), _) => Json::Number(n.into()),
        (_, Ok(n)) => Json::Number(n.into()),
        _ => Json::String(n.to_string()),
    }
}

/// What is no number becomes a text, which whoever expects a number refuses by name.
fn float(x: f64) -> Json {
    Number::from_f64(x).map_or_else(|| Json::String(x.to_string()), Json::Number)
}

fn read_item(
    cursor: &mut Cursor<'_>,
    key: &str,
    kind: u32,
    room: &mut usize,
) -> Result<Item, ModelError> {
    const TEXT: u32 = 8;
    const LIST: u32 = 9;
    match kind {
        TEXT => Ok(Item::Text(cursor.text(&format!("`{key}`"), MOST_TEXT_BYTES)?.to_owned())),
        LIST => read_list(cursor, key, room),
        _ => read_number(cursor, key, kind),
    }
}

/// A list of at most `room` items, which it takes from there.
fn read_list(cursor: &mut Cursor<'_>, key: &str, room: &mut usize) -> Result<Item, ModelError> {
    let kind = cursor.u32()?;
    if kind == 9 {
        return Err(bad(key, "is a list of lists, which is not supported"));
    }
    if kind == 8 {
        let count = cursor.count(&format!("texts of `{key}`"), 8, *room)?;
        *room -= count;
        let mut texts = Vec::new();
        for _ in 0..count {
            texts.push(cursor.text(&format!("a text of `{key}`"), MOST_TEXT_BYTES)?.to_owned());
        }
        return Ok(Item::Texts(texts));
    }
    let size = number_bytes(kind).ok_or_else(|| unknown(key, kind))?;
    let count = cursor.count(&format!("numbers of `{key}`"), size, *room)?;
    *room -= count;
    let (mut wholes, mut floats) = (Vec::new(), Vec::new());
    for _ in 0..count {
        match read_number(cursor, key, kind)? {
            Item::Float(x) => floats.push(x),
            Item::Whole(n) => wholes.push(n),
            Item::Flag(flag) => wholes.push(i128::from(flag)),
            _ => {}
        }
    }
    let floating = matches!(kind, 6 | 12);
    Ok(if floating { Item::Floats(floats) } else { Item::Wholes(wholes) })
}

fn number_bytes(kind: u32) -> Option<usize> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

fn read_number(cursor: &mut Cursor<'_>, key: &str, kind: u32) -> Result<Item, ModelError> {
    Ok(match kind {
        0 => Item::Whole(u8::from_le_bytes(cursor.array()?).into()),
        1 => Item::Whole(i8::from_le_bytes(cursor.array()?).into()),
        2 => Item::Whole(u16::from_le_bytes(cursor.array()?).into()),
        3 => Item::Whole(i16::from_le_bytes(cursor.array()?).into()),
        4 => Item::Whole(u32::from_le_bytes(cursor.array()?).into()),
        5 => Item::Whole(i32::from_le_bytes(cursor.array()?).into()),
        6 => Item::Float(f32::from_le_bytes(cursor.array()?).into()),
        7 => match cursor.array::<1>()? {
            [0] => Item::Flag(false),
            [1] => Item::Flag(true),
            [other] => {
                return Err(bad(key, format!("is {other}, which is neither true nor false")));
            }
        },
        10 => Item::Whole(u64::from_le_bytes(cursor.array()?).into()),
        11 => Item::Whole(i64::from_le_bytes(cursor.array()?).into()),
        12 => Item::Float(f64::from_le_bytes(cursor.array()?)),
        _ => return Err(unknown(key, kind)),
    })
}

fn unknown(key: &str, kind: u32) -> ModelError {
    bad(key, format!("is of an unknown kind, number {kind}"))
}
