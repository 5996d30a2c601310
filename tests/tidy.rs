//! Source hygiene as a test: what the compiler and clippy do not look at.
//!
//! Files are read as text. Comments and literals are blanked before anything is looked for in code,
//! so that this file may name what it forbids.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A file under this length can be read in one go; chosen by feel.
const FILE_LINES_MAX: usize = 800;
/// A function under this length can be seen in one go; chosen by feel.
const FUNCTION_LINES_MAX: usize = 70;

/// Which modules each top-level module may use, besides itself. `main.rs` uses whatever it likes.
const LAYERS: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("clock", &[]),
    ("holder", &[]),
    ("wake", &[]),
    ("scheduling", &["clock"]),
    ("protocol", &["units"]),
    ("blob", &["clock", "holder", "units"]),
    ("storage", &["blob", "clock", "holder", "protocol", "scheduling", "units", "wake"]),
    ("link", &["clock", "protocol", "units", "wake"]),
    ("engine", &["clock", "protocol", "storage", "units"]),
    ("config", &["clock", "engine", "link", "protocol", "storage", "units"]),
    ("client", &["clock", "engine", "link", "protocol", "units", "wake"]),
    (
        "server",
        &[
            "client",
            "clock",
            "config",
            "engine",
            "holder",
            "link",
            "protocol",
            "scheduling",
            "storage",
            "units",
            "wake",
        ],
    ),
    ("admin", &["clock", "config", "engine", "link", "protocol", "server", "storage", "units"]),
    (
        "cli",
        &[
            "admin", "blob", "client", "clock", "config", "engine", "link", "protocol", "server",
            "storage", "units", "wake",
        ],
    ),
];

/// Files that may say `unsafe`, by how their paths start.
const UNSAFE_ALLOWED: &[&str] = &[
    "benches/compare/answerer.rs",
    "examples/",
    "src/blob/file/writeback.rs",
    "src/link/af_packet",
    "src/link/interface.rs",
    "src/scheduling.rs",
    "src/storage/aligned.rs",
    "src/storage/cas/index/map.rs",
    "src/storage/device",
    "src/storage/file",
    "tests/",
];

/// Macros that stand for work left undone, or for looking on while it is done.
const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];

/// Where sources are. Captures and corpora in `tests/data` are not text.
const DIRECTORIES: &[&str] =
    &[".ci", "benches", "config", "docs", "examples", "fuzz", "src", "tests"];
const SKIPPED: &[&str] = &["fuzz/artifacts", "fuzz/corpus", "fuzz/coverage", "tests/data"];

/// What text files are called here; others, say images that somebody left, are none of ours.
const TEXT_ENDINGS: &[&str] = &[
    ".gitignore",
    ".json",
    ".lock",
    ".md",
    ".rs",
    ".service",
    ".sh",
    ".toml",
    "/run",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "Makefile",
];

/// A text file of this package.
struct Source {
    /// From the package's root, with `/` between its parts.
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "rs")
    }

    /// The top-level module that the file belongs to; `None` outside the library.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let module = inside.split('/').next()?;
        let module = module.strip_suffix(".rs").unwrap_or(module);
        (!matches!(module, "lib" | "main")).then_some(module)
    }
}

/// All text files, in order of their paths.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    collect(root, "", false, &mut sources);
    for directory in DIRECTORIES {
        if root.join(directory).is_dir() {
            collect(root, directory, true, &mut sources);
        }
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"));
    sources
}

fn collect(root: &Path, directory: &str, recursive: bool, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(root.join(directory)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
        if entry.file_type().unwrap().is_dir() {
            if recursive && name != "target" && !SKIPPED.contains(&path.as_str()) {
                collect(root, &path, true, sources);
            }
        } else if TEXT_ENDINGS.iter().any(|ending| path.ends_with(ending)) {
            let text = fs::read(entry.path()).unwrap();
            let text = String::from_utf8(text).unwrap_or_else(|_| panic!("{path} is not UTF-8"));
            sources.push(Source { path, text });
        }
    }
}

