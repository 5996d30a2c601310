//! Copying disks: sectors to a writer, a reader to sectors, in order on this side whatever the
//! order on the wire.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use super::{AtaCommand, Client, ClientError, Disk, IN_FLIGHT, Job, no_answer};
use crate::clock::Instant;
use crate::engine::initiator::{Ask, Initiator, Reply, RequestId, Unanswered};
use crate::protocol::{Command, FrameWriter};
use crate::units::{Lba, SECTOR_SIZE, Sectors};

/// Chunks kept for each request in flight, so that a frame that was lost stops the others only when
/// so many have overtaken it.
const CHUNKS_PER_REQUEST: usize = 4;
/// What one checksum covers, in octets.
const SEGMENT: usize = 1 << 20;

/// Which sectors of a disk to copy, and how.
#[derive(Debug, Clone, Copy)]
pub struct Range<'d> {
    /// The disk.
    pub disk: &'d Disk,
    /// The first sector.
    pub lba: Lba,
    /// How many.
    pub count: Sectors,
    /// How many requests to have in flight, if the target can hold them.
    pub depth: usize,
}

/// What was written, for [`Client::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// How many octets.
    pub octets: u64,
    /// The CRC32C of each MiB of it.
    sums: Vec<u32>,
}

impl Client {
    /// Copies sectors to `sink`, and calls `progress` with the octets done so far.
    ///
    /// # Errors
    /// [`ClientError`]; `sink` has then got a part, from the beginning on.
    pub fn read(
        &mut self,
        range: &Range<'_>,
        sink: &mut dyn Write,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ClientError> {
        range.disk.contains(range.lba, range.count)?;
        let mut pipeline = Pipeline::new(range, false);
        pipeline.limit = pipeline.chunks_of(range.count);
        pipeline.filled = pipeline.limit;
        self.begin(pipeline.window)?;
        let mut done = 0;
        while pipeline.retired < pipeline.limit {
            self.turn(&mut pipeline, None)?;
            pipeline.check()?;
            while let Some(octets) = pipeline.retire() {
                sink.write_all(octets)
                    .map_err(|source| ClientError::Io { doing: "write what was read", source })?;
                done += octets.len() as u64;
                progress(done);
            }
        }
        Ok(())
    }

    /// Copies all of `source` to the sectors of `range`, and calls `progress` with the octets done
    /// so far. A last incomplete sector keeps what it held behind the end of the data.
    ///
    /// All of it was acknowledged when this returns; whether that means durable is the target's to
    /// say.
    ///
    /// # Errors
    /// [`ClientError::SourceTooLong`] when `source` does not end where `range` does or before, or
    /// another [`ClientError`]; an unknown part was then written.
    pub fn write(
        &mut self,
        range: &Range<'_>,
        source: &mut dyn Read,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Written, ClientError> {
        range.disk.contains(range.lba, range.count)?;
        let mut pipeline = Pipeline::new(range, true);
        pipeline.limit = pipeline.chunks_of(range.count);
        self.begin(pipeline.window)?;
        let mut sums = Sums::default();
        let (mut done, mut tail) = (0, Vec::new());
        while pipeline.retired < pipeline.limit {
            while pipeline.has_room() {
                let (command, octets) = pipeline.next_chunk();
                let have = fill(source, octets)?;
                sums.add(octets.get(..have).unwrap_or_default());
                let ends = have < octets.len();
                let whole = have - have % SECTOR_SIZE;
                if ends {
                    tail.extend_from_slice(octets.get(whole..have).unwrap_or_default());
                }
                pipeline.add(command, whole);
                if ends {
                    pipeline.limit = pipeline.filled;
                }
            }
            if pipeline.retired < pipeline.limit {
                self.turn(&mut pipeline, None)?;
            }
            pipeline.check()?;
            while let Some(octets) = pipeline.retire() {
                done += octets.len() as u64;
                progress(done);
            }
        }
        if !tail.is_empty() {
            self.write_tail(range, Sectors::from_bytes(done), &tail)?;
            done += tail.len() as u64;
            progress(done);
        } else if range.count.bytes() == Some(done) && fill(source, &mut [0])? != 0 {
            let Range { disk, lba, count, .. } = *range;
            return Err(ClientError::SourceTooLong { address: disk.address, lba, count });
        }
        Ok(Written { octets: done, sums: sums.finish() })
    }

    /// Puts `tail` at the start of the sector `after` sectors into the range.
    fn write_tail(
        &mut self,
        range: &Range<'_>,
        after: Sectors,
        tail: &[u8],
    ) -> Result<(), ClientError> {
        let Range { disk, lba, count, .. } = *range;
        let beyond = ClientError::SourceTooLong { address: disk.address, lba, count };
        let Some(lba) = lba.checked_add(after) else { return Err(beyond) };
        let mut sector = [0; SECTOR_SIZE];
        let read = disk.command(false, lba, 1);
        self.ata(disk, &read, &[], SECTOR_SIZE, |data| {
            for (octet, held) in sector.iter_mut().zip(data) {
                *octet = *held;
            }
        })?;
        for (octet, new) in sector.iter_mut().zip(tail) {
            *octet = *new;
        }
        self.ata(disk, &disk.command(true, lba, 1), &sector, 0, |_| ())
    }

    /// Reads back what [`Self::write`] has written to `range`, and compares checksums.
    ///
    /// # Errors
    /// [`ClientError::Differs`] with the first MiB that differs, or another [`ClientError`].
    pub fn verify(
        &mut self,
        range: &Range<'_>,
        written: &Written,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ClientError> {
        let count = Sectors::from_bytes(written.octets.saturating_add(SECTOR_SIZE as u64 - 1));
        let mut sums = Limited { sums: Sums::default(), left: written.octets };
        self.read(&Range { count, ..*range }, &mut sums, progress)?;
        let found = sums.sums.finish();
        let same = found.iter().zip(&written.sums).take_while(|(found, sum)| found == sum).count();
        if same == written.sums.len() {
            return Ok(());
        }
        let before = Sectors::from_bytes(same as u64 * SEGMENT as u64);
        Err(ClientError::Differs {
            address: range.disk.address,
            lba: range.lba.checked_add(before).unwrap_or(range.lba),
            count: Sectors(count.0.saturating_sub(before.0))
                .min(Sectors::from_bytes(SEGMENT as u64)),
        })
    }
}

/// Reads until `octets` are full or `source` ends; tells how many there were.
fn fill(source: &mut dyn Read, octets: &mut [u8]) -> Result<usize, ClientError> {
    let mut have = 0;
    while let Some(rest) = octets.get_mut(have..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(ClientError::Io { doing: "read what is to be written", source });
            }
        }
    }
    Ok(have)
}

/// One request's part of a range.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    command: AtaCommand,
    /// Octets of it.
    len: usize,
    done: bool,
}

