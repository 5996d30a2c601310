//! A loop over cables in memory, turned by hand on virtual time, and a disk that does what it is
//! told to.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use aoe_server::clock::Instant;
use aoe_server::engine::{Durability, Export, MacList, Settings, Target, TargetProfile};
use aoe_server::link::memory::{MemoryLink, MemoryOptions};
use aoe_server::link::{Batch, FramePool, Link, LinkCounters, LinkError, LinkEvent, LinkInfo};
use aoe_server::protocol::ata::{AtaText, status};
use aoe_server::protocol::{
    Address, AtaArg, AtaFields, AtaFlags, Command, ConfigArg, ConfigCommand, ConfigFields, Frame,
    FrameFields, FrameWriter, MacAddr, Opcode, Tag,
};
use aoe_server::server::state::SettingsSaver;
use aoe_server::server::{Admission, Answer, Backend, Control, Listener, PortSet};
use aoe_server::storage::{Accepted, BlockStorage, DeviceInfo, Fault, Ready, Ticket};
use aoe_server::units::{Lba, SECTOR_SIZE, Sectors};
use aoe_server::wake::Waker;
use rustix::event::{EventfdFlags, eventfd};

pub(crate) const TARGET: Address = Address::new(7, 3);
pub(crate) const INITIATOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// Sectors of a [`Disk`].
pub(crate) const SECTORS: u64 = 4096;
/// How long anything that must happen may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a [`Disk`] does, for the test to change while a loop drives it.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub(crate) struct Script {
    pub(crate) octets: Vec<u8>,
    /// What survives power loss.
    pub(crate) durable_octets: Vec<u8>,
    /// Reads answer later.
    pub(crate) hold_reads: bool,
    /// Writes and flushes answer later.
    pub(crate) hold_writes: bool,
    /// So many more writes and flushes answer later; the one after them is taken.
    pub(crate) refuse_writes: usize,
    /// Tickets stay where they are until the test moves them.
    pub(crate) hold_tickets: bool,
    /// The next call of `progress` says that it is worth asking again.
    pub(crate) news: bool,
    pub(crate) last: u64,
    pub(crate) applied: u64,
    pub(crate) durable: u64,
    /// Tickets that turn out to have failed.
    pub(crate) faults: HashMap<u64, Fault>,
    /// The tag in the first octets of each write, in the order they were taken; 0 for a flush.
    pub(crate) taken: Vec<u32>,
    /// Calls of read and verify.
    pub(crate) reads: u64,
    /// Calls of progress.
    pub(crate) looks: u64,
    /// A read began after the last of them: storage has had no chance to pass it on.
    pub(crate) begun: bool,
    /// Writes that are not durable yet.
    volatile: VecDeque<(u64, usize, Vec<u8>)>,
    /// What the next refresh finds.
    pub(crate) new_size: Option<Sectors>,
}

impl Script {
    /// Lets everything go on that was held, and says so once.
    pub(crate) fn release(&mut self) {
        (self.hold_reads, self.hold_writes, self.hold_tickets) = (false, false, false);
        self.refuse_writes = 0;
        self.news = true;
        self.applied = self.last;
        self.set_durable(self.last);
    }

    pub(crate) fn set_durable(&mut self, durable: u64) {
        self.durable = durable;
        self.applied = self.applied.max(durable);
        while let Some((ticket, ..)) = self.volatile.front()
            && *ticket <= durable
        {
            let (_, at, data) = self.volatile.pop_front().unwrap();
            self.durable_octets[at..at + data.len()].copy_from_slice(&data);
        }
    }

    fn refuses_write(&mut self) -> bool {
        let refuses = self.refuse_writes > 0;
        self.refuse_writes -= usize::from(refuses);
        self.hold_writes || refuses
    }

    fn take(&mut self, tag: u32) -> Ticket {
        self.last += 1;
        self.taken.push(tag);
        if !self.hold_tickets {
            self.applied = self.last;
        }
        Ticket(self.last)
    }

    fn settle(&mut self) {
        if !self.hold_tickets {
            self.set_durable(self.last);
        }
    }
}

/// A disk in memory that does as its [`Script`] says. Clones are one disk.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    info: DeviceInfo,
    script: Arc<Mutex<Script>>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        let info = DeviceInfo {
            size: Sectors(SECTORS),
            serial: AtaText::new("scripted"),
            model: AtaText::new("scripted"),
            read_only: false,
            discard: false,
        };
        let octets = vec![0xa5; SECTORS as usize * SECTOR_SIZE];
        let script = Script { durable_octets: octets.clone(), octets, ..Script::default() };
        Self { info, script: Arc::new(Mutex::new(script)) }
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }
}

