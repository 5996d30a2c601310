//! Faults on purpose: frames are dropped, doubled, overtaken, damaged and delayed, by chance from a
//! seed.
//!
//! Each direction draws from a generator of its own (`SplitMix64`), the same number of times for
//! every frame: the same seed and the same frames meet the same faults, whatever goes on in the
//! other direction. Time is counted in turns, which are calls of [`Link::receive`].
//!
//! Frames may be as long as links carry them, and nothing allocates after the link was made.

use super::{
    BATCH_FRAMES, Batch, FRAME_CAPACITY, FramePool, Link, LinkCounters, LinkError, LinkEvent,
    LinkInfo,
};

/// Frames that can be held back in one direction; when all places are taken frames pass at once.
pub const HELD_FRAMES: usize = 64;
/// The most frames that one waits for to be overtaken.
const OVERTAKING_MAX: u64 = 3;
/// Turns after which a frame that waits to be overtaken goes on: nothing may come after it.
const OVERTAKING_TURNS: u64 = 8;
/// The most bits that are turned over in one frame.
const CORRUPT_BITS_MAX: u64 = 3;

/// What may happen to a frame, each with a probability from 0 (never) to 1 (always).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Faults {
    /// It is lost.
    pub drop: f64,
    /// It arrives twice.
    pub duplicate: f64,
    /// One to three bits of it are turned over, wherever.
    pub corrupt: f64,
    /// Later frames overtake it: the rest of its burst, and up to three at least.
    pub reorder: f64,
    /// It arrives up to [`Self::delay_turns`] turns late.
    pub delay: f64,
    /// The longest delay, in turns.
    pub delay_turns: u32,
}

/// How to make a [`FaultLink`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FaultOptions {
    /// Where chance starts.
    pub seed: u64,
    /// What happens to frames that are received.
    pub receive: Faults,
    /// What happens to frames that are sent.
    pub send: Faults,
}

/// How often what happened in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounters {
    /// Frames that chance was asked about.
    pub frames: u64,
    /// Frames lost.
    pub dropped: u64,
    /// Frames that came twice.
    pub duplicated: u64,
    /// Frames damaged.
    pub corrupted: u64,
    /// Frames held back to be overtaken.
    pub reordered: u64,
    /// Frames delayed.
    pub delayed: u64,
}

/// A link that loses, doubles, swaps, damages and delays what passes through it.
///
/// It has no descriptor to sleep on, as a frame that is held back shows on none.
#[derive(Debug)]
pub struct FaultLink<L> {
    link: L,
    turn: u64,
    receive: Direction,
    send: Direction,
    /// Fresh from the link, before chance was asked.
    fresh: FramePool,
    /// Past chance, to be taken by the link; it may not take all at once.
    leaving: FramePool,
}

impl<L: Link> FaultLink<L> {
    /// Puts faults on `link`.
    pub fn new(link: L, options: &FaultOptions) -> Self {
        let mut seeds = SplitMix64(options.seed);
        Self {
            link,
            turn: 0,
            receive: Direction::new(options.receive, seeds.next()),
            send: Direction::new(options.send, seeds.next()),
            fresh: FramePool::new(BATCH_FRAMES),
            leaving: FramePool::new(BATCH_FRAMES),
        }
    }

    /// Has other things happen from now on. What is held back stays so until it was to go on.
    pub fn set_faults(&mut self, receive: Faults, send: Faults) {
        self.receive.faults = receive;
        self.send.faults = send;
    }

    /// What happened to frames that were received.
    pub fn receive_faults(&self) -> FaultCounters {
        self.receive.counters
    }

    /// What happened to frames that were sent.
    pub fn send_faults(&self) -> FaultCounters {
        self.send.counters
    }

    /// The link beneath.
    pub fn link(&self) -> &L {
        &self.link
    }

    /// Offers the link what is leaving, together with what has been held back long enough, until
    /// it takes no more. Whether it has taken all.
    fn push_out(&mut self) -> Result<bool, LinkError> {
        loop {
            let mut leaving = self.leaving.batch();
            self.send.release(self.turn, &mut leaving);
            if leaving.is_empty() {
                return Ok(true);
            }
            let taken = self.link.send(&leaving, 0)?;
            if taken == 0 {
                return Ok(false);
            }
            leaving.forget_first(taken);
        }
    }
}

impl<L: Link> Link for FaultLink<L> {
    fn info(&self) -> LinkInfo {
        self.link.info()
    }

