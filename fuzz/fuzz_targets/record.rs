//! Any bytes as the record of a payload, as a disk may give them back: they are refused, or they are what this client would write, and
//! stay so; and what is read from a file with a checksum, or from where version 0.1.0 had it, is what parsing says.

#![no_main]

use std::fs;
use std::path::Path;

use fuzz::data::place::{OWN, RECORDS};
use fuzz::data::record::{self, Record, RecordError, Shelf};
use fuzz::data::slots;
use fuzz::payload::{Payload, Status};
use fuzz::place::place;
use libfuzzer_sys::fuzz_target;
use miniserde::json::{self, Number, Value};

/// The payload directory's name, as the corpus has it.
const NAME: &str = "payload";

/// More is not read of a file.
const MOST_BYTES: usize = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let parsed = Record::parse(bytes);
    if let Ok(record) = &parsed {
        let written = record.to_bytes();
        let again = Record::parse(&written).expect("what was written is a record");
        assert!(is_same(&value(&written), &value(&again.to_bytes())), "{again:?} was {record:?}");
    }
    load(bytes, &parsed);
});

fn value(bytes: &[u8]) -> Value {
    json::from_str(std::str::from_utf8(bytes).expect("UTF-8")).expect("JSON")
}

/// The JSON reader does not round the last digits of a fraction as it should; of seconds, nobody will miss them.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(one), Value::Bool(other)) => one == other,
        (Value::String(one), Value::String(other)) => one == other,
        (Value::Number(Number::F64(one)), Value::Number(Number::F64(other))) => {
            (one - other).abs() <= one.abs() * 1e-12
        }
        (Value::Number(one), Value::Number(other)) => one.to_string() == other.to_string(),
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| one.0 == other.0 && is_same(one.1, other.1))
        }
        _ => false,
    }
}

fn load(bytes: &[u8], parsed: &Result<Record, RecordError>) {
    let data_path = place("record");
    let directory = data_path.join(NAME);
    let records = data_path.join(OWN).join(RECORDS);
    for made in [&directory, &records] {
        fs::create_dir_all(made).expect("a directory");
    }
    let shelf = Shelf::of(data_path, String::new()).expect("it is there");
    // As they are, nothing in them has a checksum.
    let file = records.join(NAME);
    fs::write(&file, bytes).expect("space for a small file");
    let is_refused = |loaded| matches!(loaded, Err(RecordError::Damaged(_) | RecordError::Missing));
    assert!(slots::newest(bytes).is_some() || is_refused(shelf.load(&directory)));
    fs::write(&file, slots::first(bytes, 1024)).expect("space for a small file");
    check(shelf.load(&directory), bytes, parsed, &directory);
    fs::write(directory.join(".orchestrator.payload"), bytes).expect("space for a small file");
    check(record::load_earlier(&directory), bytes, parsed, &directory);
}

fn check(
    loaded: Result<Payload, RecordError>,
    bytes: &[u8],
    parsed: &Result<Record, RecordError>,
    directory: &Path,
) {
    match loaded {
        Ok(payload) => {
            // The checksum is of what stands before the last blanks.
            assert!(parsed.is_ok() || bytes.len() > MOST_BYTES / 2);
            assert!(payload.id > 0, "the id {}", payload.id);
            assert_eq!(Path::new(&payload.loc), directory, "a record leads elsewhere");
            assert_ne!(payload.status, Status::Cleaned);
            // What is told of it must be JSON, whatever stands in the record.
            let told = payload.to_json();
            assert!(json::from_str::<Value>(&told).is_ok(), "{told}");
            // It is the record of the same payload again, as the next change of status writes it.
            let own = Record::of(&payload);
            if let Ok(parsed) = parsed {
                assert_eq!(own, *parsed, "another record than was read");
            }
        }
        Err(RecordError::Damaged(_)) => {}
        Err(error) => panic!("a file that is there: {error}"),
    }
}
