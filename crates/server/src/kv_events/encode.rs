//! Events as msgpack, in vLLM's shapes.
//!
//! A batch is the list `[time, events, rank]`. Fields that vLLM has and that have no meaning here are left out where a reader
//! may miss them, and `nil` where it may not.

use super::config::Encoding;

/// The memory whose cache is told of: the one that computes, whichever it is.
const MEDIUM: &str = "GPU";

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Blocks that follow each other can be found.
    Stored { blocks: Vec<u64>, parent: Option<u64>, tokens: Vec<u32>, block_size: u32 },
    /// Blocks that can no longer be found.
    Removed { blocks: Vec<u64> },
    /// Nothing can be found.
    Cleared,
}

/// A batch that was made `time` seconds after 1970.
pub(super) fn batch(time: f64, events: &[Event], encoding: Encoding) -> Vec<u8> {
    let mut out = Vec::new();
    array(&mut out, 3);
    out.push(0xcb);
    out.extend_from_slice(&time.to_be_bytes());
    array(&mut out, events.len());
    for event in events {
        one(&mut out, event, encoding);
    }
    unsigned(&mut out, 0);
    out
}

fn one(out: &mut Vec<u8>, event: &Event, encoding: Encoding) {
    let mut fields = Fields { out, encoding };
    match event {
        Event::Stored { blocks, parent, tokens, block_size } => {
            fields.begin("BlockStored", 7);
            fields.unsigneds("block_hashes", blocks.iter().copied());
            fields.field("parent_block_hash", |out| match parent {
                Some(hash) => unsigned(out, *hash),
                None => nil(out),
            });
            fields.unsigneds("token_ids", tokens.iter().copied().map(u64::from));
            fields.field("block_size", |out| unsigned(out, (*block_size).into()));
            fields.field("lora_id", nil);
            fields.field("medium", |out| string(out, MEDIUM));
            fields.field("lora_name", nil);
        }
        Event::Removed { blocks } => {
            fields.begin("BlockRemoved", 2);
            fields.unsigneds("block_hashes", blocks.iter().copied());
            fields.field("medium", |out| string(out, MEDIUM));
        }
        Event::Cleared => fields.begin("AllBlocksCleared", 0),
    }
}

/// Writes named fields: with their names in a map, by position in a list.
struct Fields<'a> {
    out: &'a mut Vec<u8>,
    encoding: Encoding,
}

impl Fields<'_> {
    fn begin(&mut self, kind: &str, fields: usize) {
        match self.encoding {
            Encoding::Map => map(self.out, fields + 1),
            Encoding::Array => array(self.out, fields + 1),
        }
        self.field("type", |out| string(out, kind));
    }

    fn field(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        if self.encoding == Encoding::Map {
            string(self.out, name);
        }
        write(self.out);
    }

    fn unsigneds(&mut self, name: &str, values: impl ExactSizeIterator<Item = u64>) {
        self.field(name, |out| {
            array(out, values.len());
            values.for_each(|value| unsigned(out, value));
        });
    }
}

fn nil(out: &mut Vec<u8>) {
    out.push(0xc0);
}

fn array(out: &mut Vec<u8>, len: usize) {
    head(out, len, 0x90, 0xdc, 0xdd);
}

fn map(out: &mut Vec<u8>, len: usize) {
    head(out, len, 0x80, 0xde, 0xdf);
}

/// The head of a collection: up to 15 entries within the first byte, then 16 bits, then 32.
fn head(out: &mut Vec<u8>, len: usize, short: u8, medium: u8, long: u8) {
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..16), _) => out.push(short | len),
        (_, Ok(len)) => {
            out.push(medium);
            out.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            out.push(long);
            // What one step changes is far below 2^32 blocks.
            out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}

/// At most 255 bytes; ours are constants.
fn string(out: &mut Vec<u8>, text: &str) {
    out.extend([0xd9, u8::try_from(text.len()).unwrap_or(u8::MAX)]);
    out.extend_from_slice(text.as_bytes());
}

fn unsigned(out: &mut Vec<u8>, value: u64) {
    match (u8::try_from(value), u16::try_from(value), u32::try_from(value)) {
        (Ok(small @ 0..0x80), ..) => out.push(small),
        (Ok(byte), ..) => out.extend([0xcc, byte]),
        (_, Ok(short), _) => {
            out.push(0xcd);
            out.extend_from_slice(&short.to_be_bytes());
        }
        (_, _, Ok(word)) => {
            out.push(0xce);
            out.extend_from_slice(&word.to_be_bytes());
        }
        _ => {
            out.push(0xcf);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}
