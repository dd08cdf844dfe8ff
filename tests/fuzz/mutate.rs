//! Damage: bytes, numbers, pieces, and parts of other inputs.

use folio_sim::Random;

/// What parsers trip over.
const WORDS: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e400",
    b"18446744073709551616",
    b"9223372036854775807",
    b"4294967296",
    b"-0.0",
    b"\\ud800",
    b"\\u0000",
    b"{{",
    b"}}",
    b"{%",
    b"%}",
    b"(",
    b")",
    b"*",
    b"+",
    b"|",
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\0\0\0\0\0\0\0\x80",
    b"\xf0\x9f\x98\x80",
    b"\xc3",
    b"<|eos|>",
    b"<tool_call>",
    b"</think>",
    b"$ref",
    b"loop",
    b"\n\n",
];

/// The longest input.
const LONGEST: usize = 64 << 10;

fn pick<'a, T>(all: &'a [T], random: &mut Random) -> &'a T {
    &all[random.below(all.len())]
}

/// A damaged copy of an input.
pub(crate) fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = pick(corpus, random).clone();
    for _ in 0..1 + random.below(4) {
        once(&mut input, corpus, random);
    }
    input.truncate(LONGEST);
    input
}

fn once(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    // Mostly short pieces; now and then long ones.
    let longest = if random.below(8) == 0 { input.len() } else { 16 };
    let end = (at + 1 + random.below(longest)).min(input.len()).max(at);
    match random.below(8) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = u8::try_from(random.below(256)).unwrap(),
        2 => drop(input.drain(at..end)),
        3 => {
            let piece = input[at..end].repeat(1 + random.below(20));
            input.splice(at..at, piece);
        }
        4 => {
            let word = *pick(WORDS, random);
            input.splice(at..end.min(at + word.len()), word.iter().copied());
        }
        5 => {
            let word = *pick(WORDS, random);
            input.splice(at..at, word.iter().copied());
        }
        6 => {
            let other = pick(corpus, random);
            let from = random.below(other.len() + 1);
            let to = (from + 1 + random.below(64)).min(other.len()).max(from);
            input.splice(at..at, other[from..to].iter().copied());
        }
        _ => number(input, at, random),
    }
}

/// Another number in the place of the first one behind `at`.
fn number(input: &mut Vec<u8>, at: usize, random: &mut Random) {
    let Some(start) = input[at..].iter().position(u8::is_ascii_digit).map(|found| at + found)
    else {
        return;
    };
    let length = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let power = 1_u64 << random.below(64);
    let new = match random.below(5) {
        0 => power,
        1 => power - 1,
        2 => u64::MAX,
        3 => random.bits() % 20,
        _ => random.bits(),
    };
    input.splice(start..start + length, new.to_string().into_bytes());
}
