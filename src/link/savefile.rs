//! Capture files: the classic pcap format, read and written in plain Rust.
//!
//! A file is a header of 24 octets, then records of 16 octets and a frame each. Its writer's byte
//! order shows in the first four octets, and so does whether time stamps count micro- or
//! nanoseconds.
//!
//! # Invariants
//! * Nothing in a file makes the reader panic, or allocate more than [`MAX_RECORD`] octets.
//! * A file that ends between two records has ended; one that ends elsewhere is damaged.
//! * After an error the reader has ended: where the next record starts is not known.

use core::mem;
use std::io::{self, ErrorKind, Read, Write};

use super::FRAME_CAPACITY;

/// The longest record that is believed, in octets: what libpcap believes too.
pub const MAX_RECORD: u32 = 262_144;

/// Octets of a file header.
const FILE_HEADER_LEN: usize = 24;
/// Octets of a record header.
const RECORD_HEADER_LEN: usize = 16;
/// The first word of a file whose time stamps count microseconds.
const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
/// The first word of a file whose time stamps count nanoseconds.
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
/// The first word of a pcapng file, in either byte order.
const MAGIC_PCAPNG: u32 = 0x0a0d_0d0a;
/// The only version of the format that is still written.
const VERSION: (u16, u16) = (2, 4);
/// The link type of Ethernet.
const LINKTYPE_ETHERNET: u32 = 1;
/// The bits of the link type field that are the link type; the others tell of check sequences.
const LINKTYPE_MASK: u32 = 0x03ff_ffff;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Why a capture file cannot be read. Offsets count octets from the start of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SavefileError {
    /// It does not start as a capture does.
    #[error("not a capture file: it starts with {magic:08x}")]
    NotACapture {
        /// The first word.
        magic: u32,
    },
    /// It is a pcapng file.
    #[error("this is a pcapng file; convert it with: editcap -F pcap FILE NEW-FILE")]
    Pcapng,
    /// It is of a version that nobody has written for decades.
    #[error("capture format {major}.{minor} is not 2.4")]
    Version {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// Its frames are not Ethernet frames.
    #[error("the capture has link type {linktype} where Ethernet is 1")]
    LinkType {
        /// What they are instead.
        linktype: u32,
    },
    /// It ends within a header or a record.
    #[error("the capture is cut short: {have} of {wanted} octets at offset {offset}")]
    Truncated {
        /// Where the incomplete part starts.
        offset: u64,
        /// Octets of that part.
        wanted: u32,
        /// How many of them there are.
        have: u32,
    },
    /// A record says that it is longer than the file's records may be.
    #[error("the record at offset {offset} claims {len} octets where {limit} is the limit")]
    TooLong {
        /// Where the record starts.
        offset: u64,
        /// What it claims.
        len: u32,
        /// What the file's header, or reason, allows.
        limit: u32,
    },
    /// The file cannot be read.
    #[error("cannot read the capture at offset {offset}")]
    Io {
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
}

/// What the time stamps of a capture count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Microseconds: what every program reads.
    Micros,
    /// Nanoseconds.
    Nanos,
}

/// One frame of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was captured, in nanoseconds since 1970.
    pub unix_nanos: u64,
    /// Octets that it had on the wire; more than [`Self::octets`] has when it was cut.
    pub original_len: u32,
    /// The frame from its destination address on.
    pub octets: &'a [u8],
}

impl Record<'_> {
    /// Whether only the start of the frame was captured.
    pub fn is_cut(&self) -> bool {
        self.octets.len() < self.original_len as usize
    }
}