/// A ring of chunks: retired up to one, in flight or done up to the next, filled up to a third. All
/// three count from the start of the range.
struct Pipeline<'d> {
    range: Range<'d>,
    write: bool,
    window: usize,
    chunks: Vec<Option<Chunk>>,
    octets: Vec<u8>,
    /// Octets of a full chunk.
    stride: usize,
    retired: u64,
    submitted: u64,
    /// Chunks that may be submitted: for a write, those whose data is here.
    filled: u64,
    /// Chunks in all.
    limit: u64,
    /// Which chunk a request is for.
    chunk_of: [u64; IN_FLIGHT],
    error: Option<ClientError>,
}

impl<'d> Pipeline<'d> {
    fn new(range: &Range<'d>, write: bool) -> Self {
        let window = range.disk.window(range.depth);
        let places = window * CHUNKS_PER_REQUEST;
        let stride = usize::from(range.disk.sectors_per_frame) * SECTOR_SIZE;
        Self {
            range: *range,
            write,
            window,
            chunks: vec![None; places],
            octets: vec![0; places * stride],
            stride,
            retired: 0,
            submitted: 0,
            filled: 0,
            limit: 0,
            chunk_of: [0; IN_FLIGHT],
            error: None,
        }
    }

    /// Sectors of a full chunk.
    fn step(&self) -> u64 {
        u64::from(self.range.disk.sectors_per_frame)
    }

