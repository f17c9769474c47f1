//! Looks at the documents of the tree, and at the sources that they tell of: links lead somewhere, the README stays short, and
//! the tables name what the sources have. No network, no processes.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)] // a test says what is wrong by failing

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Directories that are no part of the tree, or that hold documents of others.
const PASSED_OVER: &[&str] = &["target", "dist", "data"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `directory` whose name ends in `.` and `extension`, hidden ones aside.
fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap_or(".");
        if name.starts_with('.') || PASSED_OVER.contains(&name) {
            continue;
        }
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The lines of a document that are not inside of a fenced block.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The targets of all `[text](target)` in the prose of a document. A link's text may be spread over two lines.
fn links(text: &str) -> Vec<String> {
    let joined: Vec<&str> = prose(text).collect();
    let joined = joined.join("\n");
    joined.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// The anchors that a reader's browser finds: each heading in small letters, spaces as hyphens, other marks left out.
fn anchors(text: &str) -> BTreeSet<String> {
    prose(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            heading.chars().filter(|mark| mark.is_alphanumeric() || "-_".contains(*mark)).collect()
        })
        .collect()
}

/// The path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, part| {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
        plain
    })
}

/// What is wrong with the links of `document`.
fn dead_links(document: &Path, text: &str) -> Vec<String> {
    let is_elsewhere =
        |link: &String| ["http://", "https://", "mailto:"].iter().any(|scheme| link.starts_with(scheme));
    let mut found = Vec::new();
    for link in links(text).into_iter().filter(|link| !is_elsewhere(link)) {
        let (path, anchor) =
            link.split_once('#').map_or((link.as_str(), None), |(path, anchor)| (path, Some(anchor)));
        let target =
            if path.is_empty() { document.to_owned() } else { plain(&document.parent().unwrap().join(path)) };
        let is_there = target.exists() && target.starts_with(root());
        let leads = match anchor {
            Some(anchor) if is_there => anchors(&fs::read_to_string(&target).unwrap()).contains(anchor),
            _ => is_there,
        };
        if !leads {
            found.push(format!("{}: {link}", document.display()));
        }
    }
    found
}

/// The words in backticks of a text.
fn code_words(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The literal that follows `HttpError::new(status, ` or `Self::new(status, `, whatever the layout.
fn error_codes(source: &str) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for rest in source.split("::new(").skip(1) {
        let rest = rest.trim_start();
        let Some((status, rest)) = rest.split_once(',') else { continue };
        let is_status = status.len() == 3 && status.starts_with(['4', '5']) && status.parse::<u16>().is_ok();
        let code = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'));
        if let (true, Some((code, _))) = (is_status, code) {
            found.insert((status.to_owned(), code.to_owned()));
        }
    }
    found
}

/// The literals of a `fn code(`, as the enums of upload errors have it.
fn words_of_code_functions(source: &str) -> BTreeSet<String> {
    let bodies = source.split("fn code(").skip(1).map(|rest| rest.split("\n    }\n").next().unwrap());
    bodies
        .flat_map(|body| body.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let documents = files(root(), "md");
    assert!(documents.len() > 10, "{documents:?}");
    let dead: Vec<String> =
        documents.iter().flat_map(|path| dead_links(path, &fs::read_to_string(path).unwrap())).collect();
    assert!(dead.is_empty(), "links that lead nowhere: {dead:#?}");
}

#[test]
fn the_readme_takes_ten_minutes() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 200, "{lines} lines: long tables belong to docs/");
}

