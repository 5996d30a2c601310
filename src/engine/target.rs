//! One target: its state, and which command goes where.

use super::{Action, After, ConfigString, MacList, Port, Request, ata};
use crate::protocol::{
    ATA_LEN, Address, AoeError, AtaArg, CONFIG_LEN, Command, ConfigArg, ConfigCommand,
    ConfigFields, ETHERNET_LEN, Flags, Frame, FrameFields, FrameWriter, HEADER_LEN, MASK_LEN,
    MIN_FRAME_LEN, MacAddr, MaskArg, RESERVE_LEN, ReserveArg, Tag, VERSION, advertised_sectors,
};
use crate::storage::BlockStorage;

/// When writes are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When they survive power loss.
    #[default]
    Durable,
    /// When reads see them; a flush makes them survive power loss. IDENTIFY says that a write cache
    /// is on, and SET FEATURES can turn it off.
    Volatile,
}

/// What a target is set up with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetProfile {
    /// Its address.
    pub address: Address,
    /// How many frames an initiator may have in flight. Linux overlooks targets that say 0 or 1.
    pub buffer_count: u16,
    /// When writes are acknowledged.
    pub durability: Durability,
    /// The only stations it answers; everybody, when empty. Initiators cannot change it.
    pub allow: MacList,
}

/// What initiators set on a target, and what survives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The config string.
    pub config_string: ConfigString,
    /// The only stations that are heard; everybody, when empty.
    pub mask: MacList,
    /// The only stations whose ATA commands are done; everybody's, when empty.
    pub reservation: MacList,
}

/// What a target did, from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TargetCounters {
    /// Requests that got an answer, an error included.
    pub answered: u64,
    /// Read commands that succeeded.
    pub reads: u64,
    /// Sectors they read.
    pub sectors_read: u64,
    /// Write commands that were taken.
    pub writes: u64,
    /// Sectors they wrote.
    pub sectors_written: u64,
    /// Flushes that were taken.
    pub flushes: u64,
    /// Config queries that were answered.
    pub config_queries: u64,
    /// Commands that ended in an ATA error.
    pub ata_errors: u64,
    /// Requests refused with an AoE error, those of [`Self::refused_reserved`] not counted.
    pub aoe_errors: u64,
    /// ATA commands refused since others hold the target. To Linux this looks like frame loss.
    pub refused_reserved: u64,
    /// Requests from stations that may not be heard. To them this looks like no target at all.
    pub unheard: u64,
    /// Requests whose argument was cut short: dropped.
    pub malformed: u64,
    /// Times that a request had to wait for storage or for settings.
    pub parked: u64,
}

/// The firmware version that config replies carry: this package's, as major and minor octet.
const FIRMWARE: u16 =
    (decimal(env!("CARGO_PKG_VERSION_MAJOR")) << 8) | decimal(env!("CARGO_PKG_VERSION_MINOR"));

/// A version number's part; only its last two digits matter here.
const fn decimal(text: &str) -> u16 {
    let mut octets = text.as_bytes();
    let mut number: u16 = 0;
    while let [digit, rest @ ..] = octets {
        number = number.wrapping_mul(10).wrapping_add((*digit - b'0') as u16);
        octets = rest;
    }
    number & 0xff
}

/// One target.
#[derive(Debug)]
pub struct Target {
    pub(super) profile: TargetProfile,
    pub(super) settings: Settings,
    /// Settings that the caller is making durable.
    staged: Option<Settings>,
    /// Off when an initiator said so; matters only to a volatile target.
    pub(super) write_cache: bool,
    pub(super) counters: TargetCounters,
}

/// What a command comes to before it is a frame.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    /// Say nothing.
    Silence,
    /// A reply of this many octets, that may leave then; `None` when it did not fit the buffer.
    Reply(Option<usize>, After),
    /// Refuse, and echo the fixed part of the argument.
    Refuse(AoeError),
    /// Wait.
    Park,
}

impl Target {
    /// A target with `settings` as they were last saved.
    pub fn new(profile: TargetProfile, settings: Settings) -> Self {
        let write_cache = profile.durability == Durability::Volatile;
        let counters = TargetCounters::default();
        Self { profile, settings, staged: None, write_cache, counters }
    }