    /// How many chunks `count` sectors from the start of the range are. They start at multiples of
    /// a full chunk, so that what is aligned for the target stays so; only the first may not.
    fn chunks_of(&self, count: Sectors) -> u64 {
        match count.0 {
            0 => 0,
            count => (self.range.lba.0 % self.step() + count).div_ceil(self.step()),
        }
    }

    /// The command for a chunk.
    fn command(&self, number: u64) -> AtaCommand {
        let Range { disk, lba, count, .. } = self.range;
        // `Disk::contains` has seen that the end of the range is a valid address.
        let from = lba.0 - lba.0 % self.step() + number * self.step();
        let (start, end) = (from.max(lba.0), (from + self.step()).min(lba.0 + count.0));
        let sectors = u8::try_from(end.saturating_sub(start)).unwrap_or(u8::MAX);
        disk.command(self.write, Lba(start), sectors)
    }

    fn place(&self, number: u64) -> usize {
        usize::try_from(number % self.chunks.len() as u64).unwrap_or_default()
    }

    fn octets_of(&mut self, number: u64, len: usize) -> &mut [u8] {
        let at = self.place(number) * self.stride;
        self.octets.get_mut(at..at + len).unwrap_or_default()
    }

    /// Whether another chunk can be filled.
    fn has_room(&self) -> bool {
        self.filled < self.limit && self.filled - self.retired < self.chunks.len() as u64
    }

    /// The next chunk to be filled.
    fn next_chunk(&mut self) -> (AtaCommand, &mut [u8]) {
        let command = self.command(self.filled);
        let len = usize::from(command.fields.sector_count) * SECTOR_SIZE;
        (command, self.octets_of(self.filled, len))
    }

    /// Takes the next chunk, of which the first `len` octets, whole sectors, are filled.
    fn add(&mut self, command: AtaCommand, len: usize) {
        let Ok(count @ 1..) = u8::try_from(len / SECTOR_SIZE) else { return };
        let command = self.range.disk.command(true, command.lba, count);
        self.put(self.filled, command);
        self.filled += 1;
    }

    fn put(&mut self, number: u64, command: AtaCommand) {
        let len = usize::from(command.fields.sector_count) * SECTOR_SIZE;
        let place = self.place(number);
        if let Some(chunk) = self.chunks.get_mut(place) {
            *chunk = Some(Chunk { command, len, done: false });
        }
    }

    /// Frees the oldest chunk if it is done, and tells what it holds.
    fn retire(&mut self) -> Option<&[u8]> {
        let place = self.place(self.retired);
        let done = self.chunks.get_mut(place)?.take_if(|chunk| chunk.done)?;
        self.retired += 1;
        Some(self.octets_of(self.retired - 1, done.len))
    }

    fn check(&mut self) -> Result<(), ClientError> {
        self.error.take().map_or(Ok(()), Err)
    }

    /// The chunk a request is for.
    fn chunk(&self, id: RequestId) -> Option<(u64, Chunk)> {
        let number = *self.chunk_of.get(id.index())?;
        let chunk = *self.chunks.get(self.place(number))?;
        Some((number, chunk?))
    }
}

impl Job for Pipeline<'_> {
    fn refill(&mut self, initiator: &mut Initiator<IN_FLIGHT>, ask: Ask, now: Instant) {
        let ask = Ask {
            destination: self.range.disk.mac,
            address: self.range.disk.address,
            command: Command::ATA,
            ..ask
        };
        // A chunk that is read needs a free place; one that is written has it already.
        let end = self.filled.min(self.retired + self.chunks.len() as u64);
        while self.submitted < end {
            let Some(id) = initiator.submit(ask, now) else { return };
            if let Some(chunk) = self.chunk_of.get_mut(id.index()) {
                *chunk = self.submitted;
            }
            if !self.write {
                self.put(self.submitted, self.command(self.submitted));
            }
            self.submitted += 1;
        }
    }

    fn argument(&mut self, id: RequestId, writer: &mut FrameWriter<'_>) {
        let Some((number, chunk)) = self.chunk(id) else { return };
        writer.ata(&chunk.command.fields);
        if self.write {
            writer.octets(self.octets_of(number, chunk.len));
        }
    }

    fn reply(&mut self, reply: &Reply<'_>) {
        let Some((number, chunk)) = self.chunk(reply.id) else { return };
        let expected = if self.write { 0 } else { chunk.len };
        match chunk.command.check(reply, expected) {
            Ok(data) => {
                if !self.write {
                    self.octets_of(number, chunk.len).copy_from_slice(data);
                }
                let place = self.place(number);
                if let Some(Some(chunk)) = self.chunks.get_mut(place) {
                    chunk.done = true;
                }
            }
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
    }

    fn unanswered(&mut self, unanswered: &Unanswered) {
        self.error.get_or_insert_with(|| no_answer(unanswered));
    }
}

