//! A private network for one test: two Ethernet interfaces joined by a virtual cable, in a network
//! namespace that only the test's thread is in. Nothing of it is seen outside, and it goes away
//! with the thread.

#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::unused_self, reason = "what is done to the net reads as done to the net")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so aloud")]

use std::process::Command;
use std::time::Duration;

use aoe_server::link::interface;
use aoe_server::link::{Batch, Link, LinkError, LinkEvent};
use aoe_server::protocol::MacAddr;
use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long anything that must happen may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for what must not happen.
pub(crate) const QUIET: Duration = Duration::from_millis(100);

/// Two interfaces with a cable between them, in the namespace of the calling thread.
pub(crate) struct TestNet {
    /// The name of one end.
    pub(crate) a: &'static str,
    /// The name of the other.
    pub(crate) b: &'static str,
}

/// The address of [`TestNet::a`].
pub(crate) const MAC_A: MacAddr = MacAddr([0x02, 0xae, 0, 0, 0, 0x0a]);
/// The address of [`TestNet::b`].
pub(crate) const MAC_B: MacAddr = MacAddr([0x02, 0xae, 0, 0, 0, 0x0b]);

impl TestNet {
    /// Moves the calling thread into a new network namespace, and lays a cable of `mtu` there. Both
    /// ends are up.
    ///
    /// `None`, said aloud, where that is not permitted: to be root, or to run under `unshare -rn`,
    /// helps. In CI that is a failure.
    pub(crate) fn new(mtu: usize) -> Option<Self> {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            let why = format!("cannot make a network namespace ({error}); try: unshare -rn make");
            assert!(std::env::var_os("CI").is_none(), "{why}");
            eprintln!("SKIPPED: {why}");
            return None;
        }
        let net = Self { a: "aoe-a", b: "aoe-b" };
        ip("link set lo up");
        net.create(mtu);
        Some(net)
    }

    /// Lays the cable, after [`Self::delete`] again.
    pub(crate) fn create(&self, mtu: usize) {
        let Self { a, b } = self;
        ip(&format!(
            "link add {a} mtu {mtu} address {MAC_A} type veth peer name {b} mtu {mtu} address {MAC_B}"
        ));
        ip(&format!("link set {a} up"));
        ip(&format!("link set {b} up"));
        wait_until_up(a);
        wait_until_up(b);
    }

    /// Takes the cable away with both its ends.
    pub(crate) fn delete(&self) {
        ip(&format!("link del {}", self.a));
    }

    /// Changes the MTU of both ends.
    pub(crate) fn set_mtu(&self, mtu: usize) {
        ip(&format!("link set {} mtu {mtu}", self.a));
        ip(&format!("link set {} mtu {mtu}", self.b));
    }

    /// Switches one interface off; the other end of the cable loses its carrier.
    pub(crate) fn down(&self, name: &str) {
        ip(&format!("link set {name} down"));
    }

    /// Switches one interface on, and waits until both ends have a carrier.
    pub(crate) fn up(&self, name: &str) {
        ip(&format!("link set {name} up"));
        wait_until_up(self.a);
        wait_until_up(self.b);
    }

    /// Adds the interface for VLAN `id` to `parent`, and tells its name. `None`, said aloud, where
    /// the kernel knows no VLANs.
    pub(crate) fn add_vlan(&self, parent: &str, id: u16) -> Option<String> {
        let name = format!("{parent}.{id}");
        if let Err(error) = try_ip(&format!("link add link {parent} name {name} type vlan id {id}"))
        {
            assert!(error.contains("Unknown device type"), "{error}");
            eprintln!("SKIPPED: {error}");
            return None;
        }
        ip(&format!("link set {name} up"));
        wait_until_up(&name);
        Some(name)
    }

    /// Adds an interface that does not carry Ethernet, and tells its name. `None`, said aloud,
    /// where that is not permitted.
    pub(crate) fn add_tun(&self) -> Option<&'static str> {
        let device = "/dev/net/tun";
        if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open(device) {
            eprintln!("SKIPPED: {device}: {error}");
            return None;
        }
        ip("tuntap add dev aoe-tun mode tun");
        Some("aoe-tun")
    }
}

/// A switch with a socket for the server and one for each of several stations.
pub(crate) struct Switch {
    /// The cable of the server, whose end `a` is its interface.
    pub(crate) net: TestNet,
    /// The interfaces of the stations, and their addresses.
    pub(crate) stations: Vec<(String, MacAddr)>,
}

impl Switch {
    /// A switch in a network namespace of its own; `None` as for [`TestNet::new`].
    pub(crate) fn new(mtu: usize, stations: u8) -> Option<Self> {
        let net = TestNet::new(mtu)?;
        // Nobody speaks but who is told to.
        ip(&format!("link add aoe-br mtu {mtu} type bridge mcast_snooping 0"));
        ip(&format!("link set {} master aoe-br", net.b));
        let station = |index| {
            let (name, mac) = (format!("aoe-s{index}"), MacAddr([0x02, 0xae, 0, 0, 1, index]));
            ip(&format!(
                "link add {name} mtu {mtu} address {mac} type veth peer name aoe-p{index} mtu {mtu}"
            ));
            ip(&format!("link set aoe-p{index} master aoe-br up"));
            ip(&format!("link set {name} up"));
            (name, mac)
        };
        let stations: Vec<_> = (0..stations).map(station).collect();
        ip("link set aoe-br up");
        for (name, _) in &stations {
            wait_until_up(name);
        }
        Some(Self { net, stations })
    }