    /// Its address.
    pub const fn address(&self) -> Address {
        self.profile.address
    }

    /// What it was set up with.
    pub const fn profile(&self) -> &TargetProfile {
        &self.profile
    }

    /// Changes buffer count and static access list while it serves; address and durability stay.
    pub fn adjust(&mut self, buffer_count: u16, allow: MacList) {
        self.profile.buffer_count = buffer_count;
        self.profile.allow = allow;
    }

    /// The settings in force.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it did so far.
    pub const fn counters(&self) -> &TargetCounters {
        &self.counters
    }

    /// The settings that a reply with [`After::Saved`] announces, to be made durable.
    pub const fn staged(&self) -> Option<&Settings> {
        self.staged.as_ref()
    }

    /// Puts the staged settings in force: they are durable.
    pub fn apply_staged(&mut self) {
        if let Some(settings) = self.staged.take() {
            self.settings = settings;
        }
    }

    /// Drops the staged settings: they could not be made durable.
    pub fn abandon_staged(&mut self) {
        self.staged = None;
    }

    /// Stages changed settings with the reply that announces them, of `len` octets. A reply that
    /// cannot be sent changes nothing: nobody would make the settings durable, and every later
    /// change would wait for that.
    pub(super) fn stage(&mut self, settings: Settings, len: Option<usize>) -> Outcome {
        if len.is_some() {
            self.staged = Some(settings);
        }
        Outcome::Reply(len, After::Saved)
    }

    /// Whether earlier changes are still being made durable: another has to wait.
    pub(super) const fn is_saving(&self) -> bool {
        self.staged.is_some()
    }

    /// Answers one request that addresses this target. See [`super::Engine::handle`].
    #[inline]
    pub fn handle<S: BlockStorage>(
        &mut self,
        request: &Request<'_>,
        storage: &mut S,
        reply: &mut [u8],
    ) -> Action {
        let header = &request.frame.header;
        let source = request.frame.source;
        if self.profile.allow.shuts_out(source) || self.settings.mask.shuts_out(source) {
            self.counters.unheard += 1;
            return Action::Ignore;
        }
        let reply = sendable(request.port, reply);
        let outcome = if header.version() == VERSION {
            match header.command() {
                Command::ATA => return ata::handle(self, request, storage, reply),
                Command::CONFIG => self.config(request, reply),
                Command::MASK => self.mask(request, reply),
                Command::RESERVE => self.reserve(request, reply),
                _ => Outcome::Refuse(AoeError::UNRECOGNIZED_COMMAND),
            }
        } else {
            Outcome::Refuse(AoeError::UNSUPPORTED_VERSION)
        };
        self.conclude(request, outcome, reply)
    }

    /// Makes an action of what a command comes to, and counts it.
    #[inline]
    pub(super) fn conclude(
        &mut self,
        request: &Request<'_>,
        outcome: Outcome,
        reply: &mut [u8],
    ) -> Action {
        match outcome {
            Outcome::Reply(Some(len), after) => {
                self.counters.answered += 1;
                Action::Reply { len, after }
            }
            Outcome::Silence | Outcome::Reply(None, _) => Action::Ignore,
            Outcome::Refuse(error) => self.refuse(request, error, reply),
            Outcome::Park => {
                self.counters.parked += 1;
                Action::Park
            }
        }
    }

    /// The headers of a reply to `request`.
    #[inline]
    pub(super) const fn reply_fields(&self, request: &Request<'_>) -> FrameFields {
        let Frame { header, source, .. } = &request.frame;
        FrameFields::reply(header, *source, request.port.mac, self.profile.address)
    }

    /// A request without its whole fixed argument: dropped, as vblade does.
    pub(super) fn malformed(&mut self) -> Outcome {
        self.counters.malformed += 1;
        Outcome::Silence
    }

    /// An AoE error: the headers and the fixed part of the argument, as it came.
    #[cold]
    fn refuse(&mut self, request: &Request<'_>, error: AoeError, reply: &mut [u8]) -> Action {
        let header = &request.frame.header;
        let fixed = if error == AoeError::UNSUPPORTED_VERSION {
            &[]
        } else {
            fixed_part(header.command(), header.arg())
        };
        let fields = self.reply_fields(request).refusing(error);
        let Some(len) = FrameWriter::new(reply, &fields).octets(fixed).finish() else {
            return Action::Ignore;
        };
        self.counters.answered += 1;
        if error == AoeError::TARGET_RESERVED {
            self.counters.refused_reserved += 1;
        } else {
            self.counters.aoe_errors += 1;
        }
        Action::Reply { len, after: After::Now }
    }

