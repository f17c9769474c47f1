//! The notation of inputs that arrive in pieces. A fuzzer changes bytes and knows no structure, so the structure is in the
//! bytes: all stand for themselves but two.
//!
//! | bytes | mean |
//! |---|---|
//! | `FF` | a cut: what follows arrives later |
//! | `FE` *c* *n* | *c*, 64 * *n* times: limits of kilobytes within reach of inputs of bytes |
//! | `FE FF` *c* | *c* itself, whatever it is |

/// More is cut off: what a target does with an input must take milliseconds.
const MOST_BYTES: usize = 200 * 1024;

/// Repeats `n` of one byte come in such steps.
const REPEAT_STEP: usize = 64;

/// The pieces that an input stands for, none of them empty.
pub fn pieces(input: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut piece = Vec::new();
    let mut left = MOST_BYTES;
    let mut rest = input;
    while let [first, tail @ ..] = rest {
        let (byte, count, length) = match rest {
            [0xFF, ..] => {
                pieces.push(std::mem::take(&mut piece));
                rest = tail;
                continue;
            }
            [0xFE, 0xFF, byte, ..] => (*byte, 1, 3),
            [0xFE, byte, steps, ..] => (*byte, usize::from(*steps) * REPEAT_STEP, 3),
            _ => (*first, 1, 1),
        };
        let count = count.min(left);
        piece.resize(piece.len() + count, byte);
        left -= count;
        rest = &rest[length..];
    }
    pieces.push(piece);
    pieces.retain(|piece| !piece.is_empty());
    pieces
}