#[test]
fn the_figures_of_the_readme_are_those_of_the_benchmark() {
    let (readme, all) = (read("README.md"), read("bench/README.md"));
    let figures = readme.split("\n## Figures\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<&str> = figures.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert_eq!(rows.len(), 6, "six figures: {rows:#?}");
    for row in rows {
        assert!(all.lines().any(|line| line.starts_with(row)), "not in bench/README.md: {row}");
    }
}

#[test]
fn the_settings_of_the_readme_have_the_defaults_of_the_long_table() {
    let (readme, all) = (read("README.md"), read("docs/settings.md"));
    let settings = readme.split("\n## Settings\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<&str> = settings.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(rows.len(), 10, "those that people need: {rows:#?}");
    for row in rows {
        // The name and the default; the README may say the rest in fewer words.
        let start: String = row.split_inclusive('|').take(3).collect();
        assert!(all.lines().any(|line| line.starts_with(&start)), "not in docs/settings.md: {start}");
    }
}

#[test]
fn every_error_code_stands_in_the_routes_with_its_status() {
    let table = read("docs/routes.md");
    let rows: Vec<(&str, BTreeSet<String>)> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "))
        .filter(|(status, _)| status.parse::<u16>().is_ok())
        .map(|(status, rest)| (status, code_words(rest.split(" | ").next().unwrap())))
        .collect();
    let told: BTreeSet<(String, String)> = rows
        .iter()
        .flat_map(|(status, codes)| codes.iter().map(|code| ((*status).to_owned(), code.clone())))
        .collect();
    let mut by_status = BTreeSet::new();
    let mut words = BTreeSet::new();
    for path in files(&root().join("src"), "rs") {
        let source = fs::read_to_string(&path).unwrap();
        let source = source.split("\n#[cfg(test)]").next().unwrap();
        by_status.extend(error_codes(source));
        words.extend(words_of_code_functions(source));
    }
    assert!(by_status.len() > 20 && words.len() > 10, "the scan finds them: {by_status:?} {words:?}");
    let untold: Vec<_> = by_status.difference(&told).collect();
    assert!(untold.is_empty(), "not in docs/routes.md: {untold:?}");
    let codes: BTreeSet<String> = told.iter().map(|(_, code)| code.clone()).collect();
    let untold: Vec<_> = words.difference(&codes).collect();
    assert!(untold.is_empty(), "not in docs/routes.md: {untold:?}");
    let made: BTreeSet<String> = by_status.into_iter().map(|(_, code)| code).chain(words).collect();
    let gone: Vec<_> = codes.difference(&made).collect();
    assert!(gone.is_empty(), "told by docs/routes.md, and made nowhere: {gone:?}");
}

#[test]
fn every_log_line_that_the_documents_name_is_one() {
    let sources: Vec<String> =
        files(&root().join("src"), "rs").iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut named = 0;
    for path in files(&root().join("docs"), "md") {
        let text = fs::read_to_string(&path).unwrap();
        for rest in ["log: `", "log line `"].iter().flat_map(|before| text.split(before).skip(1)) {
            let line = rest.split('`').next().unwrap();
            let literal = format!("\"{line}\"");
            assert!(sources.iter().any(|source| source.contains(&literal)), "{}: {line}", path.display());
            named += 1;
        }
    }
    assert!(named > 1, "the scan finds them");
}

#[test]
fn every_decision_has_its_four_sections_and_its_line() {
    let index = read("docs/decisions/README.md");
    for path in files(&root().join("docs/decisions"), "md") {
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "README.md" {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut rest = text.as_str();
        for section in ["Context", "Decision", "Measured", "What would change it"] {
            let found = [format!("\n## {section}\n"), format!("\n**{section}.** ")];
            let found = found.iter().find_map(|title| rest.split_once(title.as_str()));
            rest = found.unwrap_or_else(|| panic!("docs/decisions/{name} has no {section:?} in its place")).1;
        }
        assert!(index.contains(&format!("]({name})")), "docs/decisions/README.md does not list {name}");
    }
}

#[test]
fn a_dead_link_and_a_dead_anchor_are_found() {
    let document = root().join("docs/made-up.md");
    let text =
        "# A `b` of C\n[a](#a-b-of-c) [b](routes.md#errors) [c](../README.md) [d](https://example.org/x)";
    let good = text.replace("#a-b-of-c", "routes.md");
    assert_eq!(dead_links(&document, &good), Vec::<String>::new());
    assert_eq!(anchors(text), BTreeSet::from(["a-b-of-c".to_owned()]));
    for bad in ["[x](nowhere.md)", "[x](routes.md#nowhere)", "[x\ny](../../outside.md)"] {
        assert_eq!(dead_links(&document, bad).len(), 1, "{bad}");
    }
    assert_eq!(dead_links(&document, "```\n[x](nowhere.md)\n```\n"), Vec::<String>::new());
    let codes = error_codes("HttpError::new(\n    503,\n    \"stopping\", x) Self::new(status, \"no\")");
    assert_eq!(codes, BTreeSet::from([("503".to_owned(), "stopping".to_owned())]));
}
