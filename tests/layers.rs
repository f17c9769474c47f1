//! Scans `src/` and keeps the imports pointing one way: which crate is named where, and which module may name which.
//! Comments and strings do not count. The last tests show that the scan does find what it is there for.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test says what is wrong by failing

use std::fs;
use std::path::Path;

/// Crates that are named in these files or directories only.
const CRATES: &[(&str, &[&str])] = &[
    ("may", &["http/"]),
    ("httparse", &["http/", "upload/parts.rs"]),
    ("rusqlite", &["store/"]),
    ("procfs", &["host/load.rs", "runner/processes.rs"]),
    ("multer", &["upload/"]),
    ("rawzip", &["archive/"]),
    ("flate2", &["archive/"]),
];

/// Which rooms of this crate a room may name, itself aside. Arrows point down only. `event` is the macro of `log`.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("cli", &["settings"]),
    (
        "client",
        &["api", "clock", "data", "disk_threads", "event", "host", "http", "limits", "log", "payload"],
    ),
    ("client", &["logs", "runner", "sandbox", "settings", "store", "sys", "upkeep"]),
    ("api", &["archive", "clock", "data", "disk_threads", "event", "host", "http", "limits", "log"]),
    ("api", &["logs", "metrics", "payload", "runner", "settings", "store", "upkeep", "upload"]),
    // What does the work.
    ("archive", &["clock", "data"]),
    ("http", &["clock", "disk_threads", "event", "log", "metrics", "sys"]),
    (
        "runner",
        &["clock", "data", "disk_threads", "event", "limits", "log", "payload", "sandbox", "settings"],
    ),
    ("runner", &["host", "metrics", "store", "sys", "upkeep"]),
    ("upload", &["data"]),
    ("logs", &["data", "disk_threads", "event", "payload"]),
    // Who looks after it.
    ("upkeep", &["clock", "data", "event", "limits", "payload", "store"]),
    // What it stands on.
    ("data", &["clock", "event", "payload"]),
    ("disk_threads", &["event"]),
    ("host", &["clock", "event", "log", "sys"]),
    ("limits", &["event", "metrics", "payload", "settings", "sys"]),
    ("sandbox", &["event", "host", "payload", "settings", "sys"]),
    ("settings", &["log"]),
    ("store", &["clock", "metrics", "payload"]),
    // What all may know.
    ("log", &["clock"]),
    ("payload", &["clock"]),
    ("metrics", &[]),
    ("clock", &[]),
    ("sys", &[]),
    ("may_queue", &[]), // a crate of its own
];

/// Where `unsafe` may be. The queue's is a pointer that `may` holds an entry by, as its interface wants it.
const UNSAFE: &[&str] = &["sys.rs", "may_queue/mpsc_list_v1.rs"];

const READS_ENVIRONMENT: &[&str] = &["var", "vars", "var_os", "vars_os", "set_var", "remove_var"];
const ENVIRONMENT_READERS: &[&str] = &["settings/mod.rs", "runner/environment.rs", "host/service_manager.rs"];

/// All that a file, named by its path below `src/`, does against the rules.
fn violations(file: &str, text: &str) -> Vec<String> {
    let code = without_comments_and_strings(text);
    let tokens = tokens(&code);
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push("does not open with //! lines".to_owned());
    }
    let is_in = |places: &[&str]| places.iter().any(|place| file.starts_with(place));
    for (name, places) in CRATES {
        if !is_in(places) && names_crate(&tokens, name) {
            found.push(format!("names the crate {name}"));
        }
    }
    if !UNSAFE.contains(&file) && tokens.contains(&"unsafe") {
        found.push("has unsafe code".to_owned());
    }
    if !is_in(ENVIRONMENT_READERS) && READS_ENVIRONMENT.iter().any(|name| has_path(&tokens, "env", name)) {
        found.push("reads the environment".to_owned());
    }
    if file != "main.rs" && ["args", "args_os"].iter().any(|name| has_path(&tokens, "env", name)) {
        found.push("reads the arguments".to_owned());
    }
    if !file.ends_with("clock.rs") && !file.ends_with("tests.rs") {
        // std has 32 bits for them where the machine has.
        if has_path(&tokens, "SystemTime", "now") {
            found.push("asks std for the time of day: crate::clock has it".to_owned());
        }
        if ["modified", "accessed"].iter().any(|name| tokens.contains(name)) {
            found.push("asks std for the time of a file: rustix has it".to_owned());
        }
    }
    if has_path(&tokens, "process", "exit") || has_path(&tokens, "process", "abort") {
        found.push("ends the process".to_owned());
    }
    found.extend(modules_against_the_rules(file, &tokens));
    found
}