    fn receive(&mut self, batch: &mut Batch<'_>) -> Result<usize, LinkError> {
        self.turn += 1;
        // Frames held back leave as time passes, even if none follow. When they cannot, the next
        // call of `send` tells why.
        let _ = self.push_out();
        let before = batch.len();
        self.receive.release(self.turn, batch);
        let room = batch.room().min(BATCH_FRAMES);
        if room > 0 {
            let result = self.link.receive(&mut self.fresh.first(room));
            let mut fresh = self.fresh.batch();
            for index in 0..fresh.len() {
                self.receive.pass(self.turn, fresh.frame(index), batch);
            }
            fresh.clear();
            self.receive.release(self.turn, batch);
            if let Err(error) = result
                && batch.len() == before
                && (error != LinkError::Ended || self.receive.held.is_empty())
            {
                return Err(error);
            }
        }
        Ok(batch.len() - before)
    }

    fn send(&mut self, batch: &Batch<'_>, first: usize) -> Result<usize, LinkError> {
        let mut next = first;
        while next < batch.len() {
            match self.push_out() {
                Ok(true) => {}
                Err(error) if next == first => return Err(error),
                Ok(false) | Err(_) => break,
            }
            let mut leaving = self.leaving.batch();
            while next < batch.len() && leaving.room() > 0 {
                self.send.pass(self.turn, batch.frame(next), &mut leaving);
                next += 1;
            }
        }
        // What it does not take now it is offered again, before anything else.
        let _ = self.push_out();
        Ok(next.saturating_sub(first))
    }

    fn check(&mut self) -> Option<LinkEvent> {
        self.link.check()
    }

    fn counters(&mut self) -> LinkCounters {
        self.link.counters()
    }
}

/// Chance, and what it holds back, in one direction.
#[derive(Debug)]
struct Direction {
    faults: Faults,
    random: SplitMix64,
    counters: FaultCounters,
    held: Vec<Held>,
    spare: Vec<Held>,
}

/// A frame that is held back.
#[derive(Debug)]
struct Held {
    octets: Box<[u8; FRAME_CAPACITY]>,
    len: usize,
    /// The turn that it goes on in at the latest.
    due: u64,
    /// How many frames have to overtake it before.
    overtaking: u64,
}

impl Direction {
    fn new(faults: Faults, seed: u64) -> Self {
        let empty = || Held {
            octets: vec![0; FRAME_CAPACITY].into_boxed_slice().try_into().unwrap_or_else(
                // It is exactly as long.
                |_| Box::new([0; FRAME_CAPACITY]),
            ),
            len: 0,
            due: 0,
            overtaking: 0,
        };
        Self {
            faults,
            random: SplitMix64(seed),
            counters: FaultCounters::default(),
            held: Vec::with_capacity(HELD_FRAMES),
            spare: core::iter::repeat_with(empty).take(HELD_FRAMES).collect(),
        }
    }

    /// Puts `frame`, or what chance makes of it, into `out`, which has room for one at least.
    fn pass(&mut self, turn: u64, frame: &[u8], out: &mut Batch<'_>) {
        let faults = self.faults;
        // Always the same number of draws.
        let dropped = self.random.chance(faults.drop);
        let duplicated = self.random.chance(faults.duplicate);
        let corrupted = self.random.chance(faults.corrupt);
        let reordered = self.random.chance(faults.reorder);
        let delayed = self.random.chance(faults.delay);
        let mut bits = SplitMix64(self.random.next());
        let overtaking = 1 + self.random.next() % OVERTAKING_MAX;
        let delay = 1 + self.random.next() % u64::from(faults.delay_turns.max(1));
        self.counters.frames += 1;
        if dropped {
            self.counters.dropped += 1;
            return;
        }
        for held in &mut self.held {
            held.overtaking = held.overtaking.saturating_sub(1);
        }
        if delayed && self.hold(frame, turn + delay, u64::MAX, corrupted.then_some(&mut bits)) {
            self.counters.delayed += 1;
        } else if reordered
            && self.hold(frame, turn + OVERTAKING_TURNS, overtaking, corrupted.then_some(&mut bits))
        {
            self.counters.reordered += 1;
        } else if let Some(buffer) = out.next_buffer()
            && let Some(octets) = buffer.get_mut(..frame.len())
        {
            octets.copy_from_slice(frame);
            if corrupted {
                bits.flip(octets);
            }
            out.commit(frame.len());
        }
        self.counters.corrupted += u64::from(corrupted);
        if duplicated && self.hold(frame, turn, u64::MAX, None) {
            self.counters.duplicated += 1;
        }
    }

