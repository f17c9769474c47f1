//! A small text in a file with two places for it, of which the older one is written in turn, with a number and a checksum: whatever
//! is cut off in the middle of a write, the end of this process or the power, the text before is there. No new block is
//! needed, so a full disk takes it, and nothing is moved over anything, which ext4 would write out at once (`auto_da_alloc`, ext4(5)).

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;

/// Far more than any of these files has; a payload may put anything in their place.
const MAX_BYTES: u64 = 64 * 1024;

/// `NUMBER CHECKSUM`, a line.
const HEAD_BYTES: usize = 20 + 1 + 16 + 1;

/// The beginning of a new file: the text in the first place. Places are `place_bytes` long, or a multiple of that.
pub fn first(text: &[u8], place_bytes: usize) -> Vec<u8> {
    let needed = HEAD_BYTES + text.len() + 1;
    let place = encode(1, text, needed.next_multiple_of(place_bytes));
    // The second place is there from the beginning, so that its first use needs no space.
    let length = place.len() * 2;
    let mut bytes = place;
    bytes.resize(length, b' ');
    bytes
}

/// Puts a first text in the second place of a file that has something else in the first, which stays until the next write.
pub fn begin(file: &File, text: &[u8], place_bytes: usize) -> io::Result<()> {
    file.write_all_at(&encode(1, text, place_bytes), u64::try_from(place_bytes).unwrap_or(0))
}

/// The newest text that is whole, of what stands in a file. `None` if there is none.
pub fn newest(bytes: &[u8]) -> Option<&[u8]> {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let found = [decode(first), decode(second)].into_iter().flatten();
    found.max_by_key(|(number, _)| *number).map(|(_, text)| text)
}

/// The newest text of a file.
pub fn read(file: &File) -> io::Result<Option<Vec<u8>>> {
    Ok(newest(&bytes_of(file)?).map(<[u8]>::to_vec))
}

/// Puts a text in the older place of a file, by one write. `InvalidData` where no text is in there that is whole, or the place is too
/// small for this one: it takes a new file then.
pub fn write(file: &File, text: &[u8]) -> io::Result<()> {
    let bytes = bytes_of(file)?;
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let (place, number) = match (decode(first), decode(second)) {
        (Some((one, _)), Some((two, _))) if one < two => (0, two + 1),
        (Some((one, _)), _) => (first.len(), one + 1),
        (None, Some((two, _))) => (0, two + 1),
        (None, None) => return Err(ErrorKind::InvalidData.into()),
    };
    if first.len() != second.len() || HEAD_BYTES + text.len() + 1 > first.len() {
        return Err(ErrorKind::InvalidData.into());
    }
    file.write_all_at(&encode(number, text, first.len()), u64::try_from(place).unwrap_or(0))
}

fn bytes_of(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len().min(MAX_BYTES);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn encode(number: u64, text: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = format!("{number:020} {:016x}\n", checksum(number, text)).into_bytes();
    bytes.extend_from_slice(text);
    bytes.resize(length - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// The number and the text of a place; the text ends with its last character that is no blank.
fn decode(place: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = place.split_at_checked(HEAD_BYTES)?;
    let (number, sum) = std::str::from_utf8(head).ok()?.strip_suffix('\n')?.split_once(' ')?;
    let (number, sum) = (number.parse().ok()?, u64::from_str_radix(sum, 16).ok()?);
    let text = rest.trim_ascii_end();
    (checksum(number, text) == sum).then_some((number, text))
}

/// FNV-1a, 64 bits: against what is torn, not against anybody.
fn checksum(number: u64, text: &[u8]) -> u64 {
    let bytes = number.to_be_bytes().into_iter().chain(text.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().expect("a temporary file");
        file.write_all_at(bytes, 0).expect("written");
        file
    }

    fn text(file: &File) -> Option<String> {
        read(file).expect("readable").map(|text| String::from_utf8(text).expect("UTF-8"))
    }

    #[test]
    fn the_newest_text_is_read_and_the_one_before_where_a_write_was_cut() {
        let file = file(&first(b"0", 64));
        for number in 1..6 {
            assert_eq!(text(&file), Some((number - 1).to_string()));
            write(&file, number.to_string().as_bytes()).expect("written");
            let whole = bytes_of(&file).expect("readable");
            assert_eq!(whole.len(), 128);
            // Torn anywhere in the place that has just been written.
            let start = if number % 2 == 1 { 64 } else { 0 };
            for cut in start..=start + HEAD_BYTES {
                let mut torn = whole.clone();
                torn[cut] ^= 1;
                assert_eq!(newest(&torn), Some((number - 1).to_string().as_bytes()), "{cut}");
            }
        }
    }

    #[test]
    fn what_is_no_text_is_none_and_what_does_not_fit_is_refused() {
        for bytes in [&b""[..], b"x", &[0; 128], &[b' '; 4096]] {
            let file = file(bytes);
            assert_eq!(text(&file), None);
            assert_eq!(write(&file, b"x").expect_err("written").kind(), ErrorKind::InvalidData);
        }
        let file = file(&first(b"short", 64));
        assert_eq!(write(&file, &[b'x'; 64]).expect_err("written").kind(), ErrorKind::InvalidData);
        assert_eq!(text(&file).as_deref(), Some("short"));
        assert_eq!(first(&[b'x'; 64], 64).len(), 256);
    }
}