/// Checksums of a stream, one for each segment.
#[derive(Debug, Default)]
struct Sums {
    complete: Vec<u32>,
    sum: u32,
    have: usize,
}

impl Sums {
    fn add(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let (now, later) = octets.split_at(octets.len().min(SEGMENT - self.have));
            self.sum = crc32c::crc32c_append(self.sum, now);
            self.have += now.len();
            octets = later;
            if self.have == SEGMENT {
                self.complete.push(self.sum);
                (self.sum, self.have) = (0, 0);
            }
        }
    }

    fn finish(mut self) -> Vec<u32> {
        if self.have > 0 {
            self.complete.push(self.sum);
        }
        self.complete
    }
}

/// The checksums of the first octets of a stream.
struct Limited {
    sums: Sums,
    left: u64,
}

impl Write for Limited {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(octets.len());
        self.sums.add(octets.get(..take).unwrap_or_default());
        self.left -= take as u64;
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a file that has holes where the data is zero.
#[derive(Debug)]
pub struct SparseWriter {
    file: File,
    /// Zeros since the last octet that was written.
    zeros: u64,
}

impl SparseWriter {
    /// Writes to `file` from where it stands. It must hold nothing from there on: a hole is what is
    /// left out.
    pub const fn new(file: File) -> Self {
        Self { file, zeros: 0 }
    }

    /// Gives the file its full length, and back.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn finish(mut self) -> io::Result<File> {
        let end = self.file.stream_position()?.saturating_add(self.zeros);
        self.file.set_len(end)?;
        self.file.seek(SeekFrom::Start(end))?;
        Ok(self.file)
    }
}

impl Write for SparseWriter {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        // The block size of usual file systems; a smaller hole saves nothing.
        let (piece, _) = octets.split_at(octets.len().min(4096));
        if piece.iter().all(|octet| *octet == 0) {
            self.zeros += piece.len() as u64;
            return Ok(piece.len());
        }
        if self.zeros > 0 {
            let end = self.file.stream_position()?.saturating_add(self.zeros);
            self.file.seek(SeekFrom::Start(end))?;
            self.zeros = 0;
        }
        self.file.write(piece)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_copy_reads_as_the_original() {
        let mut data = vec![0_u8; 300_000];
        for at in [0, 4_095, 100_000, 250_000] {
            data[at] = 0xa5;
        }
        let mut copy = SparseWriter::new(tempfile::tempfile().unwrap());
        for piece in data.chunks(1_024) {
            copy.write_all(piece).unwrap();
        }
        let mut file = copy.finish().unwrap();
        let mut found = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut found).unwrap();
        assert!(found == data);
    }

    #[test]
    fn checksums_do_not_depend_on_how_the_stream_comes() {
        let data: Vec<u8> = (0..=250).cycle().take(SEGMENT * 2 + 77).collect();
        let mut at_once = Sums::default();
        at_once.add(&data);
        let mut in_pieces = Sums::default();
        data.chunks(1_000).for_each(|piece| in_pieces.add(piece));
        let sums = at_once.finish();
        assert_eq!(sums.len(), 3);
        assert_eq!(sums[0], crc32c::crc32c(&data[..SEGMENT]));
        assert_eq!(in_pieces.finish(), sums);
    }
}