    /// Holds `frame` back until `due`, or until it was overtaken; `false` when there is no place.
    fn hold(
        &mut self,
        frame: &[u8],
        due: u64,
        overtaking: u64,
        corrupt: Option<&mut SplitMix64>,
    ) -> bool {
        let Some(mut held) = self.spare.pop() else { return false };
        if let Some(octets) = held.octets.get_mut(..frame.len()) {
            octets.copy_from_slice(frame);
            if let Some(bits) = corrupt {
                bits.flip(octets);
            }
        }
        (held.len, held.due, held.overtaking) = (frame.len(), due, overtaking);
        self.held.push(held);
        true
    }

    /// Puts the frames that are held back no longer into `out`, as far as it has room.
    fn release(&mut self, turn: u64, out: &mut Batch<'_>) {
        let mut index = 0;
        while let Some(held) = self.held.get(index) {
            if held.due > turn && held.overtaking > 0 {
                index += 1;
            } else if out.push(held.octets.get(..held.len).unwrap_or_default()) {
                let held = self.held.remove(index);
                self.spare.push(held);
            } else {
                return;
            }
        }
    }
}

impl FramePool {
    /// An empty pool of the first `room` buffers, whose frames are the pool's.
    fn first(&mut self, room: usize) -> Batch<'_> {
        self.len = 0;
        let Batch { octets, lens, len } = self.batch();
        Batch::new(octets.get_mut(..room).unwrap_or_default(), lens, len)
    }
}

impl Batch<'_> {
    /// Takes the first `count` frames out.
    fn forget_first(&mut self, count: usize) {
        let count = count.min(*self.len);
        // Buffers change places, so that no frame is copied twice.
        for index in count..*self.len {
            self.octets.swap(index - count, index);
            self.lens.swap(index - count, index);
        }
        *self.len -= count;
    }
}