impl BlockStorage for Disk {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn read(&mut self, lba: Lba, into: &mut [u8]) -> Result<Ready, Fault> {
        let mut script = self.script();
        script.reads += 1;
        if script.hold_reads {
            script.begun = true;
            return Ok(Ready::Later);
        }
        let at = lba.0 as usize * SECTOR_SIZE;
        into.copy_from_slice(&script.octets[at..at + into.len()]);
        Ok(Ready::Done)
    }

    fn write(&mut self, lba: Lba, data: &[u8]) -> Result<Accepted, Fault> {
        let mut script = self.script();
        if script.refuses_write() {
            return Ok(Accepted::Later);
        }
        let at = lba.0 as usize * SECTOR_SIZE;
        script.octets[at..at + data.len()].copy_from_slice(data);
        let ticket = script.take(u32::from_be_bytes(*data.first_chunk().unwrap()));
        script.volatile.push_back((ticket.0, at, data.to_vec()));
        script.settle();
        Ok(Accepted::Done(ticket))
    }

    fn flush(&mut self) -> Result<Accepted, Fault> {
        let mut script = self.script();
        if script.refuses_write() {
            return Ok(Accepted::Later);
        }
        let ticket = script.take(0);
        script.settle();
        Ok(Accepted::Done(ticket))
    }

    fn verify(&mut self, _: Lba, _: Sectors) -> Result<Ready, Fault> {
        let mut script = self.script();
        script.reads += 1;
        Ok(if script.hold_reads { Ready::Later } else { Ready::Done })
    }

    fn applied(&self) -> Ticket {
        Ticket(self.script().applied)
    }

    fn durable(&self) -> Ticket {
        Ticket(self.script().durable)
    }

    fn outcome(&mut self, ticket: Ticket) -> Result<(), Fault> {
        self.script().faults.remove(&ticket.0).map_or(Ok(()), Err)
    }

    fn progress(&mut self) -> bool {
        let mut script = self.script();
        script.looks += 1;
        script.begun = false;
        std::mem::take(&mut script.news)
    }

    fn refresh(&mut self) -> bool {
        let size = self.script().new_size.take();
        self.info.size = size.unwrap_or(self.info.size);
        size.is_some()
    }
}

/// What a [`Valve`] does.
#[derive(Debug, Default)]
pub(crate) struct ValveState {
    /// Frames that may still be sent; `None` for no limit.
    pub(crate) takes: Option<usize>,
    /// What the link says it is.
    pub(crate) info: Option<LinkInfo>,
    /// What the next check tells.
    pub(crate) event: Option<LinkEvent>,
    /// Receiving fails with this.
    pub(crate) receive_error: Option<LinkError>,
    /// The descriptor is readable all the time, as a socket's is while frames wait.
    pub(crate) loud: bool,
    /// Frames that the kernel is said to have dropped.
    pub(crate) dropped: u64,
    /// Calls of `receive`.
    pub(crate) receives: u64,
    /// Calls of `send`.
    pub(crate) sends: u64,
}

/// A link whose wire is as full, and whose state is what, the test says.
#[derive(Debug)]
pub(crate) struct Valve {
    link: MemoryLink,
    state: Arc<Mutex<ValveState>>,
    readable: OwnedFd,
}

impl Link for Valve {
    fn info(&self) -> LinkInfo {
        self.state.lock().unwrap().info.unwrap_or_else(|| self.link.info())
    }

    fn receive(&mut self, batch: &mut Batch<'_>) -> Result<usize, LinkError> {
        let mut state = self.state.lock().unwrap();
        state.receives += 1;
        state.receive_error.map_or_else(|| self.link.receive(batch), Err)
    }

    fn send(&mut self, batch: &Batch<'_>, first: usize) -> Result<usize, LinkError> {
        // Locked for as long as it takes, so that what the test sets meanwhile stays.
        let mut state = self.state.lock().unwrap();
        state.sends += 1;
        let Some(takes) = &mut state.takes else { return self.link.send(batch, first) };
        let mut few = FramePool::new(*takes);
        for index in first..batch.len().min(first + *takes) {
            few.batch().push(batch.frame(index));
        }
        let sent = self.link.send(&few.batch(), 0)?;
        *takes -= sent;
        Ok(sent)
    }

    fn check(&mut self) -> Option<LinkEvent> {
        self.state.lock().unwrap().event.take()
    }

    fn counters(&mut self) -> LinkCounters {
        let dropped = self.state.lock().unwrap().dropped;
        LinkCounters { dropped, ..self.link.counters() }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        let loud = self.state.lock().unwrap().loud;
        if loud { Some(self.readable.as_fd()) } else { self.link.descriptor() }
    }
}

