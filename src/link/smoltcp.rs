//! Any device of smoltcp's as a link: the network card of a program
//! without an operating system, or smoltcp's own devices in tests.
//!
//! It needs neither `std` nor an allocator. A device has no address of its own in smoltcp: the
//! caller says it.

use core::fmt;

use ::smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use ::smoltcp::time::Instant as DeviceInstant;

use super::{Batch, Link, LinkCounters, LinkError, LinkInfo, MAX_MTU};
use crate::clock::Instant;
use crate::protocol::{ETHERNET_LEN, ETHERTYPE, MacAddr};

/// A device that carries something else than Ethernet frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device does not carry Ethernet frames")]
pub struct NotEthernet;

/// A device as a link.
///
/// Frames of other protocols are left out, and frames longer than
/// [`FRAME_CAPACITY`](super::FRAME_CAPACITY) are counted as dropped.
pub struct DeviceLink<D> {
    device: D,
    mac: MacAddr,
    up: bool,
    now: DeviceInstant,
    counters: LinkCounters,
}

impl<D: Device> DeviceLink<D> {
    /// The link over `device`, whose address is `mac`.
    ///
    /// # Errors
    /// [`NotEthernet`] when the device carries anything else.
    // Other media exist only when somebody else turns smoltcp's features for them on.
    #[allow(unreachable_patterns, reason = "the other media depend on features of smoltcp")]
    pub fn new(device: D, mac: MacAddr) -> Result<Self, NotEthernet> {
        match device.capabilities().medium {
            Medium::Ethernet => {}
            _ => return Err(NotEthernet),
        }
        let (now, counters) = (DeviceInstant::ZERO, LinkCounters::default());
        Ok(Self { device, mac, up: true, now, counters })
    }

    /// Tells the device what time it is, for those that want to know. Most do not.
    pub fn set_time(&mut self, now: Instant) {
        let micros = i64::try_from(now.nanos() / 1_000).unwrap_or(i64::MAX);
        self.now = DeviceInstant::from_micros(micros);
    }

    /// Says whether the device has a carrier: smoltcp does not know. It has at the beginning.
    pub fn set_up(&mut self, up: bool) {
        self.up = up;
    }

    /// The device.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The longest frame that the device carries, its Ethernet header included.
    fn longest(&self) -> usize {
        // In smoltcp an MTU includes the Ethernet header.
        let DeviceCapabilities { max_transmission_unit, .. } = self.device.capabilities();
        max_transmission_unit.clamp(ETHERNET_LEN, MAX_MTU + ETHERNET_LEN)
    }
}

impl<D: Device> Link for DeviceLink<D> {
    fn info(&self) -> LinkInfo {
        LinkInfo { mac: self.mac, mtu: self.longest() - ETHERNET_LEN, up: self.up }
    }

    fn receive(&mut self, batch: &mut Batch<'_>) -> Result<usize, LinkError> {
        let before = batch.len();
        while batch.room() > 0 {
            let Some((token, _reply)) = self.device.receive(self.now) else { break };
            let too_long = token.consume(|frame| {
                if frame.get(12..ETHERNET_LEN) == Some(&ETHERTYPE.to_be_bytes()) {
                    !batch.push(frame)
                } else {
                    false
                }
            });
            self.counters.dropped += u64::from(too_long);
        }
        let received = batch.len() - before;
        self.counters.received += received as u64;
        Ok(received)
    }

    fn send(&mut self, batch: &Batch<'_>, first: usize) -> Result<usize, LinkError> {
        let longest = self.longest();
        let mut taken = 0;
        for frame in batch.frames().skip(first) {
            if (ETHERNET_LEN..=longest).contains(&frame.len()) {
                let Some(token) = self.device.transmit(self.now) else { break };
                token.consume(frame.len(), |out| out.copy_from_slice(frame));
                self.counters.sent += 1;
            } else {
                self.counters.unsendable += 1;
            }
            taken += 1;
        }
        Ok(taken)
    }

    fn counters(&mut self) -> LinkCounters {
        self.counters
    }
}

