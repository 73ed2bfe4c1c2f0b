//! The contents of a page that has left RAM: on the wire, at the destination, or in both; shared and not copied, hashed once.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

/// Length of a zero page's record: the header's 8 bytes and the byte (QEMU: migration/ram.c save_zero_page()).
pub const ZERO_RECORD_BYTES: u64 = 9;
/// Length of a data page's record (QEMU: save_normal_page()).
pub const DATA_RECORD_BYTES: u64 = 4096 + 8;
/// Length of what precedes a difference: the header, a byte that says how it is encoded, and its length (QEMU: save_xbzrle_page()).
pub const DELTA_HEADER_BYTES: u64 = 8 + 1 + 2;

use crate::event::Pfn;
use crate::memory::GuestRam;
use wire::platform::PAGE_SIZE;

/// The bytes of a page.
pub type PageBytes = [u8; PAGE_SIZE as usize];

/// A page of zeros.
pub const ZERO_PAGE: PageBytes = [0; PAGE_SIZE as usize];

/// Contents of a page. Their hash is computed when it is first asked for.
#[derive(Clone)]
pub struct PageContents {
    bytes: PageBytes,
    hash: OnceLock<u128>,
}

impl PageContents {
    /// Returns contents of these bytes.
    pub fn new(bytes: &PageBytes) -> Self {
        Self { bytes: *bytes, hash: OnceLock::new() }
    }

    /// Returns contents of zeros.
    pub fn zeros() -> Self {
        Self { bytes: ZERO_PAGE, hash: OnceLock::new() }
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &PageBytes {
        &self.bytes
    }

    /// Takes the contents of a page of RAM.
    pub fn read(&mut self, pfn: Pfn, ram: &GuestRam) {
        self.hash = OnceLock::new();
        ram.read(pfn.address(), &mut self.bytes);
    }

    /// Returns the hash of the bytes: XXH3, 128 bits.
    pub fn digest(&self) -> u128 {
        *self.hash.get_or_init(|| xxhash_rust::xxh3::xxh3_128(&self.bytes))
    }
}

impl fmt::Debug for PageContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageContents({:02x?}..)", &self.bytes[..8])
    }
}

impl PartialEq for PageContents {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for PageContents {}

impl Hash for PageContents {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_follows_the_bytes() {
        let ram = GuestRam::new(2 * PAGE_SIZE);
        ram.write(2 * PAGE_SIZE - 1, &[1]);
        let mut contents = PageContents::zeros();
        let zeros = contents.digest();
        contents.read(Pfn(1), &ram);
        assert_ne!(contents.digest(), zeros);
        assert_eq!(contents.digest(), PageContents::new(&ram.page(Pfn(1))).digest());
        contents.read(Pfn(0), &ram);
        assert_eq!(contents.digest(), zeros);
    }
}