/// Complains about each of `faults`, if there are any.
fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// `text` with comments and literals blanked, line for line.
fn code(text: &str) -> String {
    let octets = text.as_bytes();
    let mut out = octets.to_vec();
    let mut at = 0;
    while at < octets.len() {
        let end = literal_or_comment_end(octets, at);
        for octet in &mut out[at..end] {
            if *octet != b'\n' {
                *octet = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment or literal that starts at `at` ends; `at` itself when none does.
fn literal_or_comment_end(octets: &[u8], at: usize) -> usize {
    let rest = &octets[at..];
    let is_word = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'_';
    let after_word = at > 0 && is_word(octets[at - 1]);
    let len = match rest {
        [b'/', b'/', ..] => rest.iter().position(|octet| *octet == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => block_comment_len(rest),
        [b'"', ..] => 1 + quoted_len(&rest[1..], b'"'),
        [b'\'', b'\\', ..] => 1 + quoted_len(&rest[1..], b'\''),
        [b'\'', _, b'\'', ..] => 3,
        [b'b' | b'c', b'r', ..] if !after_word => match raw_string_len(&rest[2..]) {
            0 => 0,
            len => len + 2,
        },
        [b'r', ..] if !after_word => match raw_string_len(&rest[1..]) {
            0 => 0,
            len => len + 1,
        },
        _ => 0,
    };
    at + len
}

/// The length of a comment of the kind that nests.
fn block_comment_len(rest: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0_usize);
    while at < rest.len() {
        match rest[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length up to and with the closing `quote`, which a backslash may precede in vain.
fn quoted_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// The length of a raw string after its `r`; zero when it is not one.
fn raw_string_len(rest: &[u8]) -> usize {
    let hashes = rest.iter().take_while(|octet| **octet == b'#').count();
    if rest.get(hashes) != Some(&b'"') {
        return 0;
    }
    let mut closing = vec![b'"'];
    closing.resize(hashes + 1, b'#');
    let body = &rest[hashes + 1..];
    let end = body.windows(closing.len()).position(|window| window == closing);
    end.map_or(rest.len(), |end| hashes + 1 + end + closing.len())
}

/// The words of `code`, with where each starts.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut next = 0;
    let is_no_word = |char: char| !char.is_ascii_alphanumeric() && char != '_';
    code.split_inclusive(is_no_word).filter_map(move |part| {
        let at = next;
        next += part.len();
        let word = part.trim_end_matches(is_no_word);
        (!word.is_empty()).then_some((at, word))
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The part of a source before its unit tests, which may reach where the code may not.
fn before_tests(code: &str) -> &str {
    code.find("#[cfg(test)]\nmod tests").map_or(code, |at| &code[..at])
}

/// The modules below the crate's root that `code` names by paths from there, `use` groups included.
fn modules_used(code: &str) -> Vec<(usize, &str)> {
    let mut used = Vec::new();
    for (at, _) in words(code).filter(|(_, word)| *word == "crate") {
        let Some(path) = code[at + "crate".len()..].trim_start().strip_prefix("::") else {
            continue;
        };
        match path.trim_start().strip_prefix('{') {
            Some(group) => {
                let names = group_heads(group).into_iter();
                used.extend(names.map(|name| (line_of(code, at), name)));
            }
            None => used.extend(words(path).next().map(|(_, name)| (line_of(code, at), name))),
        }
    }
    used
}

/// The first name of each path in a group whose opening brace has been taken off.
fn group_heads(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut heads) = (0_usize, 0, Vec::new());
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                heads.extend(words(&group[start..at]).next().map(|(_, name)| name));
                start = at + 1;
                if char == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads
}

/// How many modules deep the one in the file at `path` is: 1 for `src/clock.rs`.
fn depth(path: &str) -> usize {
    let parts = path.matches('/').count();
    if path.ends_with("/mod.rs") { parts - 1 } else { parts }
}

/// What of `code`, in the layer `module`, breaks the layers' order.
fn layer_faults(path: &str, module: &str, code: &str) -> Vec<String> {
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{path}: the module {module} is in no layer; see LAYERS")];
    };
    let code = before_tests(code);
    let is_layer = |name: &str| LAYERS.iter().any(|(layer, _)| *layer == name);
    let mut faults: Vec<String> = modules_used(code)
        .into_iter()
        .filter(|(_, name)| is_layer(name) && *name != module && !allowed.contains(name))
        .map(|(line, name)| format!("{path}:{line}: {module} may not use {name}"))
        .collect();
    // The other way up to the root would go unseen.
    let to_the_root = "super::".repeat(depth(path));
    if code.split_whitespace().collect::<String>().contains(&to_the_root) {
        faults.push(format!("{path}: say crate:: in place of {to_the_root}"));
    }
    faults
}

/// Functions of `code` that are too long: line, name, length.
fn long_functions(code: &str) -> Vec<(usize, &str, usize)> {
    let mut long = Vec::new();
    for (at, _) in words(code).filter(|(_, word)| *word == "fn") {
        let Some((_, name)) = words(&code[at + 2..]).next() else { continue };
        let Some(open) = code[at..].find(['{', ';']).map(|open| at + open) else { continue };
        if code.as_bytes()[open] == b';' {
            continue;
        }
        let mut depth = 0_usize;
        let close = code[open..].find(|char| {
            match char {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        let close = open + close.unwrap_or(code.len() - open);
        let lines = line_of(code, close) - line_of(code, at) + 1;
        if lines > FUNCTION_LINES_MAX {
            long.push((line_of(code, at), name, lines));
        }
    }
    long
}

#[test]
fn modules_use_only_the_layers_below_them() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.is_rust()) {
        if let Some(module) = source.module() {
            faults.extend(layer_faults(&source.path, module, &code(&source.text)));
        }
    }
    none(&faults);
}

#[test]
fn files_and_functions_are_short() {
    let mut faults = Vec::new();
    for Source { path, text } in sources().iter().filter(|source| source.is_rust()) {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            faults.push(format!("{path}: {lines} lines, more than {FILE_LINES_MAX}"));
        }
        for (line, name, lines) in long_functions(&code(text)) {
            faults.push(format!("{path}:{line}: fn {name} has {lines} lines"));
        }
    }
    none(&faults);
}

#[test]
fn every_module_says_what_it_is() {
    let rust = sources().into_iter().filter(Source::is_rust);
    let silent = rust.filter(|source| !source.text.starts_with("//! "));
    none(&silent.map(|source| format!("{}: starts without //!", source.path)).collect::<Vec<_>>());
}

#[test]
fn nothing_is_unfinished() {
    let mut faults = Vec::new();
    for Source { path, text } in sources().iter().filter(|source| source.is_rust()) {
        let code = code(text);
        for (at, word) in words(&code).filter(|(_, word)| UNFINISHED.contains(word)) {
            if code[at + word.len()..].trim_start().starts_with('!') {
                faults.push(format!("{path}:{}: {word}!", line_of(&code, at)));
            }
        }
    }
    none(&faults);
}

#[test]
fn unsafe_code_is_where_it_may_be() {
    let mut faults = Vec::new();
    for Source { path, text } in sources().iter().filter(|source| source.is_rust()) {
        if UNSAFE_ALLOWED.iter().any(|allowed| path.starts_with(allowed)) {
            continue;
        }
        let code = code(text);
        for (at, _) in words(&code).filter(|(_, word)| *word == "unsafe") {
            faults.push(format!("{path}:{}: unsafe", line_of(&code, at)));
        }
    }
    none(&faults);
}

#[test]
fn text_is_plain() {
    let mut faults = Vec::new();
    for source in &sources() {
        let path = &source.path;
        for (number, line) in (1..).zip(source.text.split('\n')) {
            if !line.is_ascii() {
                faults.push(format!("{path}:{number}: not ASCII"));
            }
            if line.ends_with([' ', '\t', '\r']) {
                faults.push(format!("{path}:{number}: ends in white space"));
            }
            if source.is_rust() && line.contains('\t') {
                faults.push(format!("{path}:{number}: a tab"));
            }
        }
        if !source.text.is_empty() && !source.text.ends_with('\n') {
            faults.push(format!("{path}: no newline at the end"));
        }
    }
    none(&faults);
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    // In two parts, so as not to find itself.
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/."), concat!("/ho", "me/")];
    let mut faults = Vec::new();
    for Source { path, text } in &sources() {
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(place) = places.iter().find(|place| line.contains(**place)) {
                faults.push(format!("{path}:{number}: names {place}"));
            }
        }
    }
    none(&faults);
}

#[test]
fn every_layer_is_one_that_is_lower() {
    // Whatever a layer may use stands before it in the table, so that there are no circles.
    let mut before = BTreeSet::new();
    for (name, allowed) in LAYERS {
        assert!(allowed.iter().all(|allowed| before.contains(allowed)), "{name}");
        assert!(before.insert(name), "{name} stands twice");
    }
}

#[test]
fn comments_and_literals_are_not_code() {
    let text = r##"fn a<'x>() { "crate::link \" " } // crate::link
/* crate /* nested */ link */ let b = ('"', '\'', b'{', b"}", r#" " "#, br"\", c"{");
let r#type = bar"x";"##;
    let blanked = code(text);
    assert_eq!(blanked.len(), text.len());
    let words: Vec<&str> = blanked.split_whitespace().collect();
    let left = "fn a<'x>() { } let b = ( , , b , b , , , c ); let r#type = bar ;";
    assert_eq!(words.join(" "), left);
    assert_eq!((line_of(text, text.len()), line_of(&blanked, blanked.len())), (3, 3));
}

#[test]
fn the_rules_find_what_they_are_for() {
    let faults =
        |path: &str, module: &str, text: &str| layer_faults(path, module, &code(text)).len();
    assert_eq!(faults("src/engine/ata.rs", "engine", "use crate::storage::Fault;"), 0);
    assert_eq!(faults("src/engine/ata.rs", "engine", "use crate::link::Link;"), 1);
    assert_eq!(faults("src/engine/ata.rs", "engine", "let x = crate :: cli :: run();"), 1);
    assert_eq!(faults("src/engine/ata.rs", "engine", "pub(crate) fn link() {}"), 0);
    let group = "use crate::{units::{Lba, Sectors}, client, server::{self, link}};";
    assert_eq!(faults("src/engine/ata.rs", "engine", group), 2);
    assert_eq!(faults("src/engine/ata.rs", "engine", "use super::super::link;"), 1);
    assert_eq!(faults("src/engine/mod.rs", "engine", "use super::link;"), 1);
    assert_eq!(faults("src/storage/file/open.rs", "storage", "use super::super::mem;"), 0);
    assert_eq!(faults("src/storage/file/mod.rs", "storage", "use super::super::link;"), 1);
    assert_eq!(faults("src/engine/ata.rs", "engine", "use super::config;"), 0);
    assert_eq!(faults("src/gadget.rs", "gadget", ""), 1);
    let tests = "#[cfg(test)]\nmod tests { use crate::link::Link; }";
    assert_eq!(faults("src/engine/ata.rs", "engine", tests), 0);

    let body = "    work();\n".repeat(FUNCTION_LINES_MAX - 2);
    let short = format!("fn a() {{\n{body}}}\n");
    assert_eq!(long_functions(&short), []);
    let long = format!("trait T {{ fn b(); }}\n{short}\nfn c() {{\n{body}    {{}}\n}}\n");
    assert_eq!(long_functions(&long), [(FUNCTION_LINES_MAX + 3, "c", FUNCTION_LINES_MAX + 1)]);
}