/// Reads a capture record by record, into one buffer.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    big_endian: bool,
    resolution: Resolution,
    snaplen: u32,
    /// Where in the file the next octet comes from.
    offset: u64,
    /// The last record; it grows to the longest there is.
    octets: Vec<u8>,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header of a capture. `input` is read in small pieces: give a file a `BufReader`.
    ///
    /// # Errors
    /// [`SavefileError`] when it is no Ethernet capture in the classic format.
    pub fn new(input: R) -> Result<Self, SavefileError> {
        let mut reader = Self {
            input,
            big_endian: false,
            resolution: Resolution::Micros,
            snaplen: 0,
            offset: 0,
            octets: Vec::new(),
            ended: false,
        };
        let mut header = [0; FILE_HEADER_LEN];
        let have = reader.fill(&mut header)?;
        // What it is not should be said even of a file that is too short.
        let [magic, version, _, _, snaplen, linktype] = words(&header);
        if have >= size_of::<u32>() {
            (reader.big_endian, reader.resolution) = byte_order(magic)?;
        }
        if have < FILE_HEADER_LEN {
            return Err(truncated(0, FILE_HEADER_LEN, have));
        }
        let [major, minor] = reader.halves(version);
        if (major, minor) != VERSION {
            return Err(SavefileError::Version { major, minor });
        }
        let linktype = reader.word(linktype) & LINKTYPE_MASK;
        if linktype != LINKTYPE_ETHERNET {
            return Err(SavefileError::LinkType { linktype });
        }
        // Some writers say zero, and mean that there is no limit.
        reader.snaplen = match reader.word(snaplen) {
            0 => MAX_RECORD,
            snaplen => snaplen.min(MAX_RECORD),
        };
        Ok(reader)
    }

    /// What the time stamps count.
    pub fn resolution(&self) -> Resolution {
        self.resolution
    }

    /// Reads the next record; `None` at the end.
    ///
    /// # Errors
    /// [`SavefileError`] when the file is damaged or cannot be read; it has ended then.
    #[allow(clippy::should_implement_trait, reason = "an iterator cannot lend its buffer")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, SavefileError> {
        // Ended, unless all goes well.
        if mem::replace(&mut self.ended, true) {
            return Ok(None);
        }
        let start = self.offset;
        let mut header = [0; RECORD_HEADER_LEN];
        match self.fill(&mut header)? {
            0 => return Ok(None),
            RECORD_HEADER_LEN => {}
            have => return Err(truncated(start, RECORD_HEADER_LEN, have)),
        }
        let [seconds, fraction, len, original_len] = words(&header).map(|word| self.word(word));
        if len > self.snaplen {
            return Err(SavefileError::TooLong { offset: start, len, limit: self.snaplen });
        }
        let wanted = len as usize;
        let mut octets = mem::take(&mut self.octets);
        if octets.len() < wanted {
            octets.resize(wanted, 0);
        }
        let place = self.offset;
        let have = self.fill(octets.get_mut(..wanted).unwrap_or_default());
        self.octets = octets;
        match have? {
            have if have < wanted => return Err(truncated(place, wanted, have)),
            _ => self.ended = false,
        }
        let unit = match self.resolution {
            Resolution::Micros => 1_000,
            Resolution::Nanos => 1,
        };
        Ok(Some(Record {
            unix_nanos: u64::from(seconds) * NANOS_PER_SECOND + u64::from(fraction) * unit,
            original_len,
            octets: self.octets.get(..wanted).unwrap_or_default(),
        }))
    }

    /// Reads until `out` is full or the file ends, and tells how much there was.
    fn fill(&mut self, out: &mut [u8]) -> Result<usize, SavefileError> {
        let mut have = 0;
        while let Some(rest) = out.get_mut(have..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) => break,
                Ok(count) => {
                    have += count;
                    self.offset += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(SavefileError::Io { offset: self.offset, source }),
            }
        }
        Ok(have)
    }

    /// A word in the file's byte order.
    fn word(&self, octets: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(octets) } else { u32::from_le_bytes(octets) }
    }

    /// Two halves of a word, each in the file's byte order.
    fn halves(&self, [a, b, c, d]: [u8; 4]) -> [u16; 2] {
        if self.big_endian {
            [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
        } else {
            [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])]
        }
    }
}

/// The words that a header is made of.
fn words<const OCTETS: usize, const WORDS: usize>(header: &[u8; OCTETS]) -> [[u8; 4]; WORDS] {
    let mut words = [[0; 4]; WORDS];
    for (word, octets) in words.iter_mut().zip(header.chunks_exact(4)) {
        word.copy_from_slice(octets);
    }
    words
}