    /// What this target tells of itself on `port`, in answer to `command`.
    pub(super) const fn config_fields(&self, port: Port, command: ConfigCommand) -> ConfigFields {
        ConfigFields {
            buffer_count: self.profile.buffer_count,
            firmware: FIRMWARE,
            sector_count: advertised_sectors(port.mtu),
            command,
        }
    }

    /// Who is to be told about this target: everybody, or each station that it hears.
    pub fn audience(&self) -> impl Iterator<Item = MacAddr> + '_ {
        let (allow, mask) = (&self.profile.allow, &self.settings.mask);
        let everybody = (allow.is_empty() && mask.is_empty()).then_some(MacAddr::BROADCAST);
        let listed = if mask.is_empty() { allow } else { mask };
        let heard = listed.as_slice().iter().copied().filter(|mac| !allow.shuts_out(*mac));
        everybody.into_iter().chain(heard)
    }

    /// Writes an advertisement, which is a config reply that nobody asked for, and returns its
    /// length; `None` when `out` or the MTU is too small. Sent at start and whenever size or MTU
    /// change.
    pub fn advertise(&self, port: Port, to: MacAddr, out: &mut [u8]) -> Option<usize> {
        let fields = FrameFields {
            destination: to,
            source: port.mac,
            flags: Flags::RESPONSE,
            error: AoeError::NONE,
            address: self.profile.address,
            command: Command::CONFIG,
            // Plan 9 takes only this tag (or all ones) for an advertisement.
            tag: Tag([0; 4]),
        };
        let config = self.config_fields(port, ConfigCommand::READ);
        FrameWriter::new(sendable(port, out), &fields)
            .config(&config, self.settings.config_string.as_slice())
            .finish()
    }
}

/// The part of `reply` that the link can send. What does not fit it is not built: IDENTIFY on a
/// link with an MTU below 534, a long config string on one below 1042.
#[inline]
fn sendable(port: Port, reply: &mut [u8]) -> &mut [u8] {
    let longest = port.mtu.saturating_add(ETHERNET_LEN).max(MIN_FRAME_LEN);
    let len = longest.min(reply.len());
    reply.get_mut(..len).unwrap_or_default()
}

/// The fixed part of an argument, where it is known and all there.
fn fixed_part(command: Command, arg: &[u8]) -> &[u8] {
    match command {
        Command::ATA => AtaArg::parse(arg).map_or(&[], |ata| &ata.octets()[..]),
        Command::CONFIG => ConfigArg::parse(arg).map_or(&[], |config| &config.octets()[..]),
        Command::MASK => MaskArg::parse(arg).map_or(&[], |mask| &mask.octets()[..]),
        Command::RESERVE => ReserveArg::parse(arg).map_or(&[], |reserve| &reserve.octets()[..]),
        _ => &[],
    }
}

/// Makes a refusal with `error` of a finished reply. Returns its new length.
pub(super) fn refuse_reply(reply: &mut [u8], error: AoeError) -> usize {
    let Ok(frame) = Frame::parse(reply) else { return 0 };
    let fields = FrameFields::of(&frame).refusing(error);
    let mut kept = [0; ATA_LEN];
    let fixed = match frame.header.command() {
        Command::ATA => ATA_LEN,
        Command::CONFIG => CONFIG_LEN,
        Command::MASK => MASK_LEN,
        Command::RESERVE => RESERVE_LEN,
        _ => 0,
    };
    let arg = frame.header.arg();
    for (to, from) in kept.iter_mut().zip(arg).take(fixed) {
        *to = *from;
    }
    let rest = kept.get(..fixed).unwrap_or_default();
    FrameWriter::new(reply, &fields).octets(rest).finish().unwrap_or(0)
}

// What `refuse_reply` keeps fits the shortest frame, so that every reply has room for it.
const _: () = assert!(ETHERNET_LEN + HEADER_LEN + ATA_LEN <= MIN_FRAME_LEN);
