//! Any bytes as the record of a payload, which the payload itself can write: they are refused, or they are what this client
//! would write, and stay so; and what is read from a directory is what parsing says.

#![no_main]

use std::fs;
use std::path::Path;

use fuzz::data::record::{self, FILE, Record, RecordError};
use fuzz::payload::Status;
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
    let directory = place("record").join(NAME);
    fs::create_dir_all(&directory).expect("a directory");
    fs::write(directory.join(FILE), bytes).expect("space for a small file");
    match record::load(&directory) {
        Ok(payload) => {
            assert!(parsed.is_ok() || bytes.len() > MOST_BYTES);
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
