//! Images that are not as the journal left them when it is to be replayed: missing, replaced, cut
//! short, in use. Each message tells what to run, and that is run.

use std::fs;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, XattrFlags, flock};
use serde_json::Value;

use super::common::net::TestNet;
use super::common::server::{Home, ServerProcess, client, ended};
use super::{
    MARK, MTU, as_told, is_marked, journalled, marks_are_possible, read_all, recover, refused,
    write,
};

/// Bytes of each image.
pub(crate) const BYTES: usize = 256 << 10;
/// The images. A name with a space has to be quoted in a command.
pub(crate) const NAMES: [&str; 3] = ["first disk", "second", "idle"];
/// Writes to each of the first two images, each to its own 4 KiB.
const WRITES: u8 = 4;

/// What a server has left that was killed: a journal, two images that lack what it has, and one that
/// it has nothing for.
pub(crate) struct Crashed {
    pub(crate) home: Home,
    pub(crate) net: TestNet,
    /// What the server was started with.
    pub(crate) config: String,
    /// The same without a journal.
    pub(crate) without: String,
    pub(crate) journal: PathBuf,
    octets: Vec<u8>,
    marks: Vec<Vec<u8>>,
}

impl Crashed {
    pub(crate) fn new() -> Option<Self> {
        let net = TestNet::new(MTU)?;
        let home = Home::new();
        if !marks_are_possible(&home) {
            assert!(std::env::var_os("CI").is_none(), "no extended attributes here");
            eprintln!("SKIPPED: no extended attributes here");
            return None;
        }
        let size = format!("size = \"{BYTES} B\"");
        let targets: String =
            (0..).zip(NAMES).map(|(slot, name)| home.file_target(slot, name, &size)).collect();
        let config = journalled(&home, &net, "1 MiB") + &targets;
        let without = home.server(net.a, "af-packet") + &targets;
        let mut server = ServerProcess::start_in(&home, &config);
        let mut client = client(net.b);
        for n in 0..WRITES {
            for slot in [0, 1] {
                let value = 0x10 * (slot + 1) + n;
                write(&mut client, slot, u64::from(n) * 8, &[value; 4096]);
            }
        }
        server.kill();
        let journal = home.path("journal");
        let octets = fs::read(&journal).unwrap();
        let mark = |name: &&str| {
            let mut mark = vec![0; 512];
            let len = rustix::fs::getxattr(home.path(name), MARK, mark.as_mut_slice()).unwrap();
            mark.truncate(len);
            mark
        };
        let marks = NAMES.iter().map(mark).collect();
        let crashed = Self { home, net, config, without, journal, octets, marks };
        crashed.again();
        Some(crashed)
    }

    pub(crate) fn image(&self, index: usize) -> PathBuf {
        self.home.path(NAMES[index])
    }

    /// Puts everything back to what the server left, at its worst: no image has anything.
    pub(crate) fn again(&self) {
        fs::write(&self.journal, &self.octets).unwrap();
        for (index, mark) in self.marks.iter().enumerate() {
            let image = self.image(index);
            let _ = fs::remove_file(&image);
            fs::write(&image, vec![0; BYTES]).unwrap();
            rustix::fs::setxattr(&image, MARK, mark, XattrFlags::empty()).unwrap();
        }
    }

    /// How many of its writes an image has, in order from the first.
    pub(crate) fn has(&self, index: u8) -> Vec<bool> {
        let octets = fs::read(self.image(index.into())).unwrap();
        let written =
            |n: u8| octets[usize::from(n) * 4096..][..4096] == [0x10 * (index + 1) + n; 4096];
        (0..WRITES).map(written).collect()
    }

    /// Whether both images have everything, and none needs the journal any more.
    #[track_caller]
    pub(crate) fn assert_whole(&self) {
        for index in [0, 1] {
            assert_eq!(self.has(index), [true; WRITES as usize], "image {index}");
        }
        assert!((0..3).all(|index| !is_marked(&self.image(index))), "marks are left");
    }

    pub(crate) fn dry_run(&self, code: i32) -> Value {
        let args = ["--dry-run".as_ref(), "--json".as_ref(), self.journal.as_os_str()];
        serde_json::from_str(&ended(&recover(args), code).0).unwrap()
    }

    /// Has a server that is started with the journal and `image recover` both say `what`, and hands
    /// out the message.
    #[track_caller]
    pub(crate) fn both_refuse(&self, code: i32, what: &str) -> String {
        let why = refused(&self.home, &self.config);
        assert!(why.contains(what), "{why}");
        let (stdout, told) = ended(&recover([&self.journal]), code);
        assert!(told.contains(what) && stdout.is_empty(), "{told}");
        // On the way to the same words a server says nothing else.
        assert!(why.ends_with(&told), "{why}\n{told}");
        told
    }
}