fn modules_against_the_rules(file: &str, tokens: &[&str]) -> Vec<String> {
    let own = file.split('/').next().unwrap().trim_end_matches(".rs");
    if own == "main" {
        return Vec::new(); // the root: all modules are its own
    }
    let rules: Vec<_> = MAY_NAME.iter().filter(|rule| rule.0 == own).collect();
    if rules.is_empty() {
        return vec![format!("is of the module {own}, which has no rule in tests/layers.rs")];
    }
    let is_allowed = |name: &&str| *name == own || rules.iter().any(|rule| rule.1.contains(name));
    let named = modules_named(tokens, depth(file));
    named.into_iter().filter(|name| !is_allowed(name)).map(|name| format!("names {name}")).collect()
}

/// How many `super` lead from a file to the root of the crate.
fn depth(file: &str) -> usize {
    file.split('/').count() - usize::from(file.ends_with("/mod.rs"))
}

/// The first segments of all paths that start at the root, by `crate` or by enough `super`.
fn modules_named<'t>(tokens: &[&'t str], depth: usize) -> Vec<&'t str> {
    let mut named = Vec::new();
    let mut supers = 0;
    // Open braces; `true` for those of an inline module, which needs one more `super`.
    let mut braces = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let leads_on = tokens[index + 1..].starts_with(&[":", ":"]);
        match *token {
            "{" => braces.push(index > 1 && tokens[index - 2] == "mod"),
            "}" => drop(braces.pop()),
            _ => {}
        }
        supers = match *token {
            "super" if leads_on => supers + 1,
            ":" => supers,
            _ => 0,
        };
        let depth = depth + braces.iter().filter(|is_module| **is_module).count();
        let is_at_root = *token == "crate" || (*token == "super" && supers == depth);
        if !(is_at_root && leads_on) {
            continue;
        }
        match tokens.get(index + 3) {
            Some(&"{") => {
                named.extend(group(&tokens[index + 4..]).filter(|(_, is_first)| *is_first).map(|x| x.0));
            }
            Some(name) => named.push(name),
            None => {}
        }
    }
    named.sort_unstable();
    named.dedup();
    named
}

/// The words of an import group whose `{` has been read; `true` for those at the start of one of its own members.
fn group<'t>(tokens: &[&'t str]) -> impl Iterator<Item = (&'t str, bool)> {
    let mut open = 1;
    let mut words = Vec::new();
    let mut before = "{";
    for token in tokens {
        match *token {
            "{" => open += 1,
            "}" => open -= 1,
            _ if is_word(token) => words.push((*token, open == 1 && ["{", ","].contains(&before))),
            _ => {}
        }
        if open == 0 {
            break;
        }
        before = token;
    }
    words.into_iter()
}

fn names_crate(tokens: &[&str], name: &str) -> bool {
    tokens.iter().enumerate().any(|(index, token)| {
        let is_imported = index > 0 && ["use", "crate"].contains(&tokens[index - 1]);
        *token == name && (is_imported || tokens[index + 1..].starts_with(&[":", ":"]))
    })
}