/// A loop with one cable for each port, and the initiator's ends of them.
pub(crate) struct Loop {
    pub(crate) listener: Listener<Valve>,
    pub(crate) control: Control,
    pub(crate) wires: Vec<MemoryLink>,
    pub(crate) valves: Vec<Arc<Mutex<ValveState>>>,
    pub(crate) now: Instant,
}

impl Loop {
    pub(crate) fn new() -> Self {
        Self::with(1, &MemoryOptions::default(), |_| None)
    }

    pub(crate) fn with(
        ports: usize,
        options: &MemoryOptions,
        saver: impl FnOnce(Waker) -> Option<SettingsSaver>,
    ) -> Self {
        let (mut links, mut wires, mut valves) = (Vec::new(), Vec::new(), Vec::new());
        for port in 0..ports {
            let options = MemoryOptions {
                macs: [INITIATOR, MacAddr([2, 0, 0, 0, port as u8, 2])],
                depth: options.depth.max(2048),
                ..options.clone()
            };
            let (wire, link) = MemoryLink::pair(&options).unwrap();
            let state = Arc::new(Mutex::new(ValveState::default()));
            let readable = eventfd(1, EventfdFlags::NONBLOCK).unwrap();
            links
                .push((format!("port{port}"), Valve { link, state: Arc::clone(&state), readable }));
            wires.push(wire);
            valves.push(state);
        }
        let (listener, control) = Listener::new(links, saver).unwrap();
        Self { listener, control, wires, valves, now: Instant::from_nanos(1_000_000_000) }
    }

    /// Serves `disk` at once on every port; its announcement is swallowed.
    pub(crate) fn serve(&mut self, address: Address, disk: &Disk) {
        self.serve_as(address, disk, Durability::Durable);
    }

    pub(crate) fn serve_as(&mut self, address: Address, disk: &Disk, durability: Durability) {
        let answer = self.add(address, disk, durability, Duration::ZERO);
        self.turns(2);
        assert_eq!(answer.try_recv().unwrap().0, Admission::Served);
        for port in 0..self.wires.len() {
            assert_eq!(self.replies_on(port).len(), 1, "the announcement");
        }
    }

    pub(crate) fn add(
        &mut self,
        address: Address,
        disk: &Disk,
        durability: Durability,
        probe: Duration,
    ) -> Receiver<Answer> {
        let profile =
            TargetProfile { address, buffer_count: 64, durability, allow: MacList::new() };
        let target = Target::new(profile, Settings::default());
        let storage: Backend = Box::new(disk.clone());
        self.control.add(Export { target, storage }, PortSet::ALL, probe).unwrap()
    }

    /// One turn, a tenth of a millisecond later; tells whether anything was done.
    pub(crate) fn turn(&mut self) -> bool {
        self.now = self.now.after(Duration::from_micros(100));
        self.listener.turn(self.now)
    }

    pub(crate) fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn();
        }
    }

    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.send_on(0, frame);
    }

    pub(crate) fn send_on(&mut self, port: usize, frame: &[u8]) {
        let mut pool = FramePool::new(1);
        assert!(pool.batch().push(frame));
        assert_eq!(self.wires[port].send(&pool.batch(), 0), Ok(1), "the cable is full");
    }

    /// What has arrived at the initiator.
    pub(crate) fn replies(&mut self) -> Vec<Got> {
        self.replies_on(0)
    }

    pub(crate) fn replies_on(&mut self, port: usize) -> Vec<Got> {
        let mut pool = FramePool::new(64);
        let mut all = Vec::new();
        loop {
            let mut batch = pool.batch();
            batch.clear();
            if self.wires[port].receive(&mut batch).unwrap() == 0 {
                return all;
            }
            all.extend(batch.frames().map(|octets| Got(octets.to_vec())));
        }
    }

    /// Turns until something has arrived, which may take other threads.
    pub(crate) fn wait_for_reply(&mut self) -> Got {
        let mut got = Vec::new();
        assert!(
            within(|| {
                self.turn();
                got.extend(self.replies());
                !got.is_empty()
            }),
            "no reply"
        );
        assert_eq!(got.len(), 1);
        got.remove(0)
    }
}

/// A frame that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Got(pub(crate) Vec<u8>);

