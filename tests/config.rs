//! Configurations: the examples are accepted, every mistake is told with its place and its remedy.
#![allow(clippy::unwrap_used, reason = "a test helper has nobody to report to")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aoe_server::config::{
    BLOB_STORE_KEYS, CAS_KEYS, CasConfig, CasContent, Config, ConfigError, LinkKind, PollPolicy,
    Problem, SERVER_KEYS, ServerConfig, StorageConfig, StoreConfig, StoreLayout, TARGET_KEYS,
    TargetConfig, Window, fuzz,
};
use aoe_server::engine::{Durability, MAX_TARGETS};
use aoe_server::protocol::ata::AtaText;
use aoe_server::protocol::{Address, MacAddr};
use aoe_server::storage::journal::FileJournal;
use aoe_server::units::Sectors;
use log::LevelFilter;
use proptest::prelude::*;

const SERVER: &str = "[server]\ninterface = \"eth0\"\n";

fn parse(text: &str) -> Config {
    Config::parse(text, "test.toml").unwrap_or_else(|errors| panic!("{errors}"))
}

/// One target of the server above, by its keys.
fn target(keys: &str) -> TargetConfig {
    let mut config = parse(&format!("{SERVER}[[target]]\n{keys}"));
    assert_eq!(config.targets.len(), 1);
    config.targets.remove(0)
}

/// The files in `directory` whose names end with `.toml`.
fn files(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|ext| ext == "toml")).collect();
    files.sort();
    files
}

/// Whether `name` stands at the start of a line of `text` as a key, or is that of a table.
fn uses_key(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        let rest = line.strip_prefix(name).map(str::trim_start);
        let is_table = line.starts_with('[') && line.ends_with(&format!(".{name}]"));
        is_table || rest.is_some_and(|rest| rest.starts_with('='))
    })
}

/// The keys of all tables.
fn all_keys() -> impl Iterator<Item = &'static str> {
    [SERVER_KEYS, TARGET_KEYS, CAS_KEYS, BLOB_STORE_KEYS].into_iter().flatten().copied()
}

#[test]
fn every_example_is_accepted() {
    let examples = files("config");
    assert!(examples.len() >= 5, "{examples:?}");
    for path in examples {
        let config = Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(!config.targets.is_empty(), "{}", path.display());
    }
}

#[test]
fn the_full_example_uses_every_key_and_shows_the_defaults() {
    let text = fs::read_to_string("config/full.toml").unwrap();
    for key in all_keys() {
        // Those that the example cannot use besides others, it names.
        let exclusive = ["interface", "total_sectors", "snapshot"].contains(&key);
        let named = exclusive && text.contains(&format!("`{key} = "));
        assert!(named || uses_key(&text, key), "{key} is missing");
    }
    let mut config = parse(&text);
    // What has no default, or none that can be written down.
    let bare = ServerConfig::new(config.server.interfaces.clone());
    config.server.cpu = None;
    config.server.receive_buffer = None;
    let journal = config.server.journal.take().expect("the example has one");
    assert_eq!(journal.bytes, FileJournal::DEFAULT_BYTES);
    config.server.sync_priority = None;
    assert!(config.server.control_socket.take().is_some());
    assert_eq!(config.server, bare);
    let full = config.targets.remove(0);
    let bare = TargetConfig::new(full.address, full.storage.clone());
    assert_eq!(full.buffer_count, bare.buffer_count);
    assert_eq!(full.read_only, bare.read_only);
    assert_eq!(full.durability, bare.durability);
}

#[test]
fn the_reference_has_every_key_in_the_table_of_its_section() {
    let text = fs::read_to_string("config/README.md").unwrap();
    let section = |title: &str| {
        let (_, rest) = text.split_once(&format!("\n## {title}\n")).unwrap();
        rest.split("\n## ").next().unwrap().to_owned()
    };
    for (title, keys) in [
        ("[server]", SERVER_KEYS),
        ("[[target]]", TARGET_KEYS),
        ("[target.cas]", CAS_KEYS),
        ("[target.cas.blob_store]", BLOB_STORE_KEYS),
    ] {
        let section = section(title);
        for key in keys {
            assert!(section.contains(&format!("\n| `{key}` | ")), "{title} lacks {key}");
        }
        let rows = section.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, keys.len(), "{title} has keys that there are not");
    }
    let reload = section("Reload");
    for key in all_keys() {
        assert!(reload.contains(&format!("`{key}`")), "{key} on reload");
    }
    for path in files("config") {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(text.contains(&format!("[{name}]({name})")), "{name} is not listed");
    }
}

