//! Any octets as a capture: what can be read of one is read the same when it is written again.

use aoe_server::link::savefile::{MAX_RECORD, Reader, Resolution, Writer};

pub(crate) fn run(octets: &[u8]) {
    let Ok(mut reader) = Reader::new(octets) else { return };
    let resolution = reader.resolution();
    let mut written = Writer::new(Vec::new(), resolution).expect("memory takes everything");
    let mut frames = Vec::new();
    while let Ok(Some(record)) = reader.next() {
        assert!(record.octets.len() <= MAX_RECORD as usize, "a record of absurd length");
        let nanos = match resolution {
            Resolution::Micros => record.unix_nanos / 1_000 * 1_000,
            Resolution::Nanos => record.unix_nanos,
        };
        // Seconds have 32 bits in a file; what is later cannot be written.
        if u32::try_from(nanos / 1_000_000_000).is_ok() {
            written.write(nanos, record.octets).expect("memory takes everything");
            frames.push((nanos, record.octets.to_vec()));
        }
    }
    assert!(matches!(reader.next(), Ok(None)), "a reader goes on after its end");

    let copy = written.into_inner();
    let mut again = Reader::new(copy.as_slice()).expect("what was written can be read");
    for (nanos, frame) in frames {
        let record = again.next().expect("it is whole").expect("it has as many records");
        assert_eq!((record.unix_nanos, record.octets), (nanos, frame.as_slice()));
    }
    assert!(matches!(again.next(), Ok(None)), "it has more records");
}
