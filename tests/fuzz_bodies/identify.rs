//! Any octets as an IDENTIFY page or as the ranges of a TRIM.

use aoe_server::protocol::ata::{
    AtaText, IDENTIFY_LEN, IdentifyPage, Identity, LBA48_SECTORS, trim_ranges,
};
use aoe_server::units::Sectors;

/// Reads `octets` both ways, and checks that a page made of what was read says the same.
pub(crate) fn run(octets: &[u8]) {
    let ranges = trim_ranges(octets).count();
    assert!(ranges <= octets.len() / 8);
    let Some(page) = IdentifyPage::parse(octets) else {
        assert!(octets.len() < IDENTIFY_LEN);
        return;
    };
    for (index, word) in octets.chunks_exact(2).take(256).enumerate() {
        assert_eq!(page.word(index), u16::from(word[0]) | u16::from(word[1]) << 8);
    }
    assert_eq!((page.word(256), page.word(usize::MAX)), (0, 0));
    is_printable(&page.serial());
    is_printable(&page.firmware());
    is_printable(&page.model());
    let sums_to_zero = octets[..512].iter().fold(0_u8, |sum, octet| sum.wrapping_add(*octet)) == 0;
    assert_eq!(page.checksum_holds(), octets[510] != 0xa5 || sums_to_zero);

    let identity = Identity {
        serial: page.serial(),
        firmware: page.firmware(),
        model: page.model(),
        size: page.size(),
        write_cache: page.write_cache(),
        trim: page.trim(),
    };
    let mut emitted = [0xa5; IDENTIFY_LEN];
    identity.emit(&mut emitted);
    let again = IdentifyPage::parse(&emitted).expect("512 octets");
    assert_eq!(again.serial(), identity.serial);
    assert_eq!(again.firmware(), identity.firmware);
    assert_eq!(again.model(), identity.model);
    assert_eq!(again.size(), Sectors(identity.size.0.min(LBA48_SECTORS)));
    assert_eq!((again.write_cache(), again.trim()), (identity.write_cache, identity.trim));
    assert!(again.lba48() && again.checksum_holds());
}

fn is_printable<const N: usize>(text: &AtaText<N>) {
    let text = text.as_str();
    assert!(text.len() <= N && !text.ends_with(' '));
    assert!(text.bytes().all(|octet| matches!(octet, b' '..=b'~')), "{text:?}");
}