    /// Puts another interface of the server on the switch; tells its name and address.
    pub(crate) fn add_interface(&self, mtu: usize) -> (&'static str, MacAddr) {
        let (name, mac) = ("aoe-c", MacAddr([0x02, 0xae, 0, 0, 0, 0x1c]));
        ip(&format!(
            "link add {name} mtu {mtu} address {mac} type veth peer name aoe-pc mtu {mtu}"
        ));
        ip("link set aoe-pc master aoe-br up");
        ip(&format!("link set {name} up"));
        wait_until_up(name);
        (name, mac)
    }
}

impl Switch {
    /// Takes the server's cable off the switch; tells the two interfaces between which frames have to be
    /// carried from now on: the one at the server's end, and the one at the switch's.
    pub(crate) fn cut(&self, mtu: usize) -> (&'static str, &'static str) {
        let (name, _) = self.add_interface(mtu);
        ip(&format!("link set {} nomaster", self.net.b));
        (self.net.b, name)
    }

    /// Puts an interface for a virtual machine on the switch; tells its name.
    pub(crate) fn add_tap(&self, mtu: usize) -> &'static str {
        let name = "aoe-tap";
        ip(&format!("tuntap add dev {name} mode tap"));
        ip(&format!("link set {name} mtu {mtu} master aoe-br up"));
        name
    }
}

/// What the kernel has counted for an interface of the thread's namespace: frames received, and
/// frames dropped on the way in and on the way out.
pub(crate) fn interface_counters(name: &str) -> (u64, u64, u64) {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").expect("Linux has it");
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{name}:")));
    let numbers = line.expect("the interface is listed").split_whitespace();
    let numbers: Vec<u64> = numbers.map(|number| number.parse().expect("a number")).collect();
    (numbers[1], numbers[3], numbers[11])
}

/// Runs the command `ip`, in the thread's network namespace, with `args` separated by spaces.
pub(crate) fn ip(args: &str) {
    if let Err(error) = try_ip(args) {
        panic!("{error}");
    }
}

/// The same, with what it complains about.
fn try_ip(args: &str) -> Result<(), String> {
    let output = Command::new("ip").args(args.split(' ')).output().expect("ip is installed");
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {args}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// Waits until the interface called `name` has a carrier.
pub(crate) fn wait_until_up(name: &str) {
    let up = || interface::lookup(name).is_ok_and(|interface| interface.up);
    assert!(within(PATIENCE, up), "{name} does not come up");
}

/// Whether `done` comes true within `limit`; it is asked every few milliseconds.
#[allow(clippy::disallowed_methods, reason = "tests wait for what the kernel does in its own time")]
pub(crate) fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = std::time::Instant::now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends all frames of `batch`, with patience where the wire is full.
pub(crate) fn send_all(link: &mut dyn Link, batch: &Batch<'_>) {
    let mut sent = 0;
    let done = within(PATIENCE, || {
        sent += link.send(batch, sent).expect("the link sends");
        sent == batch.len()
    });
    assert!(done, "only {sent} of {} frames were taken", batch.len());
}

/// Receives until `batch` holds `count` frames, sleeping on the link's descriptor as a loop does.
/// Errors that pass are waited out.
pub(crate) fn receive_until(link: &mut dyn Link, batch: &mut Batch<'_>, count: usize) {
    let done = within(PATIENCE, || {
        match link.receive(batch) {
            Ok(_) | Err(LinkError::Down) => {}
            Err(error) => panic!("cannot receive: {error}"),
        }
        if batch.len() < count {
            wait_readable(link, Duration::from_millis(50));
        }
        batch.len() >= count
    });
    assert!(done, "only {} of {count} frames came", batch.len());
}

/// Asserts that nothing arrives for a while.
pub(crate) fn receive_nothing(link: &mut dyn Link, batch: &mut Batch<'_>) {
    let before = batch.len();
    let came = within(QUIET, || {
        let _ = link.receive(batch);
        batch.len() > before
    });
    assert!(!came, "received {:02x?}", batch.frame(before));
}

/// Whether the link's descriptor becomes readable within `limit`.
pub(crate) fn wait_readable(link: &dyn Link, limit: Duration) -> bool {
    let Some(descriptor) = link.descriptor() else { return false };
    let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
    let limit = Timespec::try_from(limit).expect("a short time");
    poll(&mut polled, Some(&limit)).is_ok_and(|ready| ready > 0)
}

/// Checks the link until it tells something, and returns that.
pub(crate) fn next_event(link: &mut dyn Link) -> LinkEvent {
    let mut event = None;
    let told = within(PATIENCE, || {
        event = link.check();
        event.is_some()
    });
    assert!(told, "the link tells nothing");
    event.expect("told")
}