/// Whether a file that starts with `magic` is big-endian, and what its time stamps count.
fn byte_order(magic: [u8; 4]) -> Result<(bool, Resolution), SavefileError> {
    for (big_endian, word) in
        [(false, u32::from_le_bytes(magic)), (true, u32::from_be_bytes(magic))]
    {
        match word {
            MAGIC_MICROS => return Ok((big_endian, Resolution::Micros)),
            MAGIC_NANOS => return Ok((big_endian, Resolution::Nanos)),
            MAGIC_PCAPNG => return Err(SavefileError::Pcapng),
            _ => {}
        }
    }
    Err(SavefileError::NotACapture { magic: u32::from_be_bytes(magic) })
}

/// The error for a part at `offset` that is not all there. No part is longer than [`MAX_RECORD`].
fn truncated(offset: u64, wanted: usize, have: usize) -> SavefileError {
    let [wanted, have] = [wanted, have].map(|len| u32::try_from(len).unwrap_or(u32::MAX));
    SavefileError::Truncated { offset, wanted, have }
}

/// Writes a capture, little-endian.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    resolution: Resolution,
    /// The record that is being put together.
    record: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Starts a capture. `output` is written record by record: give a file a `BufWriter`.
    ///
    /// # Errors
    /// When `output` does not take it.
    pub fn new(mut output: W, resolution: Resolution) -> io::Result<Self> {
        let magic = match resolution {
            Resolution::Micros => MAGIC_MICROS,
            Resolution::Nanos => MAGIC_NANOS,
        };
        let mut header = [0; FILE_HEADER_LEN];
        let [major, minor] = [VERSION.0.to_le_bytes(), VERSION.1.to_le_bytes()];
        let version = [major[0], major[1], minor[0], minor[1]];
        let (snaplen, linktype) = (MAX_RECORD.to_le_bytes(), LINKTYPE_ETHERNET.to_le_bytes());
        // Time zone and precision are always zero.
        let fields = [magic.to_le_bytes(), version, [0; 4], [0; 4], snaplen, linktype];
        for (out, field) in header.chunks_exact_mut(4).zip(fields) {
            out.copy_from_slice(&field);
        }
        output.write_all(&header)?;
        Ok(Self { output, resolution, record: Vec::with_capacity(FRAME_CAPACITY) })
    }

    /// Appends a frame that was seen `unix_nanos` nanoseconds after 1970. Octets past
    /// [`MAX_RECORD`] are cut off; time after 2106 stands still.
    ///
    /// # Errors
    /// When the output does not take it; the capture may then end in an incomplete record.
    pub fn write(&mut self, unix_nanos: u64, frame: &[u8]) -> io::Result<()> {
        let seconds = u32::try_from(unix_nanos / NANOS_PER_SECOND).unwrap_or(u32::MAX);
        let nanos = (unix_nanos % NANOS_PER_SECOND) as u32;
        let fraction = match self.resolution {
            Resolution::Micros => nanos / 1_000,
            Resolution::Nanos => nanos,
        };
        let kept = frame.get(..MAX_RECORD as usize).unwrap_or(frame);
        let [len, original_len] =
            [kept, frame].map(|part| u32::try_from(part.len()).unwrap_or(u32::MAX));
        self.record.clear();
        for field in [seconds, fraction, len, original_len] {
            self.record.extend_from_slice(&field.to_le_bytes());
        }
        self.record.extend_from_slice(kept);
        // At once, so that an output which takes all or nothing keeps the capture whole.
        self.output.write_all(&self.record)
    }

    /// Hands everything on to where the output goes.
    ///
    /// # Errors
    /// When it cannot.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// The output, which is not flushed.
    pub fn into_inner(self) -> W {
        self.output
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hex_literal::hex;
    use proptest::prelude::*;
    use std::string::ToString;
    use std::{format, vec};

    /// Two frames, in microseconds, little-endian.
    const LITTLE: [u8; 71] = hex!(
        "d4c3b2a1 0200 0400 00000000 00000000 00000400 01000000" // snaplen 262144, Ethernet
        "01000000 02000000 0e000000 3c000000" // 1.000002 s, 14 of 60 octets
        "ffffffffffff 02ae0000000a 88a2"
        "ffffffff 3f420f00 01000000 01000000" // the last microsecond, 1 octet
        "a5"
    );
    /// The same, big-endian.
    const BIG: [u8; 71] = hex!(
        "a1b2c3d4 0002 0004 00000000 00000000 00040000 00000001"
        "00000001 00000002 0000000e 0000003c"
        "ffffffffffff 02ae0000000a 88a2"
        "ffffffff 000f423f 00000001 00000001"
        "a5"
    );

    fn assert_two_frames(file: &[u8], unit: u64) {
        let mut reader = Reader::new(file).unwrap();
        let first = reader.next().unwrap().unwrap();
        assert_eq!((first.unix_nanos, first.original_len), (NANOS_PER_SECOND + 2 * unit, 60));
        assert_eq!(first.octets, hex!("ffffffffffff 02ae0000000a 88a2"));
        assert!(first.is_cut());
        let last = reader.next().unwrap().unwrap();
        assert_eq!(last.unix_nanos, 0xffff_ffff * NANOS_PER_SECOND + 999_999 * unit);
        assert_eq!((last.octets, last.is_cut()), (&[0xa5][..], false));
        assert_eq!(reader.next().unwrap(), None);
        assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn both_byte_orders_and_both_resolutions_are_read() {
        assert_two_frames(&LITTLE, 1_000);
        assert_two_frames(&BIG, 1_000);
        let (mut little, mut big) = (LITTLE, BIG);
        little[..4].copy_from_slice(&hex!("4d3cb2a1"));
        big[..4].copy_from_slice(&hex!("a1b23c4d"));
        assert_two_frames(&little, 1);
        assert_two_frames(&big, 1);
        assert_eq!(Reader::new(&big[..]).unwrap().resolution(), Resolution::Nanos);
    }

    #[test]
    fn what_is_written_has_known_octets() {
        let mut writer = Writer::new(Vec::new(), Resolution::Micros).unwrap();
        writer.write(1_000_002_999, &[0xa5; 3]).unwrap();
        let written = writer.into_inner();
        assert_eq!(written[..24], LITTLE[..24]);
        assert_eq!(written[24..], hex!("01000000 02000000 03000000 03000000 a5a5a5"));
        let mut writer = Writer::new(Vec::new(), Resolution::Nanos).unwrap();
        writer.write(u64::MAX, &vec![0xa5; MAX_RECORD as usize + 1]).unwrap();
        let written = writer.into_inner();
        assert_eq!(written[..4], hex!("4d3cb2a1"));
        let mut reader = Reader::new(&written[..]).unwrap();
        let record = reader.next().unwrap().unwrap();
        assert_eq!((record.octets.len(), record.original_len), (262_144, 262_145));
        assert_eq!(record.unix_nanos / NANOS_PER_SECOND, u64::from(u32::MAX));
    }

    /// Reads a whole file; how many records there were, and what stopped it.
    fn read_all(file: &[u8]) -> (usize, Option<SavefileError>) {
        let mut reader = match Reader::new(file) {
            Ok(reader) => reader,
            Err(error) => return (0, Some(error)),
        };
        let mut count = 0;
        loop {
            match reader.next() {
                Ok(Some(_)) => count += 1,
                Ok(None) => return (count, None),
                Err(error) => {
                    assert_eq!(reader.next().unwrap(), None, "ended after an error");
                    return (count, Some(error));
                }
            }
        }
    }

    #[test]
    fn a_file_cut_anywhere_has_ended_or_is_called_cut() {
        for file in [LITTLE, BIG] {
            for have in 0..=file.len() {
                match (have, read_all(&file[..have])) {
                    (24, (0, None)) | (54, (1, None)) | (71, (2, None)) => {}
                    (
                        _,
                        (records, Some(SavefileError::Truncated { offset, wanted, have: part })),
                    ) => {
                        assert_eq!(offset + u64::from(part), have as u64);
                        assert!(part < wanted);
                        assert_eq!(records, usize::from(have > 54));
                    }
                    (_, other) => panic!("{have}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn what_is_not_an_ethernet_capture_is_refused() {
        let error = |file: &[u8]| Reader::new(file).unwrap_err().to_string();
        assert_eq!(
            error(&hex!("0a0d0d0a 1c000000")),
            "this is a pcapng file; convert it with: editcap -F pcap FILE NEW-FILE"
        );
        assert_eq!(error(b"\x7fELF...."), "not a capture file: it starts with 7f454c46");
        assert_eq!(error(b"ab"), "the capture is cut short: 2 of 24 octets at offset 0");
        let mut file = LITTLE;
        file[20] = 113;
        assert_eq!(error(&file), "the capture has link type 113 where Ethernet is 1");
        let mut file = LITTLE;
        file[6] = 3;
        assert_eq!(error(&file), "capture format 2.3 is not 2.4");
        // The length of a check sequence in the upper bits does not matter.
        let mut file = LITTLE;
        file[23] = 0x24;
        assert_eq!(read_all(&file).0, 2);
    }

    #[test]
    fn absurd_lengths_are_refused_and_not_allocated() {
        for len in [262_145, 0x7fff_ffff, u32::MAX] {
            let mut file = LITTLE;
            file[32..36].copy_from_slice(&len.to_le_bytes());
            // No limit in the header is no licence.
            for snaplen in [0, 262_144, u32::MAX] {
                file[16..20].copy_from_slice(&snaplen.to_le_bytes());
                let mut reader = Reader::new(&file[..]).unwrap();
                assert_eq!(
                    reader.next().unwrap_err().to_string(),
                    format!(
                        "the record at offset 24 claims {len} octets where 262144 is the limit"
                    )
                );
                assert_eq!(reader.octets.capacity(), 0);
            }
        }
        let mut file = LITTLE;
        file[16..20].copy_from_slice(&13_u32.to_le_bytes());
        let (_, error) = read_all(&file);
        assert!(matches!(error, Some(SavefileError::TooLong { len: 14, limit: 13, .. })));
    }

    /// A file that fails after some octets, and gives them one by one.
    struct Failing<'a>(&'a [u8]);

    impl Read for Failing<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            match self.0.split_first() {
                Some((octet, rest)) => {
                    self.0 = rest;
                    out[0] = *octet;
                    Ok(1)
                }
                None => Err(io::Error::from(ErrorKind::ConnectionReset)),
            }
        }
    }

    #[test]
    fn an_input_that_fails_is_told_with_its_place() {
        let mut reader = Reader::new(Failing(&LITTLE[..60])).unwrap();
        reader.next().unwrap().unwrap();
        let error = reader.next().unwrap_err();
        assert_eq!(error.to_string(), "cannot read the capture at offset 60");
        assert!(matches!(Reader::new(Failing(&[])), Err(SavefileError::Io { offset: 0, .. })));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            frames in prop::collection::vec(
                (0..4_294_967_295_000_000_000_u64, prop::collection::vec(any::<u8>(), 0..200)),
                0..20,
            ),
            nanos in any::<bool>(),
        ) {
            let resolution = if nanos { Resolution::Nanos } else { Resolution::Micros };
            let mut writer = Writer::new(Vec::new(), resolution).unwrap();
            for (time, frame) in &frames {
                writer.write(*time, frame).unwrap();
            }
            let file = writer.into_inner();
            let mut reader = Reader::new(&file[..]).unwrap();
            for (time, frame) in &frames {
                let record = reader.next().unwrap().unwrap();
                let time = if nanos { *time } else { *time / 1_000 * 1_000 };
                prop_assert_eq!(record.unix_nanos, time);
                prop_assert_eq!(record.octets, &frame[..]);
                prop_assert!(!record.is_cut());
            }
            prop_assert!(reader.next().unwrap().is_none());
        }

        #[test]
        fn no_octets_make_the_reader_panic(
            tail in prop::collection::vec(any::<u8>(), 0..300),
            place in 0..71_usize,
            value in any::<u8>(),
        ) {
            read_all(&tail);
            let mut file = LITTLE.to_vec();
            file[place] = value;
            read_all(&file);
            file.truncate(24);
            file.extend(tail);
            read_all(&file);
        }
    }
}