#[test]
fn the_messages_in_the_reference_are_real() {
    let text = fs::read_to_string("config/README.md").unwrap();
    let (_, rest) = text.split_once("```text\n").unwrap();
    let shown = rest.split("```").next().unwrap();
    let wrong = "[server]\ninterface = \"eth0\"\npol = \"spin\"\n\n[[target]]\nshelf = 1\n\
                 slot = 0\nbackend = \"mem\"\nsize = 1000\n";
    assert_eq!(format!("{}\n", Config::parse(wrong, "aoe.toml").unwrap_err()), shown);
}

/// Each file has beside it what is to be said about it, and is named after what is wrong.
#[test]
fn every_mistake_is_told_as_expected() {
    let wrong = files("tests/data/config");
    assert!(wrong.len() >= 45, "{} files", wrong.len());
    let mut differences = String::new();
    for path in wrong {
        let expected = fs::read_to_string(path.with_extension("expected")).unwrap_or_default();
        let found = match Config::load(&path) {
            Ok(_) => "nothing is wrong\n".to_owned(),
            Err(errors) => format!("{errors}\n"),
        };
        if found != expected {
            let _ = writeln!(differences, "--- expected\n{expected}+++ found\n{found}");
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}

#[test]
fn the_briefest_file_gets_the_defaults() {
    let config = parse(SERVER);
    assert_eq!(config, Config::new(ServerConfig::new(vec!["eth0".into()]), vec![]));
    assert_eq!(config.server.link, LinkKind::Pcap);
    assert_eq!(config.server.poll, PollPolicy::Adaptive);
    assert_eq!(config.server.spin, Duration::from_micros(50));
    assert_eq!(config.server.log_level, LevelFilter::Info);
    assert_eq!(config.server.state_dir, Path::new("/var/lib/aoe-server"));
    assert_eq!(config.server.probe, Some(Duration::from_millis(300)));
    let socket = config.server.control_socket();
    assert_eq!(socket, Path::new("/var/lib/aoe-server/control.sock"));
    let target = target("shelf = 1\nslot = 0\nbackend = \"file\"\npath = \"/data/a.img\"\n");
    assert_eq!(target.address, Address::new(1, 0));
    assert_eq!((target.buffer_count, target.read_only), (64, false));
    assert_eq!(target.durability, Durability::Durable);
    assert!(target.allow.is_empty() && target.serial.is_none());
    let window = Window { offset: Sectors(0), length: None };
    let path = PathBuf::from("/data/a.img");
    assert_eq!(target.storage, StorageConfig::File { path, size: None, window });
}

/// The example that the project was ordered with.
#[test]
fn the_ordered_example_is_accepted() {
    let config = parse(
        r#"
[server]
interface = "eth0"
log_level = "info"

[[target]]
shelf = 1
slot = 0
backend = "cas"

[target.cas]
block_size = 4096
total_sectors = 2097152  # 8 GiB

[target.cas.blob_store]
type = "file"
path = "/data/aoe/blobs"

# Or for S3:
# type = "s3"
# bucket = "my-aoe-storage"
# region = "us-east-1"

[[target]]
shelf = 1
slot = 1
backend = "file"
path = "/data/aoe/disk1.img"
"#,
    );
    assert_eq!(config.server.interfaces, ["eth0"]);
    let [archive, image] = &config.targets[..] else { panic!("{config:?}") };
    assert_eq!((archive.address, image.address), (Address::new(1, 0), Address::new(1, 1)));
    let StorageConfig::Cas(CasConfig { store, content }) = &archive.storage else {
        panic!("{archive:?}")
    };
    assert_eq!((store.path.to_str(), store.block_bytes), (Some("/data/aoe/blobs"), Some(4096)));
    let size = Some(Sectors::from_bytes(8 << 30));
    assert_eq!(*content, CasContent::Volume { name: "e1.0".into(), size });
}

/// What is said of the archive of one target, the first of the file.
fn archive(text: &str) -> CasConfig {
    let config = parse(&format!("{SERVER}{text}"));
    let Some(StorageConfig::Cas(cas)) = config.targets.first().map(|first| &first.storage) else {
        panic!("{config:?}")
    };
    cas.clone()
}

/// A target in the archive at /a, with more keys of `[target.cas]` and of its store.
fn archived(slot: u8, cas: &str, store: &str) -> String {
    format!(
        "[[target]]\nshelf = 1\nslot = {slot}\nbackend = \"cas\"\n[target.cas]\n{cas}\n\
         [target.cas.blob_store]\ntype = \"file\"\npath = \"/a\"\n{store}\n"
    )
}

#[test]
fn every_key_of_an_archive_reaches_the_configuration() {
    let text = archived(
        0,
        "volume = \"disk_1.x-y\"\nsize = \"1 GiB\"\nblock_size = \"64 KiB\"",
        "layout = \"loose\"\njournal = \"/j\"\njournal_size = \"1 GiB\"\noverlay_size = \"2 GiB\"\n\
         cache_size = \"3 GiB\"\ncommit_size = \"4 MiB\"\ncommit_seconds = 5\n",
    );
    let CasConfig { store, content } = archive(&text);
    let size = Some(Sectors(2 << 20));
    assert_eq!(content, CasContent::Volume { name: "disk_1.x-y".into(), size });
    let mut expected = StoreConfig::new("/a".into());
    expected.block_bytes = Some(64 << 10);
    expected.layout = Some(StoreLayout::Loose);
    expected.journal = Some("/j".into());
    expected.journal_bytes = Some(1 << 30);
    expected.overlay_bytes = Some(2 << 30);
    expected.cache_bytes = Some(3 << 30);
    expected.commit_bytes = Some(4 << 20);
    expected.commit_interval = Some(Duration::from_secs(5));
    assert_eq!(store, expected);

    let config = parse(&format!("{SERVER}{}", archived(3, "snapshot = \"e1.0@monday\"", "")));
    let target = &config.targets[0];
    assert!(target.read_only, "nothing can be written to a snapshot");
    let StorageConfig::Cas(cas) = &target.storage else { panic!("{target:?}") };
    let content = CasContent::Snapshot { volume: "e1.0".into(), name: "monday".into() };
    assert_eq!((&cas.content, &cas.store), (&content, &StoreConfig::new("/a".into())));
    assert_eq!(format!("{}", target.storage), "snapshot e1.0@monday of /a");
    // A table that is only implied, and one on a line.
    let short = "[[target]]\nshelf = 1\nslot = 0\nbackend = \"cas\"\n";
    let of_store = "type = \"file\"\npath = \"/a\"";
    let implied = archive(&format!("{short}[target.cas.blob_store]\n{of_store}\n"));
    let inline = of_store.replace('\n', ", ");
    assert_eq!(archive(&format!("{short}cas = {{ blob_store = {{ {inline} }} }}\n")), implied);
    assert_eq!(implied.content, CasContent::Volume { name: "e1.0".into(), size: None });
}

#[test]
fn what_one_target_says_of_an_archive_holds_for_all_in_it() {
    let targets = [
        archived(0, "", "cache_size = \"1 GiB\""),
        archived(1, "block_size = 8192", ""),
        archived(2, "", "commit_seconds = 5\ncache_size = \"1024 MiB\"").replace("/a", "/./a"),
        archived(3, "block_size = 4096", "").replace("/a", "/b"),
    ];
    let config = parse(&format!("{SERVER}{}", targets.concat()));
    let stores = config.targets.iter().map(|target| match &target.storage {
        StorageConfig::Cas(cas) => &cas.store,
        other => panic!("{other}"),
    });
    let stores: Vec<_> = stores.collect();
    assert_eq!((stores[0], stores[0]), (stores[1], stores[2]));
    assert_eq!((stores[0].path.to_str(), stores[0].block_bytes), (Some("/a"), Some(8192)));
    assert_eq!(stores[0].cache_bytes, Some(1 << 30));
    assert_eq!(stores[0].commit_interval, Some(Duration::from_secs(5)));
    assert_eq!((stores[3].block_bytes, stores[3].cache_bytes), (Some(4096), None));
}

#[test]
fn a_change_of_an_archive_reopens_all_targets_in_it_and_one_of_a_volume_that_target() {
    let with = |first: &str, store: &str| {
        let targets = archived(0, first, store) + &archived(1, "", "");
        parse(&format!("{SERVER}{targets}"))
    };
    let old = with("", "");
    let of_one = [
        ("volume", "volume = \"other\""),
        ("size", "size = \"1 GiB\""),
        ("snapshot", "snapshot = \"e1.0@monday\""),
    ];
    for (key, line) in of_one {
        let change = old.diff(&with(line, ""));
        let [changed] = &change.changed[..] else { panic!("{key}: {change:?}") };
        assert!(changed.keys.contains(&key) && changed.reopen, "{changed:?}");
    }
    let of_store = [
        "layout = \"loose\"",
        "journal = \"/j\"",
        "journal_size = \"1 GiB\"",
        "overlay_size = \"1 GiB\"",
        "cache_size = \"1 GiB\"",
        "commit_size = \"1 GiB\"",
        "commit_seconds = 1",
    ];
    let lines = of_store.iter().map(|line| ("", *line)).chain([("block_size = 8192", "")]);
    for (cas, store) in lines {
        let key = format!("{cas}{store}");
        let key = key.split(' ').next().unwrap();
        let change = old.diff(&with(cas, store));
        assert_eq!(change.changed.len(), 2, "{key}");
        for changed in &change.changed {
            assert_eq!((&changed.keys[..], changed.reopen), (&[key][..], true));
        }
    }
    let snapshots = |name: &str| with(&format!("snapshot = \"e1.0@{name}\""), "");
    assert_eq!(snapshots("a").diff(&snapshots("b")).changed[0].keys, ["snapshot"]);
    let image = old.clone();
    assert!(old.diff(&image).is_empty());
    // Another target that says more of the archive.
    let more =
        format!("{SERVER}{}", archived(0, "", "") + &archived(1, "", "cache_size = 1048576"));
    assert_eq!(old.diff(&parse(&more)).changed.len(), 2);
}

#[test]
fn every_key_of_the_server_reaches_the_configuration() {
    let config = parse(
        r#"
[server]
interfaces = ["eth0", "eth1"]
link = "af-packet"
promiscuous = true
poll = "block"
spin_us = 0
log_level = "trace"
state_dir = "state"
cpu = 3
receive_buffer = "16 MiB"
probe = true
probe_ms = 50
control_socket = "/run/c.sock"
"#,
    );
    let server = config.server;
    assert_eq!(server.interfaces, ["eth0", "eth1"]);
    assert_eq!((server.link, server.promiscuous), (LinkKind::AfPacket, true));
    assert_eq!((server.poll, server.spin), (PollPolicy::Block, Duration::ZERO));
    assert_eq!((server.log_level, server.cpu), (LevelFilter::Trace, Some(3)));
    assert_eq!((server.state_dir.to_str(), server.receive_buffer), (Some("state"), Some(16 << 20)));
    assert_eq!(server.probe, Some(Duration::from_millis(50)));
    assert_eq!(server.control_socket(), Path::new("/run/c.sock"));
    let silent = parse(&format!("{SERVER}probe = false\nprobe_ms = 50\npoll = \"spin\"\n"));
    assert_eq!((silent.server.probe, silent.server.poll), (None, PollPolicy::Spin));
}

#[test]
fn every_key_of_a_target_reaches_the_configuration() {
    let target = target(
        r#"
shelf = 0xfffe
slot = 254
backend = "file"
path = "disk.img"
size = "1 GiB"
offset = "8 sectors"
length = "8 MB"
buffer_count = 1024
read_only = true
durability = "volatile"
allow = ["52:54:00:12:34:56", "52-54-00-12-34-57"]
serial = "ARCHIVE 1"
interfaces = ["eth0"]
"#,
    );
    assert_eq!(target.address, Address::new(65_534, 254));
    let window = Window { offset: Sectors(8), length: Some(Sectors(15_625)) };
    let (path, size) = (PathBuf::from("disk.img"), Some(Sectors(2 << 20)));
    assert_eq!(target.storage, StorageConfig::File { path, size, window });
    assert_eq!((target.buffer_count, target.read_only), (1024, true));
    assert_eq!(target.durability, Durability::Volatile);
    let macs = [0x56, 0x57].map(|last| MacAddr([0x52, 0x54, 0, 0x12, 0x34, last]));
    assert_eq!(target.allow.as_slice(), macs);
    assert_eq!(target.serial, Some(AtaText::new("ARCHIVE 1")));
    assert!(target.is_on("eth0") && !target.is_on("eth1"));
}

#[test]
fn devices_and_memory_are_told_by_their_own_keys() {
    let device = target(
        "shelf = 1\nslot = 0\nbackend = \"device\"\npath = \"/dev/sdb\"\n\
         offset = 0\nlength = \"1 KiB\"\n",
    );
    let window = Window { offset: Sectors(0), length: Some(Sectors(2)) };
    assert_eq!(device.storage, StorageConfig::Device { path: "/dev/sdb".into(), window });
    assert_eq!(device.storage.path(), Some(Path::new("/dev/sdb")));
    let memory = target("shelf = 1\nslot = 0\nbackend = \"mem\"\nsize = 1048576\n");
    assert_eq!(memory.storage, StorageConfig::Memory { size: Sectors(2048) });
    assert!(memory.is_on("eth0") && memory.storage.path().is_none());
}

#[test]
fn the_largest_and_smallest_values_are_in_range() {
    let window = "offset = \"1 GiB\"\nlength = \"1 GiB\"\nsize = \"2 GiB\"\n";
    let address = "shelf = 0\nslot = 0\n";
    target(&format!("{address}backend = \"file\"\npath = \"a\"\n{window}"));
    target(&format!("{address}backend = \"mem\"\nsize = \"127 PiB\"\nbuffer_count = 2\n"));
    target(&format!("{address}backend = \"mem\"\nsize = 512\nserial = \"12345678901234567890\"\n"));
    let macs: Vec<_> = (0..255).map(|last| format!("\"02:00:00:00:00:{last:02x}\"")).collect();
    let allow = format!("allow = [{}]\n", macs.join(", "));
    let many = target(&format!("{address}backend = \"mem\"\nsize = 512\n{allow}"));
    assert_eq!(many.allow.len(), 255);
    parse(&format!("{SERVER}receive_buffer = 65536\nspin_us = 1_000_000\ncpu = 0\nprobe_ms = 1\n"));
}

#[test]
fn one_target_more_than_the_engine_serves_is_refused() {
    let with = |count: usize| {
        let mut text = SERVER.to_owned();
        for number in 0..count {
            let (shelf, slot) = (number / 200, number % 200);
            let _ = write!(
                text,
                "[[target]]\nshelf = {shelf}\nslot = {slot}\nbackend = \"mem\"\nsize = 512\n"
            );
        }
        text
    };
    assert_eq!(parse(&with(MAX_TARGETS)).targets.len(), MAX_TARGETS);
    let errors = Config::parse(&with(MAX_TARGETS + 1), "many.toml").unwrap_err();
    let [ConfigError::Invalid { place, problem }] = errors.as_slice() else { panic!("{errors}") };
    assert_eq!((place.line, place.column), (2 + 5 * MAX_TARGETS + 1, 1));
    assert_eq!(*problem, Problem::TooManyTargets { count: MAX_TARGETS + 1 });
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_reason() {
    let temp = tempfile::tempdir().unwrap();
    let missing = temp.path().join("missing.toml");
    assert_eq!(
        Config::load(&missing).unwrap_err().to_string(),
        format!(
            "cannot read the configuration {}: No such file or directory (os error 2)",
            missing.display()
        )
    );
    let text = Config::load(temp.path()).unwrap_err().to_string();
    assert!(text.ends_with(": Is a directory (os error 21)"), "{text}");
    // An image, say. All of it is not read.
    let image = temp.path().join("disk.img");
    fs::File::create(&image).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(
        Config::load(&image).unwrap_err().to_string(),
        format!("{}: longer than 1048576 bytes: this is no configuration", image.display())
    );
}

#[test]
fn a_change_names_what_is_new_gone_and_different() {
    let target = |slot: u8, keys: &str| {
        format!("[[target]]\nshelf = 1\nslot = {slot}\nbackend = \"mem\"\nsize = \"1 MiB\"\n{keys}")
    };
    let stays = target(0, "");
    let [old, new] = [
        format!("{SERVER}{stays}{}{}{}", target(1, ""), target(2, ""), target(3, "")),
        format!(
            "{SERVER}{}{}{}{stays}",
            target(4, ""),
            target(2, "buffer_count = 8\nallow = [\"02:00:00:00:00:01\"]\n"),
            target(3, "read_only = true\ndurability = \"volatile\"\n"),
        ),
    ]
    .map(|text| parse(&text));
    let change = old.diff(&new);
    assert_eq!(change.added, [new.targets[0].clone()]);
    assert_eq!(change.removed, [Address::new(1, 1)]);
    let [told, stored] = &change.changed[..] else { panic!("{change:?}") };
    assert_eq!((&told.target, told.reopen), (&new.targets[1], false));
    assert_eq!(told.keys, ["buffer_count", "allow"]);
    assert_eq!((&stored.target, stored.reopen), (&new.targets[2], true));
    assert_eq!(stored.keys, ["read_only", "durability"]);
    assert!(change.server.is_empty() && change.restart.is_empty());
    assert!(!change.is_empty() && old.diff(&old).is_empty());
    // The order of the file means nothing.
    assert!(
        parse(&format!("{SERVER}{stays}{}", target(1, "")))
            .diff(&parse(&format!("{SERVER}{}{stays}", target(1, ""))))
            .is_empty()
    );
}

/// Sets each key alone to something else, and looks for it, alone, in the change.
#[test]
fn a_change_of_any_key_is_noticed() {
    let image = "backend = \"file\"\npath = \"/a\"\nsize = \"1 MiB\"\n";
    let keys: [(&str, &str, bool); 10] = [
        ("path", "backend = \"file\"\npath = \"/b\"\nsize = \"1 MiB\"\n", true),
        ("size", "backend = \"file\"\npath = \"/a\"\nsize = \"2 MiB\"\n", true),
        ("offset", &format!("{image}offset = \"1 KiB\"\n"), true),
        ("length", &format!("{image}length = \"1 KiB\"\n"), true),
        ("read_only", &format!("{image}read_only = true\n"), true),
        ("serial", &format!("{image}serial = \"1\"\n"), true),
        ("buffer_count", &format!("{image}buffer_count = 2\n"), false),
        ("durability", &format!("{image}durability = \"volatile\"\n"), true),
        ("allow", &format!("{image}allow = [\"02:00:00:00:00:01\"]\n"), false),
        ("interfaces", &format!("{image}interfaces = [\"eth0\"]\n"), false),
    ];
    let with = |keys: &str| parse(&format!("{SERVER}[[target]]\nshelf = 1\nslot = 0\n{keys}"));
    let old = with(image);
    for (key, text, reopen) in keys {
        let change = old.diff(&with(text));
        let [changed] = &change.changed[..] else { panic!("{key}: {change:?}") };
        assert_eq!((&changed.keys[..], changed.reopen), (&[key][..], reopen));
    }
    let device = with("backend = \"device\"\npath = \"/a\"\n");
    assert_eq!(old.diff(&device).changed[0].keys, ["backend", "size"]);

    let old = parse(SERVER);
    let live =
        ["log_level = \"warn\"", "poll = \"spin\"", "spin_us = 1", "probe = false", "probe_ms = 1"];
    let fixed = [
        "link = \"af-packet\"",
        "promiscuous = true",
        "state_dir = \"/s\"",
        "cpu = 0",
        "receive_buffer = \"1 MiB\"",
        "control_socket = \"/c\"",
    ];
    for line in live.iter().chain(&fixed) {
        let change = old.diff(&parse(&format!("{SERVER}{line}\n")));
        let key = line.split(' ').next().unwrap();
        let (server, restart): (&[&str], &[&str]) =
            if live.contains(line) { (&[key], &[]) } else { (&[], &[key]) };
        assert_eq!((&change.server[..], &change.restart[..]), (server, restart), "{key}");
    }
    let change = old.diff(&parse("[server]\ninterfaces = [\"eth0\", \"eth1\"]\n"));
    assert_eq!(change.restart, ["interfaces"]);
}

/// Pieces of configurations, so that random ones get past the first line.
fn fragment() -> impl Strategy<Value = String> {
    let keys: Vec<&str> = all_keys().collect();
    let values = prop_oneof![
        Just("\"eth0\"".to_owned()),
        Just("[\"eth0\", \"eth0\"]".to_owned()),
        Just("\"mem\"".to_owned()),
        Just("\"cas\"".to_owned()),
        Just("\"e1.0@monday\"".to_owned()),
        Just("{ a = [1, {}] }".to_owned()),
        Just("\"9 PiB\"".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|value| value.to_string()),
        "\"[ -~\u{e9}\u{4e2d}]{0,8}\"",
        "[0-9]{1,60}",
    ];
    prop_oneof![
        4 => (proptest::sample::select(keys), values)
            .prop_map(|(key, value)| format!("{key} = {value}\n")),
        1 => Just("[server]\n".to_owned()),
        2 => Just("[[target]]\n".to_owned()),
        1 => Just("[target.cas]\n".to_owned()),
        1 => Just("[target.cas.blob_store]\ntype = \"file\"\n".to_owned()),
        1 => ".{0,12}\r?\n?",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn no_text_panics(text in "(?s).{0,200}") {
        fuzz(text.as_bytes());
    }

    #[test]
    fn no_octets_panic(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz(&octets);
    }

    #[test]
    fn no_likely_text_panics(fragments in proptest::collection::vec(fragment(), 0..24)) {
        fuzz(fragments.concat().as_bytes());
    }

    #[test]
    fn no_damage_to_an_example_panics(at in any::<proptest::sample::Index>(), octet: u8) {
        let mut text = fs::read("config/full.toml").unwrap();
        let at = at.index(text.len());
        text[at] = octet;
        fuzz(&text);
        fuzz(&text[..at]);
    }

    #[test]
    fn no_target_is_left_out_in_silence(
        count in 0..40_usize,
        size in 1..1_u64 << 40,
        buffer_count in 2..=1024_u16,
    ) {
        let mut text = SERVER.to_owned();
        for slot in 0..count {
            let _ = write!(
                text,
                "[[target]]\nshelf = 3\nslot = {slot}\nbackend = \"mem\"\n\
                 size = \"{size} sectors\"\nbuffer_count = {buffer_count}\n"
            );
        }
        let config = parse(&text);
        prop_assert_eq!(config.targets.len(), count);
        for target in config.targets {
            prop_assert_eq!(target.storage, StorageConfig::Memory { size: Sectors(size) });
            prop_assert_eq!(target.buffer_count, buffer_count);
        }
    }
}

#[test]
fn the_corpus_of_mistakes_and_examples_does_not_panic() {
    for path in files("tests/data/config").into_iter().chain(files("config")) {
        fuzz(&fs::read(path).unwrap());
    }
}

#[test]
fn a_mebibyte_of_mistakes_neither_panics_nor_hangs() {
    let lines = ["a = b\n", "[a\n", "pol = 1\n", "[[target]]\n", "[x]\n"];
    for line in lines {
        fuzz(line.repeat((1 << 20) / line.len()).as_bytes());
    }
    let mut names = String::new();
    for number in 0..80_000 {
        let _ = write!(names, "\"e{number}\", ");
    }
    fuzz(format!("[server]\ninterfaces = [{names}]\n").as_bytes());
}

#[test]
fn deep_nesting_is_refused_without_overflowing_the_stack() {
    for (open, close) in [("a.", "b = 1"), ("[", ""), ("a = [", ""), ("a = {a = ", "")] {
        let text = open.repeat(100_000) + close;
        fuzz(text.as_bytes());
        fuzz(format!("[server]\npoll = {text}\n").as_bytes());
    }
    fuzz(format!("x = {}", "[".repeat(100_000)).as_bytes());
}