impl<D> fmt::Debug for DeviceLink<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceLink")
            .field("mac", &self.mac)
            .field("up", &self.up)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::FRAME_CAPACITY;
    use ::smoltcp::phy::Loopback;

    /// Frames that the card here holds in either direction.
    const CARD_FRAMES: usize = 2;

    /// A network card with a few buffers, as drivers without an allocator have them.
    struct Card {
        incoming: heapless::Vec<heapless::Vec<u8, 10_000>, CARD_FRAMES>,
        outgoing: heapless::Vec<heapless::Vec<u8, 10_000>, CARD_FRAMES>,
        mtu: usize,
        asked_at: DeviceInstant,
    }

    struct Incoming(heapless::Vec<u8, 10_000>);
    struct Outgoing<'a>(&'a mut heapless::Vec<heapless::Vec<u8, 10_000>, CARD_FRAMES>);

    impl RxToken for Incoming {
        fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
            f(&self.0)
        }
    }

    impl TxToken for Outgoing<'_> {
        fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
            let mut frame = heapless::Vec::new();
            frame.resize(len, 0xa5).unwrap();
            let result = f(&mut frame);
            self.0.push(frame).unwrap();
            result
        }
    }

    impl Device for Card {
        type RxToken<'a> = Incoming;
        type TxToken<'a> = Outgoing<'a>;

        fn receive(&mut self, at: DeviceInstant) -> Option<(Incoming, Outgoing<'_>)> {
            self.asked_at = at;
            if self.incoming.is_empty() {
                return None;
            }
            Some((Incoming(self.incoming.remove(0)), Outgoing(&mut self.outgoing)))
        }

        fn transmit(&mut self, at: DeviceInstant) -> Option<Outgoing<'_>> {
            self.asked_at = at;
            (!self.outgoing.is_full()).then_some(Outgoing(&mut self.outgoing))
        }

        fn capabilities(&self) -> DeviceCapabilities {
            let mut capabilities = DeviceCapabilities::default();
            capabilities.medium = Medium::Ethernet;
            capabilities.max_transmission_unit = self.mtu;
            capabilities
        }
    }

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn link(mtu: usize) -> DeviceLink<Card> {
        let card = Card {
            incoming: heapless::Vec::new(),
            outgoing: heapless::Vec::new(),
            mtu,
            asked_at: DeviceInstant::ZERO,
        };
        DeviceLink::new(card, MAC).unwrap()
    }

    fn frame<const LEN: usize>(mark: u8) -> [u8; LEN] {
        let mut frame = [0xa5; LEN];
        frame[12..14].copy_from_slice(&[0x88, 0xa2]);
        frame[LEN - 1] = mark;
        frame
    }

    /// Memory for a batch of `N` frames.
    struct Memory<const N: usize>([[u8; FRAME_CAPACITY]; N], [usize; N], usize);

    impl<const N: usize> Memory<N> {
        fn new() -> Self {
            Self([[0xa5; FRAME_CAPACITY]; N], [0; N], 0)
        }
        fn batch(&mut self) -> Batch<'_> {
            Batch::new(&mut self.0, &mut self.1, &mut self.2)
        }
    }

    #[test]
    fn the_devices_mtu_includes_the_ethernet_header_and_ours_does_not() {
        for (devices, ours) in [(1514, 1500), (9014, 9000), (65_535, MAX_MTU), (0, 0)] {
            assert_eq!(link(devices).info(), LinkInfo { mac: MAC, mtu: ours, up: true });
        }
        let mut link = link(1514);
        link.set_up(false);
        assert!(!link.info().up);
    }

    #[test]
    fn aoe_frames_are_received_and_others_left_out() {
        let mut link = link(9014);
        let mut memory = Memory::<4>::new();
        let mut batch = memory.batch();
        let mut other = frame::<60>(1);
        other[12] = 0x08;
        let incoming = [&frame::<32>(2)[..], &other, &frame::<9014>(3), &[0xa5; 13]];
        for pair in incoming.chunks(2) {
            for octets in pair {
                let octets = heapless::Vec::from_slice(octets).unwrap();
                link.device_mut().incoming.push(octets).unwrap();
            }
            assert_eq!(link.receive(&mut batch), Ok(1));
        }
        assert_eq!((batch.frame(0), batch.frame(1)), (incoming[0], incoming[2]));
        let too_long = heapless::Vec::from_slice(&frame::<{ FRAME_CAPACITY + 1 }>(4)).unwrap();
        link.device_mut().incoming.push(too_long).unwrap();
        assert_eq!(link.receive(&mut batch), Ok(0));
        assert_eq!((link.counters().received, link.counters().dropped), (2, 1));
    }

    #[test]
    fn a_full_batch_leaves_frames_with_the_device() {
        let mut link = link(1514);
        for mark in [1, 2] {
            let octets = heapless::Vec::from_slice(&frame::<60>(mark)).unwrap();
            link.device_mut().incoming.push(octets).unwrap();
        }
        let mut memory = Memory::<1>::new();
        let mut batch = memory.batch();
        for mark in [1, 2] {
            assert_eq!(link.receive(&mut batch), Ok(1));
            assert_eq!(link.receive(&mut batch), Ok(0));
            assert_eq!(batch.frame(0), frame::<60>(mark));
            batch.clear();
        }
    }

    #[test]
    fn a_full_device_takes_no_more_and_unsendable_frames_are_passed_over() {
        let mut link = link(1514);
        link.set_time(Instant::from_nanos(7_000_999));
        let mut memory = Memory::<5>::new();
        let mut batch = memory.batch();
        assert!(batch.push(&frame::<1515>(0)) && batch.push(&frame::<1514>(1)));
        assert!(batch.push(&[0xa5; 13]) && batch.push(&frame::<32>(2)));
        assert!(batch.push(&frame::<60>(3)));
        assert_eq!(link.send(&batch, 0), Ok(4));
        assert_eq!(link.send(&batch, 4), Ok(0));
        assert_eq!(link.device_mut().outgoing[0], frame::<1514>(1));
        assert_eq!(link.device_mut().asked_at, DeviceInstant::from_micros(7_000));
        link.device_mut().outgoing.remove(0);
        assert_eq!(link.send(&batch, 4), Ok(1));
        assert_eq!(link.device_mut().outgoing[1], frame::<60>(3));
        assert_eq!((link.counters().sent, link.counters().unsendable), (3, 2));
    }

    #[test]
    fn smoltcps_own_devices_are_links() {
        let mut link = DeviceLink::new(Loopback::new(Medium::Ethernet), MAC).unwrap();
        assert_eq!(link.info().mtu, MAX_MTU);
        let mut memory = Memory::<3>::new();
        let mut batch = memory.batch();
        assert!(batch.push(&frame::<32>(1)) && batch.push(&frame::<9014>(2)));
        assert_eq!(link.send(&batch, 0), Ok(2));
        batch.clear();
        assert_eq!(link.receive(&mut batch), Ok(2));
        assert_eq!(batch.frame(0), frame::<32>(1));
        assert_eq!(batch.frame(1), frame::<9014>(2));
    }
}