/// Whether `module::name` is there, or a group of `module::{...}` with that name.
fn has_path(tokens: &[&str], module: &str, name: &str) -> bool {
    tokens.iter().enumerate().any(|(index, token)| {
        let rest = &tokens[index + 1..];
        let after = rest.get(2).copied();
        *token == module
            && rest.starts_with(&[":", ":"])
            && (after == Some(name)
                || (after == Some("{") && group(&rest[3..]).any(|(word, _)| word == name)))
    })
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Words, and every other character by itself.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word_char = |c: char| c.is_alphanumeric() || c == '_';
        let length = if is_word_char(first) {
            rest.find(|c| !is_word_char(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// The code with a space in place of each comment, string and character.
fn without_comments_and_strings(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_in_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = string(rest).filter(|_| !is_in_word || first == '"') {
            length
        } else if let Some(length) = character(rest) {
            length
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[length..];
    }
    code
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let (mut open, mut at) = (0, 0);
    loop {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (open, at) = (open + 1, at + 2);
        } else if rest.starts_with("*/") {
            (open, at) = (open - 1, at + 2);
        } else {
            at += rest.chars().next().map_or(0, char::len_utf8);
        }
        if open == 0 || at >= text.len() {
            return at;
        }
    }
}

/// The length of the string at the start: plain or raw, of text, bytes or C.
fn string(text: &str) -> Option<usize> {
    let unprefixed = text.strip_prefix(['b', 'c']).unwrap_or(text);
    let is_raw = unprefixed.starts_with('r');
    let marked = unprefixed.strip_prefix('r').unwrap_or(unprefixed);
    let opened = marked.trim_start_matches(if is_raw { &['#'][..] } else { &[][..] });
    let hashes = marked.len() - opened.len();
    let content = opened.strip_prefix('"')?;
    let start = text.len() - content.len();
    if is_raw {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(content.find(&end).map_or(text.len(), |at| start + at + end.len()));
    }
    Some(quoted(content, '"').map_or(text.len(), |length| start + length))
}

/// The length of the character at the start; `None` for a lifetime.
fn character(text: &str) -> Option<usize> {
    let content = text.strip_prefix('\'')?;
    let is_escape = content.starts_with('\\');
    let is_single = content.chars().nth(1) == Some('\'');
    (is_escape || is_single).then(|| quoted(content, '\'').map_or(text.len(), |length| 1 + length))
}

/// The length up to and with the closing quote.
fn quoted(content: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in content.char_indices() {
        if c == quote && !is_escaped {
            return Some(at + 1);
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    None
}

fn sources(directory: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn every_file_keeps_to_its_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 40, "only {} files found", files.len());
    let mut found = Vec::new();
    for path in files {
        let file = path.strip_prefix(&root).unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        found.extend(violations(file, &text).into_iter().map(|what| format!("src/{file} {what}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_rule_of_a_crate_is_still_about_something() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let all: Vec<String> =
        files.iter().map(|path| without_comments_and_strings(&fs::read_to_string(path).unwrap())).collect();
    for (name, _) in CRATES {
        assert!(all.iter().any(|code| names_crate(&tokens(code), name)), "no file names {name}");
    }
}

#[test]
fn the_scan_finds_what_is_against_the_rules() {
    for (file, code, what) in [
        ("api/load.rs", "use may::sync::Mutex;", "names the crate may"),
        ("api/load.rs", "fn f() { may::go!(|| ()); }", "names the crate may"),
        ("upload/tree.rs", "use httparse as h;", "names the crate httparse"),
        ("api/mod.rs", "use rusqlite::{Connection};", "names the crate rusqlite"),
        ("runner/end.rs", "use procfs::process::Process;", "names the crate procfs"),
        ("api/submit.rs", "use multer::Multipart;", "names the crate multer"),
        ("api/retrieve.rs", "extern crate rawzip;", "names the crate rawzip"),
        ("http/pipe.rs", "type Z = flate2::Compression;", "names the crate flate2"),
        ("runner/start.rs", "fn f() { unsafe { g() } }", "has unsafe code"),
        (
            "store/mod.rs",
            "fn f() { SystemTime::now(); }",
            "asks std for the time of day: crate::clock has it",
        ),
        ("upkeep/quota.rs", "fn f() { meta.modified(); }", "asks std for the time of a file: rustix has it"),
        ("client.rs", "fn f() { std::process::exit(1) }", "ends the process"),
        ("main.rs", "use std::process::{Command, exit};", "ends the process"),
        ("runner/start.rs", "use std::env;\nfn f() { env::var_os(\"A\"); }", "reads the environment"),
        ("data/path.rs", "use std::env::{self, vars};", "reads the environment"),
        ("cli/mod.rs", "fn f() { std::env::args_os(); }", "reads the arguments"),
        ("runner/mod.rs", "use crate::http::Server;", "names http"),
        ("runner/mod.rs", "use crate::{event, api::Api};", "names api"),
        ("runner/mod.rs", "use crate::{sys::{Exit, archive}, upload};", "names upload"),
        ("store/mod.rs", "use super::runner::Runner;", "names runner"),
        ("http/body.rs", "use super::super::store::Store;", "names store"),
        ("host/load.rs", "fn f() { super::super::store::g(); }", "names store"),
        ("upkeep/retention.rs", "use crate::api;", "names api"),
        (
            "upkeep/retention.rs",
            "mod tests { use super::*; fn f() { super::super::super::http::g(); } }",
            "names http",
        ),
        ("novel.rs", "", "is of the module novel, which has no rule in tests/layers.rs"),
    ] {
        assert_eq!(violations(file, &format!("//! A file.\n{code}\n")), [what], "{file}: {code}");
    }
    assert_eq!(violations("cli/mod.rs", "fn f() {}\n"), ["does not open with //! lines"]);
}

#[test]
fn the_scan_is_not_misled() {
    for (file, code) in [
        (
            "runner/mod.rs",
            "// use crate::http::Server;\n/* unsafe /* may:: */ unsafe */ /// std::process::exit(1)",
        ),
        (
            "runner/mod.rs",
            r##"const A: &str = "\" unsafe"; const B: &str = r#"" may::x"#; const C: &CStr = c"unsafe";"##,
        ),
        ("runner/mod.rs", r#"fn f<'a>(x: &'a str) -> char { if x == '\'' { '\u{22}' } else { '"' } } // '"#),
        ("runner/mod.rs", "use crate::{event, sys::{self, http}};\nuse crate::store::archive;"),
        ("runner/mod.rs", "#[cfg(test)] mod tests { use super::*; fn f() { super::end::g(); } }"),
        (
            "runner/mod.rs",
            "fn maybe() { may_be(); let may = 1; exit.code(); std::process::id(); env!(\"A\"); }",
        ),
        ("store/mod.rs", "use rusqlite::Connection;"),
        ("http/pipe.rs", "use may::sync::Blocker;"),
        ("sys.rs", "fn f() { unsafe { g() } }"),
        ("main.rs", "fn f() { std::env::args_os(); }"),
        ("settings/mod.rs", "fn f() { std::env::var_os(\"A\"); }"),
    ] {
        let expected: [&str; 0] = [];
        assert_eq!(violations(file, &format!("//! A file.\n{code}\n")), expected, "{file}: {code}");
    }
    // After each of these, the scan must be awake again.
    for opening in [
        r#"let s = "a\\";"#,
        "let c = '\\\\';",
        "let c = '\"';",
        "/* /* */ */",
        "let s = br##\"\"#\"##;",
        "// '",
    ] {
        let code = format!("//! A file.\n{opening}\nunsafe {{}}\n");
        assert_eq!(violations("cli/mod.rs", &code), ["has unsafe code"], "{opening}");
    }
}