#[test]
fn a_dry_run_tells_everything_and_changes_nothing() {
    let Some(crashed) = Crashed::new() else { return };
    let told = crashed.dry_run(0);
    let images = told["images"].as_array().unwrap();
    assert_eq!(images.len(), 2, "{told}");
    for (image, name) in images.iter().zip(NAMES) {
        assert!(image["path"].as_str().unwrap().ends_with(name), "{told}");
        // A write of 4 KiB is four frames here.
        assert_eq!((&image["writes"], &image["bytes"]), (&16.into(), &16384.into()), "{told}");
        assert_eq!((&image["marked"], &image["state"]), (&true.into(), &"good".into()), "{told}");
    }
    assert_eq!((&told["lost"], &told["replayed"]), (&Value::Array(vec![]), &Value::Null));
    assert_eq!(crashed.dry_run(0), told);
    let (stdout, _) = ended(&recover(["--dry-run".as_ref(), crashed.journal.as_os_str()]), 0);
    let wanted = "first disk: 16 writes, 16 KiB, can be brought in";
    assert!(stdout.contains(wanted), "{stdout}");
    assert_eq!([crashed.has(0), crashed.has(1)].concat(), [false; 8]);
    assert!(is_marked(&crashed.image(0)));

    let told = ended(&recover(["--json".as_ref(), crashed.journal.as_os_str()]), 0).0;
    let told: Value = serde_json::from_str(&told).unwrap();
    let replayed = serde_json::json!({ "images": 2, "writes": 32, "bytes": 32768 });
    assert_eq!(told["replayed"], replayed);
    crashed.assert_whole();
    // Once more does no harm, and there is nothing to do.
    let (stdout, _) = ended(&recover([&crashed.journal]), 0);
    assert!(!stdout.contains("writes"), "{stdout}");
    crashed.assert_whole();
}

/// The command that the message names brings it in.
#[test]
fn a_server_without_the_journal_refuses_an_image_until_it_is_recovered() {
    let Some(crashed) = Crashed::new() else { return };
    let why = refused(&crashed.home, &crashed.without);
    let image = crashed.image(0);
    let wanted = format!(
        "target e1.0: image {} was not closed, and journal {} has writes that it lacks: name that \
         journal in the configuration, or bring them into the image: aoe-server image recover {} '{}'",
        image.display(),
        crashed.journal.display(),
        crashed.journal.display(),
        image.display()
    );
    assert!(why.contains(&wanted), "{why}\nis not\n{wanted}");
    // Both are told, and not the third, whose mark means nothing.
    assert_eq!(why.matches("was not closed").count(), 2, "{why}");
    ended(&as_told(&why), 0);
    crashed.assert_whole();
    let mut server = ServerProcess::start_in(&crashed.home, &crashed.without);
    assert_eq!(read_all(&crashed.net, 0), fs::read(image).unwrap());
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());

    // The journal was emptied and moved away, and an image has its mark still.
    crashed.again();
    ended(&recover([&crashed.journal]), 0);
    let image = crashed.image(2);
    rustix::fs::setxattr(&image, MARK, &crashed.marks[2], XattrFlags::empty()).unwrap();
    let moved = crashed.home.path("moved");
    fs::rename(&crashed.journal, &moved).unwrap();
    let why = refused(&crashed.home, &crashed.without);
    assert!(why.contains("target e1.2: image"), "{why}");
    ended(&recover([&moved, &image]), 0);
    crashed.assert_whole();
}

#[test]
fn a_missing_image_stops_all_until_it_is_back_or_given_up() {
    let Some(crashed) = Crashed::new() else { return };
    let (image, away) = (crashed.image(0), crashed.home.path("away"));
    fs::rename(&image, &away).unwrap();
    let told = crashed.both_refuse(1, "16 writes for image");
    assert!(told.contains("cannot be opened") && told.contains("No such file"), "{told}");
    assert_eq!(crashed.has(1), [false; 4], "nothing is done by halves");
    let dry = crashed.dry_run(1);
    assert_eq!(dry["images"][0]["state"], "refused");
    assert_eq!(dry["images"][1]["state"], "good");
    fs::rename(&away, &image).unwrap();
    ended(&recover([&crashed.journal]), 0);
    crashed.assert_whole();

    crashed.again();
    fs::rename(&image, &away).unwrap();
    let (stdout, _) = ended(&as_told(&told), 0);
    assert!(stdout.contains("first disk: 16 writes, 16 KiB, given up"), "{stdout}");
    assert!(stdout.contains("second: 16 writes, 16 KiB, brought in"), "{stdout}");
    assert_eq!(crashed.has(1), [true; 4]);
    // It comes back when nothing is known of it any more, marked.
    fs::rename(&away, &image).unwrap();
    ended(&recover([&crashed.journal, &image]), 0);
    assert!(!is_marked(&image));
}

#[test]
fn an_image_that_is_given_up_needs_no_journal_any_more() {
    let Some(crashed) = Crashed::new() else { return };
    let args = |image: PathBuf| ["--forget".into(), image, crashed.journal.clone()];
    // By whatever name it is called.
    let roundabout = crashed.home.path("state").join("..").join(NAMES[0]);
    ended(&recover(args(roundabout)), 0);
    assert_eq!((crashed.has(0), crashed.has(1)), (vec![false; 4], vec![true; 4]));
    assert!(!is_marked(&crashed.image(0)));
    ended(&recover(args(crashed.image(0))), 0);

    // A name that the journal does not know is not taken for "nothing to do".
    crashed.again();
    let (_, told) = ended(&recover(args(crashed.home.path("secund"))), 2);
    assert!(told.contains("has nothing for image") && told.contains("--dry-run"), "{told}");
    assert_eq!(crashed.has(1), [false; 4]);
}

