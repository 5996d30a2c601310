//! Other people's programs, and what they make of a session on the wire.

#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::print_stdout, reason = "what is skipped, or measured, is told")]

use std::collections::HashSet;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::net::{PATIENCE, within};
use super::server::PROGRAM;

/// What a program printed, and its exit code; `None` for one that a signal ended.
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) error: String,
    pub(crate) code: Option<i32>,
}

/// Runs a program in the thread's network namespace, for some seconds at most.
pub(crate) fn run(program: &str, args: &[&str]) -> Ran {
    let output = Command::new("timeout")
        .arg("20")
        .arg(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |octets: Vec<u8>| String::from_utf8_lossy(&octets).into_owned();
    Ran { out: text(output.stdout), error: text(output.stderr), code: output.status.code() }
}

/// Whether a program is there; where it is not, that is said aloud, and in CI a failure.
pub(crate) fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|directory| directory.join(program).exists())
    });
    assert!(found || std::env::var_os("CI").is_none(), "{program} is not installed");
    if !found {
        println!("SKIPPED: {program} is not installed");
    }
    found
}

/// How many sockets listen to every protocol, as a recorder's does.
fn listeners() -> usize {
    let table = fs::read_to_string("/proc/thread-self/net/packet").unwrap();
    table.lines().filter(|line| line.split_whitespace().nth(3) == Some("0003")).count()
}

/// Records what goes by.
pub(crate) struct Recorder(Child);

impl Recorder {
    /// Starts to record what the interface called `name` carries.
    pub(crate) fn start(name: &str, file: &Path) -> Self {
        let before = listeners();
        let child = Command::new(PROGRAM)
            .args(["record", name])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        assert!(within(PATIENCE, || listeners() > before), "the recorder does not listen");
        Self(child)
    }

    /// Ends the record; tells how many frames are not in it, since nobody could keep up.
    pub(crate) fn end(mut self) -> usize {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let mut status = None;
        within(PATIENCE, || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "the recorder: {status:?}");
        let mut said = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut said).unwrap();
        // "12 frames recorded, 3 missed", or nothing if none was.
        let missed =
            said.trim_end().strip_suffix(" missed").and_then(|said| said.rsplit(' ').next());
        missed.map_or(0, |missed| missed.parse().unwrap())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // It has ended, if all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What tshark finds in a capture: one line for each frame that `filter` holds for.
pub(crate) fn tshark(capture: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut args = vec!["-n", "-2", "-r", capture.to_str().unwrap(), "-R", filter];
    if !fields.is_empty() {
        args.extend(["-T", "fields"]);
        args.extend(fields.iter().flat_map(|field| ["-e", *field]));
    }
    let ran = run("tshark", &args);
    assert_eq!(ran.code, Some(0), "{}", ran.error);
    ran.out.lines().map(str::to_owned).collect()
}

/// How long before the end of a record a request may have been sent that is not answered in it, in
/// seconds: file systems write by themselves.
const CUT_OFF: f64 = 0.5;

/// A session as tshark sees it: nothing malformed, no ATA request without its answer.
pub(crate) struct Session {
    /// How long each ATA command took, in microseconds, in order of that.
    pub(crate) times_us: Vec<f64>,
    /// Config replies.
    pub(crate) configs: usize,
}

impl Session {
    /// Makes sure of a recorded session, of which the recorder has `missed` some frames. What was
    /// asked just before its end may be answered after it.
    pub(crate) fn read(capture: &Path, missed: usize) -> Self {
        assert_eq!(tshark(capture, "_ws.malformed", &[]), [""; 0]);
        let fields =
            ["aoe.response_in", "frame.time_relative", "aoe.tag", "aoe.major", "aoe.minor"];
        let requests = tshark(capture, "aoe.cmd == 0 && aoe.response == 0", &fields);
        let answers = tshark(capture, "aoe.cmd == 0 && aoe.response == 1", &fields[2..]);
        let unanswered: Vec<_> = requests.iter().filter(|line| line.starts_with('\t')).collect();
        let sent = |line: &str| line.split('\t').nth(1).and_then(|time| time.parse::<f64>().ok());
        let end = requests.last().and_then(|last| sent(last)).unwrap_or(0.0);
        // It goes by tags alone. Linux counts them by target, so that two targets may meet the same.
        let answered = |line: &str| answers.iter().any(|answer| line.ends_with(answer));
        let lost = unanswered
            .iter()
            .filter(|line| sent(line).is_some_and(|at| at < end - CUT_OFF) && !answered(line));
        let (lost, count) = (lost.count(), requests.len());
        assert!(lost <= missed, "of {count} ATA requests, {missed} missed: {unanswered:#?}");
        let configs = tshark(capture, "aoe.cmd == 1 && aoe.response == 1", &["aoe.tag"]).len();
        let times = tshark(capture, "aoe.time", &["aoe.time"]);
        let mut times_us: Vec<f64> =
            times.iter().map(|time| time.parse::<f64>().unwrap() * 1e6).collect();
        // Of requests that share a tag, one has a time.
        let tags = requests.iter().filter_map(|line| line.split('\t').nth(2));
        let shared = count - tags.collect::<HashSet<_>>().len();
        let (timed, unanswered) = (times_us.len(), unanswered.len());
        assert!(
            timed + unanswered + missed + shared >= count,
            "of {count} ATA requests, {timed} have a time, {unanswered} no answer, {missed} are \
             missed, {shared} share tags"
        );
        times_us.sort_by(f64::total_cmp);
        Self { times_us, configs }
    }
}

impl Display for Session {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let times = &self.times_us;
        let [p50, p90, p99] = [50, 90, 99].map(|percent| times[(times.len() - 1) * percent / 100]);
        let count = times.len();
        write!(f, "{count} ATA commands, p50 {p50:.0} us, p90 {p90:.0}, p99 {p99:.0}")
    }
}