/// The generator of Steele, Lea and Flood: small, fast, and good enough to choose victims.
#[derive(Debug, Clone)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Comes true with `probability`.
    #[allow(clippy::cast_precision_loss, reason = "both numbers have 53 bits, and fit exactly")]
    fn chance(&mut self, probability: f64) -> bool {
        // The upper 53 bits are what a double holds exactly.
        let drawn = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        drawn < probability
    }

    /// Turns some bits of `octets` over.
    fn flip(&mut self, octets: &mut [u8]) {
        let count = 1 + self.next() % CORRUPT_BITS_MAX;
        let bits = octets.len() as u64 * 8;
        // Distinct ones, next to each other modulo the frame: none is turned back.
        let first = self.next() % bits.max(1);
        for bit in first..first + count.min(bits) {
            let bit = bit % bits;
            if let Some(octet) = octets.get_mut((bit / 8) as usize) {
                *octet ^= 1 << (bit % 8);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "small numbers")]
mod tests {
    use super::*;
    use crate::link::MAX_MTU;
    use crate::link::memory::{MemoryLink, MemoryOptions};
    use std::collections::BTreeMap;

    fn pair(options: &FaultOptions) -> (FaultLink<MemoryLink>, MemoryLink) {
        let cable = MemoryOptions { mtu: MAX_MTU, ..MemoryOptions::default() };
        let (a, b) = MemoryLink::pair(&cable).unwrap();
        (FaultLink::new(a, options), b)
    }

    fn frame(len: usize, number: u32) -> Vec<u8> {
        let mut frame = vec![0xa5; len];
        frame[14..18].copy_from_slice(&number.to_be_bytes());
        frame
    }

    fn number(frame: &[u8]) -> u32 {
        u32::from_be_bytes(*frame[14..].first_chunk().unwrap())
    }

    /// Sends `count` frames in bursts of five through one link, and what then comes from the other.
    fn carry(from: &mut dyn Link, to: &mut dyn Link, count: u32, len: usize) -> Vec<Vec<u8>> {
        let (mut sent, mut came) = (0, Vec::new());
        let mut pool = FramePool::new(5);
        let mut quiet = 0;
        while quiet < 100 {
            let mut batch = pool.batch();
            batch.clear();
            while sent < count && batch.push(&frame(len, sent)) {
                sent += 1;
            }
            let mut taken = 0;
            while taken < batch.len() {
                taken += from.send(&batch, taken).unwrap();
            }
            batch.clear();
            // Its turns are what time is made of.
            let _ = from.receive(&mut batch).unwrap();
            assert!(batch.is_empty());
            let received = to.receive(&mut batch).unwrap();
            came.extend(batch.frames().map(<[u8]>::to_vec));
            quiet = if received == 0 && sent == count { quiet + 1 } else { 0 };
        }
        came
    }

    /// The same faults in both directions.
    fn both(seed: u64, faults: Faults) -> FaultOptions {
        FaultOptions { seed, receive: faults, send: faults }
    }

    /// What comes through each direction of a link with `faults`, and the counters of it.
    fn through(
        seed: u64,
        faults: Faults,
        count: u32,
        len: usize,
    ) -> [(Vec<Vec<u8>>, FaultCounters); 2] {
        let (mut faulty, mut plain) = pair(&both(seed, faults));
        let sent = carry(&mut faulty, &mut plain, count, len);
        let received = carry(&mut plain, &mut faulty, count, len);
        [(sent, faulty.send_faults()), (received, faulty.receive_faults())]
    }

    #[test]
    fn without_faults_all_frames_pass_in_order() {
        for (came, counters) in through(1, Faults::default(), 500, 9_230) {
            assert_eq!(came.len(), 500);
            for (index, got) in came.iter().enumerate() {
                assert_eq!(*got, frame(9_230, index as u32));
            }
            assert_eq!(counters, FaultCounters { frames: 500, ..FaultCounters::default() });
        }
    }

    #[test]
    fn frames_are_lost_and_doubled_as_often_as_told() {
        let faults = Faults { drop: 0.2, duplicate: 0.1, ..Faults::default() };
        for (came, counters) in through(7, faults, 5_000, 60) {
            assert!((800..1_200).contains(&counters.dropped), "{counters:?}");
            assert!((300..500).contains(&counters.duplicated), "{counters:?}");
            assert_eq!(came.len() as u64, 5_000 - counters.dropped + counters.duplicated);
            let mut times = BTreeMap::new();
            for got in &came {
                assert_eq!(*got, frame(60, number(got)), "intact");
                *times.entry(number(got)).or_insert(0_u64) += 1;
            }
            assert_eq!(times.len() as u64, 5_000 - counters.dropped);
            assert_eq!(times.values().filter(|&&n| n == 2).count() as u64, counters.duplicated);
        }
        let faults = Faults { drop: 1.0, duplicate: 1.0, ..Faults::default() };
        assert!(through(7, faults, 100, 60).iter().all(|(came, _)| came.is_empty()));
    }

    #[test]
    fn frames_are_overtaken_and_none_is_lost() {
        let faults = Faults { reorder: 0.3, ..Faults::default() };
        for (came, counters) in through(3, faults, 2_000, 60) {
            assert!((450..750).contains(&counters.reordered), "{counters:?}");
            let mut numbers: Vec<_> = came.iter().map(|got| number(got)).collect();
            assert!(!numbers.is_sorted());
            let far = numbers.iter().enumerate().map(|(at, &n)| (at as i64 - i64::from(n)).abs());
            assert!(far.max().unwrap() < 64, "held back for too long");
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..2_000));
        }
    }

    #[test]
    fn a_frame_that_nothing_overtakes_goes_on_all_the_same() {
        let faults = Faults { reorder: 1.0, ..Faults::default() };
        for (came, _) in through(3, faults, 1, 60) {
            assert_eq!(came.len(), 1);
        }
    }

    #[test]
    fn frames_are_delayed_for_no_more_turns_than_told() {
        let faults = Faults { delay: 1.0, delay_turns: 5, ..Faults::default() };
        let (mut faulty, mut plain) = pair(&both(9, faults));
        let mut pool = FramePool::new(1);
        let mut turns_seen = BTreeMap::new();
        for round in 0..200 {
            let mut batch = pool.batch();
            batch.clear();
            assert!(batch.push(&frame(60, round)));
            assert_eq!(plain.send(&batch, 0), Ok(1));
            batch.clear();
            let arrived = (0..100).find(|_| faulty.receive(&mut batch).unwrap() == 1).unwrap();
            *turns_seen.entry(arrived).or_insert(0) += 1;
        }
        assert!(turns_seen.keys().copied().eq(1..=5), "{turns_seen:?}");
        assert_eq!(faulty.receive_faults().delayed, 200);
    }

    #[test]
    fn damaged_frames_differ_by_one_to_three_bits() {
        let faults = Faults { corrupt: 0.5, ..Faults::default() };
        for (came, counters) in through(11, faults, 1_000, 60) {
            assert_eq!(came.len(), 1_000);
            let mut damaged = 0;
            for (index, got) in came.iter().enumerate() {
                let whole = frame(60, index as u32);
                let bits: u32 = got.iter().zip(&whole).map(|(a, b)| (a ^ b).count_ones()).sum();
                assert!(bits <= 3);
                damaged += u64::from(bits > 0);
            }
            assert_eq!(damaged, counters.corrupted);
            assert!((400..600).contains(&damaged));
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_faults_and_another_makes_others() {
        let faults = Faults {
            drop: 0.1,
            duplicate: 0.1,
            corrupt: 0.1,
            reorder: 0.2,
            delay: 0.2,
            delay_turns: 7,
        };
        let [once, twice, other] = [5, 5, 6].map(|seed| through(seed, faults, 1_000, 100));
        assert_eq!(once, twice);
        assert_ne!(once[0].0, other[0].0);
        assert_ne!(once[0].0, once[1].0, "each direction has its own chance");
    }

    #[test]
    fn faults_can_be_changed_on_the_way() {
        let (mut faulty, mut plain) = pair(&FaultOptions::default());
        assert_eq!(carry(&mut plain, &mut faulty, 50, 60).len(), 50);
        let lost = Faults { drop: 1.0, ..Faults::default() };
        faulty.set_faults(lost, Faults::default());
        assert_eq!(carry(&mut plain, &mut faulty, 50, 60).len(), 0);
        assert_eq!(carry(&mut faulty, &mut plain, 50, 60).len(), 50);
        assert_eq!(faulty.receive_faults().dropped, 50);
    }

    #[test]
    fn the_other_direction_does_not_change_chance() {
        let faults = Faults { drop: 0.5, ..Faults::default() };
        let (mut faulty, mut plain) = pair(&both(5, faults));
        let alone: Vec<_> = carry(&mut plain, &mut faulty, 200, 60);
        let (mut faulty, mut plain) = pair(&both(5, faults));
        carry(&mut faulty, &mut plain, 77, 60);
        assert_eq!(carry(&mut plain, &mut faulty, 200, 60), alone);
    }

    #[test]
    fn a_full_link_beneath_loses_nothing() {
        let cable = MemoryOptions { depth: 2, ..MemoryOptions::default() };
        let (a, mut b) = MemoryLink::pair(&cable).unwrap();
        let faults = Faults { duplicate: 1.0, ..Faults::default() };
        let mut faulty = FaultLink::new(a, &both(1, faults));
        let mut pool = FramePool::new(100);
        let mut batch = pool.batch();
        while batch.push(&frame(60, batch.len() as u32)) {}
        let (mut sent, mut came) = (0, vec![0; 100]);
        let mut received = FramePool::new(4);
        for _ in 0..400 {
            sent += faulty.send(&batch, sent).unwrap();
            let mut got = received.batch();
            got.clear();
            b.receive(&mut got).unwrap();
            got.frames().for_each(|got| came[number(got) as usize] += 1);
        }
        let doubled = came.iter().filter(|&&times| times == 2).count();
        assert_eq!(doubled as u64, faulty.send_faults().duplicated);
        assert!(came.iter().all(|&times| times == 1 || times == 2), "{came:?}");
    }

    #[test]
    fn an_end_waits_for_what_is_held_back() {
        let faults = Faults { delay: 1.0, delay_turns: 1, ..Faults::default() };
        let (mut faulty, mut plain) = pair(&both(1, faults));
        let mut pool = FramePool::new(2);
        let mut batch = pool.batch();
        assert!(batch.push(&frame(60, 1)));
        assert_eq!(plain.send(&batch, 0), Ok(1));
        drop(plain);
        batch.clear();
        assert_eq!(faulty.receive(&mut batch), Ok(0));
        assert_eq!(faulty.receive(&mut batch), Ok(1));
        assert_eq!(faulty.receive(&mut batch), Err(LinkError::Ended));
    }

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
        assert_eq!(random.next(), 9_817_491_932_198_370_423);
    }
}