impl Got {
    pub(crate) fn frame(&self) -> Frame<'_> {
        Frame::parse(&self.0).unwrap()
    }

    pub(crate) fn tag(&self) -> u32 {
        u32::from_be_bytes(self.frame().header.tag().0)
    }

    pub(crate) fn address(&self) -> Address {
        self.frame().header.address()
    }

    /// Whether it is an ATA response without an error.
    pub(crate) fn is_good(&self) -> bool {
        self.ata() == (status::DRDY, 0)
    }

    /// Status and error register of an ATA response.
    pub(crate) fn ata(&self) -> (u8, u8) {
        let frame = self.frame();
        assert!(frame.header.flags().is_response() && !frame.header.flags().is_error());
        let arg = AtaArg::parse(frame.header.arg()).unwrap();
        (arg.status(), arg.feature())
    }

    pub(crate) fn data(&self) -> &[u8] {
        AtaArg::parse(self.frame().header.arg()).unwrap().data()
    }

    pub(crate) fn string(&self) -> Vec<u8> {
        ConfigArg::parse(self.frame().header.arg()).unwrap().string().unwrap().to_vec()
    }
}

fn request(
    mac: MacAddr,
    address: Address,
    command: Command,
    tag: u32,
    fill: impl FnOnce(&mut FrameWriter<'_>),
) -> Vec<u8> {
    // To a group, so that it is for every port.
    let to = MacAddr::BROADCAST;
    let fields = FrameFields::request(mac, to, address, command, Tag(tag.to_be_bytes()));
    let mut octets = vec![0xa5; 9_300];
    let mut writer = FrameWriter::new(&mut octets, &fields);
    fill(&mut writer);
    let len = writer.finish().unwrap();
    octets.truncate(len);
    octets
}

fn ata(opcode: Opcode, flags: AtaFlags, lba: u64, count: u8) -> AtaFields {
    let [a, b, c, d, e, f, ..] = lba.to_le_bytes();
    AtaFields { flags, feature: 0, sector_count: count, command: opcode.0, lba: [a, b, c, d, e, f] }
}

pub(crate) fn read(address: Address, lba: u64, tag: u32) -> Vec<u8> {
    read_from(INITIATOR, address, lba, tag)
}

pub(crate) fn read_from(mac: MacAddr, address: Address, lba: u64, tag: u32) -> Vec<u8> {
    request(mac, address, Command::ATA, tag, |writer| {
        writer.ata(&ata(Opcode::READ_EXT, AtaFlags::EXTENDED, lba, 1));
    })
}

/// A write of one sector that starts with its tag.
pub(crate) fn write(address: Address, lba: u64, tag: u32) -> Vec<u8> {
    write_from(INITIATOR, address, lba, tag)
}

pub(crate) fn write_from(mac: MacAddr, address: Address, lba: u64, tag: u32) -> Vec<u8> {
    let flags = AtaFlags::EXTENDED.union(AtaFlags::WRITE);
    request(mac, address, Command::ATA, tag, |writer| {
        writer.ata(&ata(Opcode::WRITE_EXT, flags, lba, 1)).octets(&sector(tag));
    })
}

pub(crate) fn flush_from(mac: MacAddr, address: Address, tag: u32) -> Vec<u8> {
    request(mac, address, Command::ATA, tag, |writer| {
        writer.ata(&ata(Opcode::FLUSH_CACHE_EXT, AtaFlags::EXTENDED, 0, 0));
    })
}

/// What [`write`] writes.
pub(crate) fn sector(tag: u32) -> [u8; SECTOR_SIZE] {
    let mut data = [tag as u8; SECTOR_SIZE];
    data[..4].copy_from_slice(&tag.to_be_bytes());
    data
}

pub(crate) fn config(address: Address, command: ConfigCommand, string: &[u8], tag: u32) -> Vec<u8> {
    request(INITIATOR, address, Command::CONFIG, tag, |writer| {
        writer.config(&ConfigFields { command, ..ConfigFields::default() }, string);
    })
}

pub(crate) fn query(address: Address, tag: u32) -> Vec<u8> {
    config(address, ConfigCommand::READ, &[], tag)
}

/// What another server says when it is asked whether it serves `address`.
pub(crate) fn claim(address: Address, mac: MacAddr) -> Vec<u8> {
    let mut frame = query(address, 0);
    frame[..6].copy_from_slice(&SERVER.0);
    frame[6..12].copy_from_slice(&mac.0);
    frame[14] |= 0x08;
    frame
}

/// Whether `done` comes true before patience ends.
#[allow(clippy::disallowed_methods, reason = "tests wait for other threads in real time")]
pub(crate) fn within(mut done: impl FnMut() -> bool) -> bool {
    let start = std::time::Instant::now();
    while !done() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Asserts that each of `tags` was answered exactly once, and nothing else was.
pub(crate) fn assert_once(replies: &[Got], tags: impl IntoIterator<Item = u32>) {
    let mut got: Vec<_> = replies.iter().map(Got::tag).collect();
    let mut tags: Vec<_> = tags.into_iter().collect();
    got.sort_unstable();
    tags.sort_unstable();
    assert_eq!(got, tags);
}
