//! Network interfaces by name, as the calling thread's network namespace has them.
//!
//! Everything is asked of the kernel by `ioctl`, not read from `/sys`: a mounted `/sys` may show
//! the interfaces of another network namespace.

#![allow(unsafe_code, reason = "the kernel tells of interfaces only through `ioctl` and libc")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::unnecessary_cast,
    reason = "a `char` of C may have a sign, depending on the machine; sizes are small"
)]

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::string::{String, ToString};

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use crate::protocol::MacAddr;

/// Names that are further from an existing one than this are not typing errors.
const SUGGESTION_DISTANCE: usize = 2;

/// A network interface, as it was when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number; an interface that is removed and made again gets another.
    pub index: u32,
    /// Its Ethernet address; all zeros for `lo` and for what has none.
    pub mac: MacAddr,
    /// Octets that a frame may have after its Ethernet header.
    pub mtu: usize,
    /// Whether it is switched on and has a carrier.
    pub up: bool,
    /// Whether its frames start with an Ethernet header.
    pub ethernet: bool,
}

/// Why an interface could not be looked up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterfaceError {
    /// There is none of that name.
    #[error(
        "no interface \"{name}\"; there are: {}{}",
        .present.join(", "),
        Suggestion(.closest.as_deref())
    )]
    Missing {
        /// The name that was asked for.
        name: String,
        /// The interfaces there are.
        present: Vec<String>,
        /// The one that was probably meant.
        closest: Option<String>,
    },
    /// The operating system does not tell.
    #[error("cannot ask for network interfaces")]
    Os(#[from] io::Error),
}

/// Why a live link could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The interface cannot be looked up.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The process may not open packet sockets.
    #[error(
        "not permitted to send and receive raw frames on {interface}: run as root, or allow it \
         once with\n    sudo setcap cap_net_raw+ep {}",
        .executable.display()
    )]
    NotPermitted {
        /// The interface.
        interface: String,
        /// The program that lacks the permission.
        executable: PathBuf,
    },
    /// The interface carries something else than Ethernet frames.
    #[error("interface {interface} does not carry Ethernet frames")]
    NotEthernet {
        /// The interface.
        interface: String,
    },
    /// This build has no links of that kind.
    #[error("this build has no {kind} links; build it with the feature of that name")]
    KindMissing {
        /// The kind.
        kind: super::LinkKind,
    },
    /// The operating system refused a step.
    #[error("cannot {action} on interface {interface}")]
    Os {
        /// The step.
        action: &'static str,
        /// The interface.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// libpcap refused a step.
    #[cfg(feature = "pcap")]
    #[error("cannot {action} on interface {interface}")]
    Pcap {
        /// The step.
        action: &'static str,
        /// The interface.
        interface: String,
        /// Why.
        source: ::pcap::Error,
    },
}

impl OpenError {
    /// The process may not open packet sockets on `interface`.
    #[cfg(any(feature = "pcap", feature = "af-packet"))]
    pub(super) fn not_permitted(interface: &str) -> Self {
        let executable = std::env::current_exe().unwrap_or_else(|_| "aoe-server".into());
        Self::NotPermitted { interface: interface.to_string(), executable }
    }
}

/// The end of a sentence that names the closest match, if there is one.
struct Suggestion<'a>(Option<&'a str>);

impl core::fmt::Display for Suggestion<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Some(name) => write!(f, "; did you mean \"{name}\"?"),
            None => Ok(()),
        }
    }
}

/// All interfaces, in the order of the kernel's list.
///
/// # Errors
/// When the operating system refuses to tell.
pub fn list() -> io::Result<Vec<Interface>> {
    let mut interfaces = Vec::new();
    for name in names()? {
        // One that vanishes between the list and the question is left out.
        let Some(probe) = Probe::new(&name)? else { continue };
        if let Some(state) = probe.state()? {
            interfaces.push(state.named(name));
        }
    }
    Ok(interfaces)
}

/// The interface called `name`.
///
/// # Errors
/// [`InterfaceError::Missing`] when there is none, with the names there are.
pub fn lookup(name: &str) -> Result<Interface, InterfaceError> {
    if let Some(probe) = Probe::new(name)?
        && let Some(state) = probe.state()?
    {
        return Ok(state.named(name.to_string()));
    }
    Err(missing(name, names()?))
}

/// A probe for the interface called `name`, and what it says at first.
///
/// # Errors
/// As [`lookup`].
#[cfg(any(feature = "pcap", feature = "af-packet"))]
pub(super) fn probe(name: &str) -> Result<(Probe, State), InterfaceError> {
    if let Some(probe) = Probe::new(name)?
        && let Some(state) = probe.state()?
    {
        return Ok((probe, state));
    }
    Err(missing(name, names()?))
}

/// The error for a name that is not among `present`.
fn missing(name: &str, present: Vec<String>) -> InterfaceError {
    let closest = present
        .iter()
        .map(|other| (strsim::osa_distance(name, other), other))
        .filter(|&(distance, other)| distance <= SUGGESTION_DISTANCE && distance < other.len())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, other)| other.clone());
    InterfaceError::Missing { name: name.to_string(), present, closest }
}

/// What the kernel says of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) index: u32,
    pub(super) mac: MacAddr,
    pub(super) mtu: usize,
    pub(super) up: bool,
    pub(super) ethernet: bool,
}

impl State {
    fn named(self, name: String) -> Interface {
        let Self { index, mac, mtu, up, ethernet } = self;
        Interface { name, index, mac, mtu, up, ethernet }
    }
}