#[test]
fn another_file_of_the_same_name_is_left_alone() {
    let Some(crashed) = Crashed::new() else { return };
    let image = crashed.image(0);
    fs::remove_file(&image).unwrap();
    fs::write(&image, vec![0x77; BYTES]).unwrap();
    let told = crashed.both_refuse(1, "what is there now is another file");
    assert_eq!(fs::read(&image).unwrap(), vec![0x77; BYTES]);
    assert_eq!(crashed.has(1), [false; 4]);
    ended(&as_told(&told), 0);
    assert_eq!(fs::read(&image).unwrap(), vec![0x77; BYTES]);
    assert_eq!(crashed.has(1), [true; 4]);

    // An image of the same journal, and still not the one that it was.
    crashed.again();
    rustix::fs::setxattr(&image, MARK, &crashed.marks[2], XattrFlags::empty()).unwrap();
    crashed.both_refuse(1, "what is there now is another file");
}

#[test]
fn an_image_that_was_cut_short_is_not_made_long_again() {
    let Some(crashed) = Crashed::new() else { return };
    let image = crashed.image(0);
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.set_len(6000).unwrap();
    let told = crashed.both_refuse(1, "but the image has 6000: it was cut short");
    assert_eq!(fs::metadata(&image).unwrap().len(), 6000);
    assert_eq!([crashed.has(1)].concat(), [false; 4], "nothing is done by halves");
    file.set_len(BYTES as u64).unwrap();
    ended(&recover([&crashed.journal]), 0);
    crashed.assert_whole();

    crashed.again();
    fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(6000).unwrap();
    ended(&as_told(&told), 0);
    assert_eq!(crashed.has(1), [true; 4]);
}

#[test]
fn an_image_or_a_journal_in_use_is_told_with_who_uses_it() {
    let Some(crashed) = Crashed::new() else { return };
    let me = format!("(pid {})", std::process::id());
    let file = fs::File::open(crashed.image(1)).unwrap();
    flock(&file, FlockOperation::NonBlockingLockShared).unwrap();
    let told = crashed.both_refuse(2, "is in use by");
    assert!(told.contains(&me), "{told}");
    assert_eq!(crashed.has(0), [false; 4]);
    assert_eq!(crashed.dry_run(2)["images"][1]["state"], "refused");
    drop(file);

    let mut server = ServerProcess::start_in(&crashed.home, &crashed.config);
    let holder = format!("is in use by aoe-server (pid {})", server.pid());
    let other = crashed.config.replace("state_dir = \"", "state_dir = \"{other}-");
    let other = other.replace("{other}-", crashed.home.path("other").to_str().unwrap());
    let why = refused(&crashed.home, &other);
    assert!(why.contains("journal ") && why.contains(&holder), "{why}");
    let (_, told) = ended(&recover([&crashed.journal]), 2);
    assert!(told.contains(&holder), "{told}");
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());
    crashed.assert_whole();
}

/// A journal that is gone for good, with or without another one in its place.
#[test]
fn images_of_a_journal_that_is_gone_can_be_given_up() {
    let Some(crashed) = Crashed::new() else { return };
    fs::remove_file(&crashed.journal).unwrap();
    let (_, told) = ended(&recover([&crashed.journal, &crashed.image(0)]), 2);
    assert!(told.contains("does not exist"), "{told}");
    let (stdout, _) = ended(&as_told(&told), 0);
    assert!(stdout.contains("first disk: given up what it lacks"), "{stdout}");
    assert!(!is_marked(&crashed.image(0)) && is_marked(&crashed.image(1)));

    // The server makes a new one, which has nothing for the images of the old one.
    let why = refused(&crashed.home, &crashed.config);
    assert!(why.contains("target e1.1: image") && why.contains("was not closed"), "{why}");
    assert_eq!(why.matches("was not closed").count(), 2, "{why}");
    for index in [1, 2] {
        let (_, told) = ended(&recover([&crashed.journal, &crashed.image(index)]), 1);
        assert!(told.contains("it is not there any more"), "{told}");
        ended(&as_told(&told), 0);
        assert!(!is_marked(&crashed.image(index)));
    }
    let mut server = ServerProcess::start_in(&crashed.home, &crashed.config);
    assert_eq!(server.terminate().code(), Some(0), "{}", server.log());

    // A journal somewhere else has no say.
    crashed.again();
    let copy = crashed.home.path("copy");
    fs::remove_file(&crashed.journal).unwrap();
    let (_, told) = ended(&recover(["--forget".into(), crashed.image(0), copy]), 1);
    assert!(told.contains("is another one"), "{told}");
    assert!(is_marked(&crashed.image(0)));
}