/// A way to ask for one interface again and again, by name, without allocating.
///
/// It stays in the network namespace that it was made in.
#[derive(Debug)]
pub(super) struct Probe {
    /// Any socket will do to ask; a Unix one is there even where IP is not.
    socket: OwnedFd,
    name: String,
    raw_name: [libc::c_char; libc::IFNAMSIZ],
}

impl Probe {
    /// A probe for the interface called `name`; `None` when no interface can be called so.
    pub(super) fn new(name: &str) -> io::Result<Option<Self>> {
        let mut raw_name = [0; libc::IFNAMSIZ];
        // The last octet stays zero.
        if name.is_empty() || name.len() >= raw_name.len() || name.contains('\0') {
            return Ok(None);
        }
        for (raw, octet) in raw_name.iter_mut().zip(name.bytes()) {
            *raw = octet as libc::c_char;
        }
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Some(Self { socket, name: name.to_string(), raw_name }))
    }

    /// The interface's name.
    #[cfg(any(feature = "pcap", feature = "af-packet"))]
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The interface as it is now; `None` when there is none of the name.
    pub(super) fn state(&self) -> io::Result<Option<State>> {
        match self.ask_all() {
            Ok(state) => Ok(Some(state)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn ask_all(&self) -> io::Result<State> {
        let index = netdevice::name_to_index(&self.socket, &self.name)?;
        let answer = self.ask(libc::SIOCGIFFLAGS)?;
        // SAFETY: SIOCGIFFLAGS has filled this member, and any bits are a valid integer.
        let flags = i32::from(unsafe { answer.ifr_ifru.ifru_flags });
        let answer = self.ask(libc::SIOCGIFMTU)?;
        // SAFETY: SIOCGIFMTU has filled this member, and any bits are a valid integer.
        let mtu = unsafe { answer.ifr_ifru.ifru_mtu };
        let answer = self.ask(libc::SIOCGIFHWADDR)?;
        // SAFETY: SIOCGIFHWADDR has filled this member, made of integers only.
        let address = unsafe { answer.ifr_ifru.ifru_hwaddr };
        let mut mac = MacAddr::default();
        for (octet, raw) in mac.0.iter_mut().zip(address.sa_data) {
            *octet = raw as u8;
        }
        let running = libc::IFF_UP | libc::IFF_RUNNING;
        Ok(State {
            index,
            mac,
            mtu: usize::try_from(mtu).unwrap_or(0),
            up: flags & running == running,
            ethernet: matches!(address.sa_family, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK),
        })
    }

    /// One question about the interface.
    fn ask(&self, request: libc::Ioctl) -> io::Result<libc::ifreq> {
        // SAFETY: `ifreq` is a C structure of integers, for which all zeros are valid.
        let mut question: libc::ifreq = unsafe { mem::zeroed() };
        question.ifr_name = self.raw_name;
        // SAFETY: the SIOCGIF requests that are passed here read a name that ends in a zero, and
        // write within the `ifreq` they are given, which lives through the call.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), request, &raw mut question) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(question) }
    }
}

/// Sets a socket option of the plain C type `T`, which holds what the option expects.
#[cfg(any(feature = "pcap", feature = "af-packet"))]
pub(super) fn set_option<T>(
    socket: impl std::os::fd::AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes at `value`, a reference that lives through
    // the call; where they hold a pointer, as for the filter, the caller keeps its target alive.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            core::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The kernel's list of interfaces, given back when dropped.
struct NameIndex(NonNull<libc::if_nameindex>);

impl Drop for NameIndex {
    fn drop(&mut self) {
        // SAFETY: the list came from `if_nameindex` and is given back here only.
        unsafe { libc::if_freenameindex(self.0.as_ptr()) };
    }
}

/// The names of all interfaces.
fn names() -> io::Result<Vec<String>> {
    // SAFETY: it takes no arguments; what it returns is checked and given back.
    let list = NonNull::new(unsafe { libc::if_nameindex() }).map(NameIndex);
    let Some(list) = list else { return Err(io::Error::last_os_error()) };
    let mut names = Vec::new();
    let mut entry = list.0;
    loop {
        // SAFETY: `entry` points into the list, at its closing entry at the furthest.
        let name = unsafe { entry.read() }.if_name;
        if name.is_null() {
            return Ok(names);
        }
        // SAFETY: a name that is not null is a C string of the list, which is alive.
        let name = unsafe { CStr::from_ptr(name) };
        names.push(name.to_string_lossy().into_owned());
        // SAFETY: only the closing entry has a null name, so that another one follows this.
        entry = unsafe { entry.add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use std::vec;

    #[test]
    fn the_loopback_interface_is_found_and_listed() {
        let found = lookup("lo").unwrap();
        assert_eq!((found.name.as_str(), found.mac), ("lo", MacAddr::default()));
        assert!(found.index > 0 && found.ethernet && found.mtu > 0);
        assert!(list().unwrap().contains(&found));
    }

    #[test]
    fn a_missing_interface_is_answered_with_those_there_are() {
        let present = vec!["lo".to_string(), "eth0".to_string()];
        let error = missing("eth9", present.clone()).to_string();
        assert_eq!(error, "no interface \"eth9\"; there are: lo, eth0; did you mean \"eth0\"?");
        let error = missing("wlan0", present).to_string();
        assert_eq!(error, "no interface \"wlan0\"; there are: lo, eth0");
    }

    #[test]
    fn names_that_no_interface_can_have_are_missing() {
        for name in ["", "a\0b", "a-name-of-sixteen", "../../etc"] {
            assert!(matches!(lookup(name), Err(InterfaceError::Missing { .. })), "{name:?}");
        }
    }
}
